"""Sources of a ranker: one file per source."""
