"""Semantic anchors, and what is made of their text."""
