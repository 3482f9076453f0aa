"""Retrieval (LARM): two towers, the vectors of lives that they make, and the index that is searched."""
