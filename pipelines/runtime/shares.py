"""Shares of rows, as warnings say them."""

WORTH_SAYING = 0.01
"""A smaller share of rows leads to no warning."""


def is_worth_saying(part: int, whole: int) -> bool:
    """True for more than WORTH_SAYING of the whole."""
    return part > WORTH_SAYING * whole


def share(part: int, whole: int) -> str:
    """ "12 of 40 (30.0 %)"."""
    return f"{part:,} of {whole:,} ({100 * part / max(whole, 1):.1f} %)"
