"""What was on screen of lives, as the item tower reads it: r, the vector of a segment, and m, the mean of its author's.

m of a segment is over all embeddings of its author that are known by its end, its own among them, of the `mean_days`
days up to its own. So a row of `segment_embeddings` alone decides both, whoever asks: training, for the segments that
were on screen at clicks, and the job item_vectors, for all of them. Sums of float16 numbers are exact in float64, so
they have the same bits in whatever parts the rows come.
"""

from datetime import date, timedelta
from functools import partial
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from models.as_of import newest_segments
from pipelines.semantics import segment_vectors
from pipelines.semantics.segment_vectors import Space, Vectors
from pipelines.tables.columns import to_numpy
from pipelines.tables.days import day_before
from pipelines.tables.storage import Storage

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]


class OnScreen(NamedTuple):
    """Lives as of a moment each, [M]."""

    now: Floats
    """[M, E], r of the newest segment that was known; zeros where there was none."""
    mean: Floats
    """[M, E], m of it."""
    known: npt.NDArray[np.bool_]
    """[M], whether there was one."""

    def at(self, rows: Ints | slice) -> "OnScreen":
        """Some of them."""
        return OnScreen(self.now[rows], self.mean[rows], self.known[rows])


def window(day: str, mean_days: int) -> list[str]:
    """The days whose embeddings are in the means of a day's segments, oldest first."""
    last = date.fromisoformat(day)
    return [(last - timedelta(days=back)).isoformat() for back in reversed(range(mean_days))]


def read_days(day: str, mean_days: int) -> list[str]:
    """The days that are read to say what was on screen on `day`: a live that is on air may have begun the day before,
    and then its segments may be of that day."""
    return window(day, mean_days + 1)


def at_moments(
    storage: Storage,
    space: Space,
    day: str,
    live_id: Ints,
    ts_ms: Ints,
    *,
    mean_days: int,
    delay_ms: int = 0,
) -> OnScreen:
    """What was known of lives at moments of a day, [M]; rows that cannot be used are passed over.

    Memory: a part of the table, and 20 bytes a number of the segments that are newest for some moment. Each call reads
    the days of `read_days`.
    """
    shape = (len(live_id), space.width)
    found = OnScreen(np.zeros(shape, np.float32), np.zeros(shape, np.float32), np.zeros(len(live_id), bool))
    newest = [_newest_of(storage, space, of, live_id, ts_ms, delay_ms) for of in (day_before(day), day)]
    rows = to_numpy(pa.concat_tables([of.rows for of in newest]))
    picked = newest_segments(rows["live_id"], rows["end_ts_ms"], live_id, ts_ms, delay_ms=delay_ms)[:, 0]
    start = 0
    for of_day, vectors in zip((day_before(day), day), newest, strict=True):
        size = len(vectors.values)
        at = np.flatnonzero((picked >= start) & (picked < start + size))
        used, place = np.unique(picked[at] - start, return_inverse=True)
        if len(used):
            some = vectors.rows.take(used)
            found.now[at] = vectors.values[used][place]
            found.mean[at] = means(storage, space, of_day, some, mean_days)[place]
            found.known[at] = True
        start += size
    return found


def _newest_of(storage: Storage, space: Space, day: str, live_id: Ints, ts_ms: Ints, delay_ms: int) -> Vectors:
    """The usable rows of a day that, part by part, are the newest known of some live at some moment."""
    kept: list[Vectors] = []
    for part in segment_vectors.parts(storage, day, space) if storage.holds(space.table, day) else ():
        vectors = segment_vectors.read(storage, part, space)
        lives, ends = (vectors.rows[name].to_numpy() for name in ("live_id", "end_ts_ms"))
        picked = np.unique(newest_segments(lives, ends, live_id, ts_ms, delay_ms=delay_ms))
        picked = picked[picked >= 0]
        kept.append(Vectors(rows=vectors.rows.take(picked), values=vectors.values[picked], refused=[]))
    none = segment_vectors.none(space)
    return Vectors(
        rows=pa.concat_tables([none.rows, *(of.rows for of in kept)]),
        values=np.concatenate([none.values, *(of.values for of in kept)]),
        refused=[],
    )


def means(storage: Storage, space: Space, day: str, rows: pa.Table, mean_days: int) -> Floats:
    """m of usable rows [n] of a day, [n, E]. Memory: 12 bytes a number of the rows, and a part's of 20.

    Reads of each day the row groups that may hold these authors, and those are all unless files are sorted by author.
    """
    authors, ends = rows["author_id"].to_numpy(), rows["end_ts_ms"].to_numpy()
    sums, counts = np.zeros((len(authors), space.width)), np.zeros(len(authors), np.int64)
    if len(authors):
        among = (int(authors.min()), int(authors.max()))
        for of_day in filter(partial(storage.holds, space.table), window(day, mean_days)):
            for part in segment_vectors.parts(storage, of_day, space, among):
                _add(segment_vectors.read(storage, part, space), authors, ends, sums, counts)
    mean: Floats = (sums / np.maximum(counts, 1)[:, None]).astype(np.float32)
    return mean


def _add(vectors: Vectors, authors: Ints, ends: Ints, sums: npt.NDArray[np.float64], counts: Ints) -> None:
    """Adds to each row's sum and count what its author showed, of these vectors, until its end."""
    of_author, of_end = (vectors.rows[name].to_numpy() for name in ("author_id", "end_ts_ms"))
    if not len(of_author):
        return
    order = np.lexsort((of_end, of_author))
    so_far = np.zeros((len(order) + 1, vectors.values.shape[1]))
    np.cumsum(vectors.values[order], axis=0, dtype=np.float64, out=so_far[1:])
    first = np.searchsorted(of_author[order], authors, side="left")
    # One sortable number per (author, end): those of an author stand together, in the order of time.
    ids, author = np.unique(of_author[order], return_inverse=True)
    place = np.minimum(np.searchsorted(ids, authors), len(ids) - 1)
    least = min(int(of_end.min()), int(ends.min()))
    span = max(int(of_end.max()), int(ends.max())) - least + 1
    until = np.searchsorted(author * span + (of_end[order] - least), place * span + (ends - least), side="right")
    until = np.where(ids[place] == authors, until, first)
    sums += so_far[until] - so_far[first]
    counts += until - first
