"""Days as numbers, as tables and banks hold them, and as time keys.

A time key is an ISO string: a day ("2026-01-08"), or a moment of it ("2026-01-08T10:30:00"). Keys compare as strings.
"""

from datetime import date, timedelta

from models.artifacts.bank import NO_ANCHOR, anchor_date, day_number

__all__ = ["NO_ANCHOR", "day_after", "day_before", "day_name", "day_number", "day_of", "is_day"]


def is_day(text: str) -> bool:
    """True for an ISO date, YYYY-MM-DD; other spellings would not sort as days do."""
    try:
        return date.fromisoformat(text).isoformat() == text
    except ValueError:
        return False


def day_of(key: str) -> str:
    """The day of a time key. What is known by days, such as anchors, is known before a moment if its day is before."""
    return key[:10]


def day_after(day: str) -> str:
    """The next day; known before it is all that is known up to and including `day`."""
    return (date.fromisoformat(day) + timedelta(days=1)).isoformat()


def day_before(day: str) -> str:
    """The day before."""
    return (date.fromisoformat(day) - timedelta(days=1)).isoformat()


def day_name(number: int) -> str:
    """The ISO date of so many days since 1970."""
    day = anchor_date(number)
    return "no anchor" if day is None else day.isoformat()
