"""Rows of a study that no variant trains: simple rankers and ceilings, scored on the same day as the variants."""
