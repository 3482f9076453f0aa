"""The control of the demo's anchors: what is read from pixels alone must be wrong once an author has another's frames.

A derived store beside the demo's own holds some authors of the newest day, each with the frames of the next one in a
seeded order; speech, comments and profile stay their own. The ordinary job `anchors` writes its anchors.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pads

from pipelines.runtime.run import Run
from pipelines.semantics import anchors, author_day
from pipelines.semantics.anchors import AnchorsConfig
from pipelines.tables import contract
from pipelines.tables.storage import Storage

FOLDER = "swapped"
"""Of the run's folder: where the job's own report of the control goes."""


def store_of(storage: Storage) -> Storage:
    """The derived store of a storage, whether it is made yet or not."""
    return Storage.open(f"{storage.url}-{FOLDER}")


def run(config: AnchorsConfig, run: Run, count: int) -> None:
    """Makes the derived store with `count` authors and writes its anchors; both leave alone what is current."""
    derived = store_of(run.storage)
    derive(run.storage, derived, run.seed, count)
    anchors.run(replace(config, days=()), replace(run, folder=run.folder / FOLDER, storage=derived))


def derive(storage: Storage, derived: Storage, seed: int, count: int) -> str:
    """Writes the newest day of segments with frames swapped, adopts the authors, and returns the day."""
    day = storage.days("segments")[-1]
    made_from = {"segments": storage.fingerprint("segments", day), "seed": str(seed), "count": str(count)}
    if not derived.is_current("segments", day, made_from):
        other = swaps(storage, day, seed, count)
        derived.write("segments", day, [_swapped(storage, day, other)], made_from)
    for authors_day in storage.days("authors"):
        derived.adopt("authors", authors_day, storage)
    return day


def swaps(storage: Storage, day: str, seed: int, count: int) -> dict[int, int]:
    """At most `count` authors of the day, drawn by the seed, and whose frames each of them gets."""
    authors = sorted(pc.unique(storage.read("segments", day, ["author_id"])["author_id"]).to_pylist())
    chosen = [authors[i] for i in np.random.default_rng([seed, 8]).permutation(len(authors))[:count]]
    return dict(zip(chosen, [*chosen[1:], *chosen[:1]], strict=True))


def _swapped(storage: Storage, day: str, other: Mapping[int, int]) -> pa.Table:
    """The rows of those authors with the frames of the others."""
    rows = storage.read("segments", day, where=pads.field("author_id").isin(pa.array(other, pa.int64())))
    by_author = dict(author_day.group(rows))
    swapped = [row for author in sorted(other) for row in _with_frames(by_author[author], by_author[other[author]])]
    return pa.Table.from_pylist(swapped, schema=contract.spec("segments").schema)


def _with_frames(own: Sequence[dict[str, Any]], other: Sequence[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Rows in time order with the frames of another author's rows, which begin anew where they are fewer."""
    for index, row in enumerate(own):
        yield row | {"frames": other[index % len(other)]["frames"]}
