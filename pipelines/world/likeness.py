"""How like a real platform a simulated one is: figures of a world's tables, beside those that were published.

Prints a table of one column a world. Run: python -m pipelines.world.likeness STORAGE_ROOT [STORAGE_ROOT ...]
"""

import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from models.metrics import auc, gauc
from pipelines.tables import newest
from pipelines.tables.contract import TASKS_COLUMNS, ContractError
from pipelines.tables.storage import Storage

IMMEDIATELY_MS = 10_000
"""A gift so soon after entering counts as immediate."""
PUBLISHED = {
    "clicks, % of exposures": "28",
    "gifts, % of clicks": "1.4 to 1.9",
    "gifts within 10 s of entering, %": "86.3 (immediately)",
}
"""KuaiLive (SIGIR 2026, arXiv 2508.05633): what is known of the same figures."""


def likeness(storage: Storage) -> dict[str, float]:
    """Figures of a world that was made at `storage`, by name. Raises ContractError where nobody was watched."""
    days = storage.days("impressions")
    if not days:
        raise ContractError("table impressions: wanted at least one day, got none; run the job world first")
    names = ["user_id", "author_id", "ts_ms", *TASKS_COLUMNS, "watch_time_s"]
    seen = _columns(storage.read_days("impressions", days, names))
    authors = newest.read(storage, "authors", until=days[-1]).num_rows
    joined = [storage.read("users", day).num_rows for day in storage.days("users")[1:]]
    return {
        "exposures a day": len(seen["click"]) / len(days),
        **_rates(seen),
        **_popularity(seen, authors),
        **_repeats(seen),
        "clicks followed by an exposure before leaving, %": 100 * _interrupted(seen),
        "gifts within 10 s of entering, %": 100 * _immediate_gifts(storage, days),
        "new users a later day": float(np.mean(joined)) if joined else 0.0,
        **_oracle(storage, days[-1]),
    }


def as_table(worlds: Mapping[str, Mapping[str, float]]) -> str:
    """The figures of several worlds in Markdown, with the published ones in the last column."""
    rows = ["| | " + " | ".join(worlds) + " | KuaiLive |", "|---|" + "---:|" * (len(worlds) + 1)]
    for name in next(iter(worlds.values())):
        cells = [_shown(figures[name]) for figures in worlds.values()]
        rows.append(f"| {name} | {' | '.join(cells)} | {PUBLISHED.get(name, '')} |")
    return "\n".join(rows)


def _shown(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}" if value < 100 else f"{value:.0f}"


def _columns(table: pa.Table) -> dict[str, NDArray[Any]]:
    return {name: table[name].to_numpy() for name in table.column_names}


def _rates(seen: Mapping[str, NDArray[Any]]) -> dict[str, float]:
    click = seen["click"] > 0
    watch = seen["watch_time_s"].astype(np.float64)
    inside = watch[click]
    givers = np.sort(np.unique(_pairs(seen)[seen["gift"] > 0], return_counts=True)[1])[::-1]
    return {
        "clicks, % of exposures": 100 * float(click.mean()),
        "long views, % of exposures": 100 * float(seen["long_view"].mean()),
        "follows, % of exposures": 100 * float(seen["follow"].mean()),
        "gifts, % of clicks": 100 * float(seen["gift"].sum() / click.sum()),
        "gifts of the tenth of giving pairs that gives most, %": 100 * float(_top(givers, 0.1, len(givers))),
        "seconds watched, mean of exposures": float(watch.mean()),
        **{f"seconds watched, {q} % of clicks stay less": float(np.quantile(inside, q / 100)) for q in (50, 90, 99)},
    }


def _top(sorted_counts: NDArray[np.int64], share: float, among: int) -> float:
    """Share of the largest `share` of `among` holders; `sorted_counts` is descending."""
    return float(sorted_counts[: max(1, round(share * among))].sum() / max(sorted_counts.sum(), 1))


def _popularity(seen: Mapping[str, NDArray[Any]], num_authors: int) -> dict[str, float]:
    counts = np.sort(np.unique(seen["author_id"], return_counts=True)[1])
    everyone = np.concatenate([np.zeros(num_authors - len(counts), np.int64), counts])
    ranks = np.arange(1, num_authors + 1)
    gini = float((2 * ranks - num_authors - 1) @ everyone / (num_authors * everyone.sum()))
    return {
        "exposures of the top 1 % of authors, %": 100 * _top(everyone[::-1], 0.01, num_authors),
        "Gini index of exposures over authors": gini,
        "authors ever shown, %": 100 * len(counts) / num_authors,
    }


def _pairs(seen: Mapping[str, NDArray[Any]]) -> NDArray[np.int64]:
    """A number for each exposure's user and author, [n]."""
    users, authors = (np.unique(seen[name], return_inverse=True)[1] for name in ("user_id", "author_id"))
    pairs: NDArray[np.int64] = users * (int(authors.max()) + 1) + authors
    return pairs


def _repeats(seen: Mapping[str, NDArray[Any]]) -> dict[str, float]:
    counts = np.unique(_pairs(seen), return_counts=True)[1]
    return {
        "user-author pairs that meet again, %": 100 * float((counts > 1).mean()),
        "exposures of such pairs, %": 100 * float(counts[counts > 1].sum() / counts.sum()),
    }


def _interrupted(seen: Mapping[str, NDArray[Any]]) -> float:
    """Share of clicks after which the user saw another live before the time in the room was over."""
    order = np.lexsort((seen["ts_ms"], seen["user_id"]))
    user, ts_ms, click = (seen[name][order] for name in ("user_id", "ts_ms", "click"))
    leaves = ts_ms + 1000 * seen["watch_time_s"][order].astype(np.float64)
    early = (user[1:] == user[:-1]) & (ts_ms[1:] < leaves[:-1]) & (click[:-1] > 0)
    return float(early.sum() / max((click > 0).sum(), 1))


def _immediate_gifts(storage: Storage, days: Sequence[str]) -> float:
    """From the raw behaviour: the entry before each gift of the same user to the same live."""
    soon = given = 0
    for day in days:
        events = storage.read("events", day, ["user_id", "live_id", "ts_ms", "kind"])
        kind = events["kind"].to_numpy(zero_copy_only=False)
        keep = np.isin(kind, ["click", "gift"])
        user, live, ts_ms = (events[name].to_numpy()[keep] for name in ("user_id", "live_id", "ts_ms"))
        gift = kind[keep] == "gift"
        order = np.lexsort((gift, ts_ms, live, user))
        gift, ts_ms = gift[order], ts_ms[order]
        entered = np.maximum.accumulate(np.where(gift, -1, np.arange(len(gift))))
        after = ts_ms[gift] - ts_ms[entered[gift]]
        soon, given = soon + int((after <= IMMEDIATELY_MS).sum()), given + len(after)
    return soon / max(given, 1)


def _oracle(storage: Storage, day: str) -> dict[str, float]:
    """AUC and GAUC of the true probabilities on a day: what no ranker can be expected to exceed."""
    seen = storage.read("impressions", day).sort_by("impression_id")
    truth = storage.with_oracle().read("oracle_impressions", day).sort_by("impression_id")
    figures = {}
    for task in TASKS_COLUMNS:
        labels, chance = seen[task].to_numpy(), truth[task].to_numpy()
        figures[f"oracle's AUC, {task}"] = 100 * auc(labels, chance)
        figures[f"oracle's GAUC, {task}"] = 100 * gauc(labels, chance, seen["user_id"].to_numpy())
    return figures


if __name__ == "__main__":
    print(as_table({root: likeness(Storage.open(root)) for root in sys.argv[1:]}))  # noqa: T201
