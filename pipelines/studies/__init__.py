"""Tables of the papers: variants x seeds."""
