"""What published rankers have learnt."""
