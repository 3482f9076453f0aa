"""Days as numbers, and the number of no day."""

from datetime import date

NO_ANCHOR = -1
"""Anchor day of an author without one."""


def day_number(day: str) -> int:
    """Days since 1970-01-01."""
    return date.fromisoformat(day).toordinal() - date(1970, 1, 1).toordinal()


def day_name(number: int) -> str:
    if number == NO_ANCHOR:
        return "no anchor"
    return date.fromordinal(int(number) + date(1970, 1, 1).toordinal()).isoformat()
