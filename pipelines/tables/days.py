"""Days as numbers and as time keys.

A time key is an ISO string: a day ("2026-01-08"), or a moment of it ("2026-01-08T10:30:00"). Keys compare as strings.
"""

from datetime import date, timedelta

NO_ANCHOR = -1
"""Anchor day of an author without one."""


def day_of(key: str) -> str:
    """The day of a time key. What is known by days, such as anchors, is known before a moment if its day is before."""
    return key[:10]


def day_after(day: str) -> str:
    """The next day; known before it is all that is known up to and including `day`."""
    return (date.fromisoformat(day) + timedelta(days=1)).isoformat()


def day_number(day: str) -> int:
    """Days since 1970-01-01."""
    return date.fromisoformat(day).toordinal() - date(1970, 1, 1).toordinal()


def day_name(number: int) -> str:
    """The day of a number; "no anchor" for NO_ANCHOR."""
    if number == NO_ANCHOR:
        return "no anchor"
    return date.fromordinal(int(number) + date(1970, 1, 1).toordinal()).isoformat()
