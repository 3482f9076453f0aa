"""Every segment as the vector of its live in retrieval: the author's id and what is on screen, fused (LARM eq. 1).

Reads segment_embeddings by the published towers, writes `item_vectors`, day by day: days are due whose embeddings,
or those of the days that are averaged with them, have changed, and all of them after the towers have. On a shared
cluster parts of days are Ray tasks. Memory: 600 MiB in each.
Run: python -m pipelines item_vectors --config my.yaml
"""

import logging
import time
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch

from models.artifacts.towers import Towers
from models.larm.two_tower import Lives
from pipelines.retrieval import on_screen
from pipelines.retrieval.towers_plan import KIND
from pipelines.runtime.cluster import connected, is_shared
from pipelines.runtime.each import each
from pipelines.runtime.run import Run
from pipelines.semantics import segment_vectors
from pipelines.semantics.codes import CODEBOOKS
from pipelines.semantics.segment_vectors import Part, Space, Vectors
from pipelines.tables import contract, rejections
from pipelines.tables.artifacts import Artifacts
from pipelines.tables.due import due_days
from pipelines.tables.storage import Storage

if TYPE_CHECKING:
    from pipelines.tables.listing import Listing

log = logging.getLogger(__name__)
TABLE = "item_vectors"
_FUSED_TOGETHER = 8192
_KINDS = (KIND, *(f"{KIND}+{table}" for table in CODEBOOKS))


@dataclass(frozen=True, kw_only=True, slots=True)
class ItemVectorsConfig:
    """Whose vectors are written."""

    towers: str = KIND
    """Which published towers: `towers`, or `towers+item_codes` and the like, of which the users' histories have codes.
    Item codes are made of vectors of `towers` alone."""

    def __post_init__(self) -> None:
        if self.towers not in _KINDS:
            raise ValueError(f"towers: wanted one of {', '.join(_KINDS)}, got {self.towers!r}")


def run(config: ItemVectorsConfig, run: Run) -> dict[str, Any]:
    """Writes the vectors of every day that has none of the published towers."""
    storage = run.storage
    folder, manifest = Artifacts(storage).verified(config.towers)
    towers = Towers.load(folder)
    listing = storage.listing(segment_vectors.TABLE)
    made_from = {day: _made_from(listing, day, manifest.run_id, towers.mean_days) for day in listing.days}
    with connected(run.cluster) if is_shared(run.cluster) else nullcontext():
        figures = {day: _write(run, day, towers, made_from[day]) for day in due_days(storage, TABLE, made_from)}
    return {"towers": manifest.run_id, "days_done": len(figures), "days": figures}


def _made_from(listing: "Listing", day: str, run_id: str, mean_days: int) -> dict[str, str]:
    read = {of: listing.stamp(of) for of in on_screen.window(day, mean_days)}
    return {"towers": run_id} | {f"{segment_vectors.TABLE}/{of}": stamp for of, stamp in read.items() if stamp}


def _write(run: Run, day: str, towers: Towers, made_from: Mapping[str, str]) -> dict[str, Any]:
    """A day's vectors and rejections; its figures."""
    storage, started = run.storage, time.perf_counter()
    space = Space(model=towers.embeddings, width=towers.model.facts.embedding_dim)
    refused: list[dict[str, Any]] = []
    gates: list[npt.NDArray[np.float32]] = []

    def tables() -> Iterator[pa.Table]:
        parts = segment_vectors.parts(storage, day, space)
        for rows, vectors, gate, bad in each(fused, parts, storage.url, space, towers, tasks=is_shared(run.cluster)):
            refused.extend(bad)
            gates.append(gate)
            if rows.num_rows:
                yield _table(rows, vectors, made_from["towers"])
        # Before the day is committed: a run that dies in between does the day again.
        rejections.replace(storage, day, TABLE, refused)

    storage.write(TABLE, day, tables(), made_from)
    known = np.concatenate([np.zeros(0, np.float32), *gates])
    took = time.perf_counter() - started
    log.info("item_vectors | %s | %d segments, %d refused | %.1f s", day, len(known), len(refused), took)
    if refused:
        log.warning("item_vectors | %s | %d row(s) cannot be used, first: %s", day, len(refused), refused[0]["detail"])
    gate = float(known.mean(dtype=np.float64)) if len(known) else None
    return {"segments": len(known), "refused": len(refused), "gate": gate}


def fused(
    part: Part, url: str, space: Space, towers: Towers
) -> tuple[pa.Table, npt.NDArray[np.float16], npt.NDArray[np.float32], list[dict[str, Any]]]:
    """A part's rows, their vectors [n, D] and gates [n], and refused rows."""
    storage = Storage.open(url)
    found = segment_vectors.read(storage, part, space)
    mean = on_screen.means(storage, space, part.day, found.rows, towers.mean_days)
    return found.rows, *fuse(towers, found, mean), found.refused


@torch.no_grad()
def fuse(
    towers: Towers, found: Vectors, mean: npt.NDArray[np.float32]
) -> tuple[npt.NDArray[np.float16], npt.NDArray[np.float32]]:
    """F of segments [n, D], and the weight of the content in each, [n]; `mean` [n, E] is m of them."""
    author = towers.catalog.author_rows(found.rows["author_id"].to_numpy())
    vectors = np.zeros((len(author), towers.model.config.dim), np.float16)
    gates = np.zeros(len(author), np.float32)
    for start in range(0, len(author), _FUSED_TOGETHER):
        rows = slice(start, start + _FUSED_TOGETHER)
        of, gate = towers.model.lives(
            Lives(
                author=torch.from_numpy(author[rows]),
                now=torch.from_numpy(found.values[rows]),
                mean=torch.from_numpy(mean[rows]),
                known=torch.ones(len(author[rows]), dtype=torch.bool),
            )
        )
        vectors[rows], gates[rows] = of.half().numpy(), gate.numpy()
    return vectors, gates


def _table(rows: pa.Table, vectors: npt.NDArray[np.float16], run_id: str) -> pa.Table:
    ends = np.arange(len(vectors) + 1, dtype=np.int32) * vectors.shape[1]
    lists = pa.ListArray.from_arrays(pa.array(ends), pa.array(vectors.reshape(-1)))
    columns = [*rows.columns, lists, pa.array([run_id] * len(vectors), pa.string())]
    return pa.table(columns, schema=contract.spec(TABLE).schema)
