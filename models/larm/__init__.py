"""LARM: what is on screen now, aligned with who is on air (arXiv 2504.05217), one file per block of the paper."""
