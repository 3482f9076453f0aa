"""How often written anchors say the truth: per field, the share of author-days whose set of phrases is exactly right.

Only a simulated platform knows the truth, so this reads the oracle's table; nothing that trains may use it.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pipelines.tables.contract import FIELDS

Anchors = Mapping[Any, Mapping[str, Sequence[str]]]


def agreement(written: Anchors, truth: Anchors, keys: Iterable[Any] | None = None) -> dict[str, float]:
    """Exact-set agreement of each field over `keys` (default: all of `truth`); a missing anchor counts as wrong.

    Raises ValueError where there is nothing to compare.
    """
    chosen = list(truth if keys is None else keys)
    if not chosen:
        raise ValueError("agreement: wanted at least one author-day with a known truth, got none")
    return {
        field: sum(key in written and set(written[key][field]) == set(truth[key][field]) for key in chosen)
        / len(chosen)
        for field in FIELDS
    }


def by_author(rows: Iterable[Mapping[str, Any]]) -> dict[int, Mapping[str, Sequence[str]]]:
    """Rows of `anchors` or `oracle_anchors` of one day, by author."""
    return {row["author_id"]: row for row in rows}
