"""What looks wrong between tables that are each in order: counts, and what to do, in one line each.

Nothing here is an error: a platform has new authors and unknown users, and a task may have no label yet.
"""

from collections import Counter
from collections.abc import Iterator

import numpy as np
import pyarrow.compute as pc
from numpy.typing import NDArray

from models.artifacts.manifest import ArtifactError
from pipelines.runtime.shares import is_worth_saying, share
from pipelines.samples.empty_histories import EmptyHistories
from pipelines.samples.examples import read_clicks
from pipelines.semantics import vocabulary
from pipelines.semantics.vocabulary import Counted
from pipelines.tables.artifacts import Artifacts
from pipelines.tables.storage import Storage

Ints = NDArray[np.int64]
_KEYS = {"users": "user_id", "authors": "author_id"}
_NEVER = "9999-12-31"


def warnings(storage: Storage) -> list[str]:
    """All that the tables, and the tokenizer where there is one, give reason to say."""
    days = storage.days("impressions")
    found = list(_impressions(storage, days)) if days else []
    found += [f"table examples: {warning}" for warning in _histories(storage)]
    return found + [f"artifact tokenizer: {warning}" for warning in _tokenizer(storage)]


def _impressions(storage: Storage, days: list[str]) -> Iterator[str]:
    """One pass over the impressions, a day at a time."""
    known = {name: _ids(storage, name, key) for name, key in _KEYS.items()}
    anchored, first_day = _first_anchors(storage)
    rows, early = 0, 0
    unknown: dict[str, Counter[int]] = {name: Counter() for name in known}
    ones: Counter[str] = Counter()
    labelled: Counter[str] = Counter()
    for day in days:
        labels = storage.labels("impressions", day)
        table = storage.read("impressions", day, ["user_id", "author_id", *labels])
        rows += table.num_rows
        for name, ids in known.items():
            named = table[_KEYS[name]].to_numpy()
            unknown[name].update(named[~np.isin(named, ids)].tolist())
        early += table.num_rows - int((_days_of(table["author_id"].to_numpy(), anchored, first_day) < day).sum())
        for label in labels:
            labelled[label] += table.num_rows
            ones[label] += pc.sum(table[label]).as_py() or 0
    for name, strangers in unknown.items():
        if is_worth_saying(strangers.total(), rows):
            yield (
                f"table impressions: {share(strangers.total(), rows)} name {len(strangers):,} {name} that the table "
                f"{name} does not hold, for example {min(strangers)}; add them to it, or they all rank as one unknown"
            )
    if is_worth_saying(early, rows):
        yield (
            f"table anchors: {share(early, rows)} impressions are of an author without an anchor of a day before; "
            "write its anchor on the day before its first impression, or SARM knows nothing of it"
        )
    for label, total in labelled.items():
        if ones[label] in (0, total):
            yield (
                f"table impressions: the label {label} is {min(ones[label], 1)} in all {total:,} rows, so that nothing "
                "is learnt from it and its AUC is undefined; bring the other kind of rows, or leave it out of the tasks"
            )
    if len(days) == 1:
        yield (
            f"table impressions: one day only, {days[0]}; training leaves out the newest one to measure on it; bring "
            "at least two"
        )


def _ids(storage: Storage, name: str, key: str) -> Ints:
    """Everyone that the days of a table name."""
    ids: Ints = np.unique(storage.read_days(name, storage.days(name), [key])[key].to_numpy())
    return ids


def _first_anchors(storage: Storage) -> tuple[Ints, NDArray[np.str_]]:
    """Authors with an anchor, sorted, and the first day of each."""
    authors, days = [np.zeros(0, np.int64)], [np.zeros(0, "U10")]
    for day in storage.days("anchors"):
        authors.append(storage.read("anchors", day, ["author_id"])["author_id"].to_numpy())
        days.append(np.full(len(authors[-1]), day))
    ids, first = np.unique(np.concatenate(authors), return_index=True)  # the first one: days come in order
    return ids, np.concatenate(days)[first]


def _days_of(author_id: Ints, anchored: Ints, first_day: NDArray[np.str_]) -> NDArray[np.str_]:
    """[n] the day of each author's first anchor."""
    if not len(anchored):
        return np.full(len(author_id), _NEVER)
    at = np.minimum(np.searchsorted(anchored, author_id), len(anchored) - 1)
    return np.where(anchored[at] == author_id, first_day[at], _NEVER)


def _histories(storage: Storage) -> list[str]:
    """Of the examples that the job examples made, if it has run."""
    empty, shown = EmptyHistories(), set(storage.days("impressions"))
    for day in storage.days("examples"):
        if day in shown:
            clicks = read_clicks(storage, [day])
            empty.clicked(clicks.user_ids[clicks.user], clicks.ts_ms)
        empty.count(storage.read("examples", day, ["user_id", "ts_ms", "history_author_ids"]))
    return empty.warnings()


def _tokenizer(storage: Storage) -> list[str]:
    """Of the corpus that the published tokenizer has counted, if there is one."""
    from models.sarm.live_tokenizer.tokenizer import LiveStreamingTokenizer

    artifacts = Artifacts(storage)
    if not artifacts.current(vocabulary.KIND):
        return []
    try:
        folder = artifacts.fetch(vocabulary.KIND)
        return vocabulary.warnings(LiveStreamingTokenizer.load(folder), Counted.load(folder))
    except (ArtifactError, KeyError, ValueError) as error:
        return [f"it cannot be read ({error}); the job vocabulary makes it again"]
