"""Reports: one layout, one way to write numbers and to draw."""
