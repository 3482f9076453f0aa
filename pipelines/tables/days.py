"""Days as numbers, and the number of no day, as tables and banks hold them."""

from models.artifacts.bank import NO_ANCHOR, anchor_date, day_number

__all__ = ["NO_ANCHOR", "day_name", "day_number"]


def day_name(number: int) -> str:
    """The ISO date of so many days since 1970."""
    day = anchor_date(number)
    return "no anchor" if day is None else day.isoformat()
