"""A codebook of a corpus that is larger than memory: k-means of a sample, then Lloyd's rounds over every row.

The sample settles where the centroids are, at a cost that does not grow with the corpus; a few rounds over all of it
take out what the sample left to chance. A round is a sum over parts, so each part is a task, and nothing is shuffled.
"""

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from operator import add
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from pipelines.runtime.each import each
from pipelines.semantics import segment_vectors
from pipelines.semantics.segment_vectors import Part, Space
from pipelines.tables.contract import ContractError
from pipelines.tables.storage import Storage

if TYPE_CHECKING:
    from models.kmeans import Moments
    from models.quantize import ResidualQuantizer

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class Fitting:
    """How a codebook is fitted."""

    clusters: tuple[int, ...]
    """K of each level."""
    sample: int
    """Most vectors of the sample."""
    iterations: int
    """Most rounds over the sample, a level."""
    rounds: int
    """Rounds over the corpus, a level."""
    seed: int
    tasks: bool
    """Parts of the corpus are Ray tasks."""


def fit(url: str, days: Sequence[str], space: Space, how: Fitting) -> "tuple[ResidualQuantizer, dict[str, Any]]":
    """The quantiser of all usable rows of `days`, and figures: vectors, sample, rounds and seconds.

    Memory: 32 bytes a number of the sample. Raises ContractError for fewer usable rows than clusters of a level.
    """
    import torch

    from models.quantize import ResidualConfig, ResidualQuantizer

    started, storage = time.perf_counter(), Storage.open(url)
    parts = [part for day in days for part in segment_vectors.parts(storage, day, space)]
    sample = _sample(url, parts, space, how)
    if len(sample) < max(how.clusters):
        raise ContractError(
            f"table {space.table}, {len(days)} day(s): wanted at least {max(how.clusters):,} usable rows, one per "
            f"cluster, got {len(sample):,}; make codes.clusters smaller, or codes.sample larger, or bring more days"
        )

    def corpus(fitted: ResidualQuantizer) -> "Moments":
        moments = reduce(add, each(_moments, parts, url, space, fitted, tasks=how.tasks))
        vectors = int(moments.counts.sum())
        log.info(
            "codes | fit | level %d of %d | %d vectors | mse %.6g", len(fitted.clusters), len(how.clusters), vectors,
            moments.error / vectors,
        )  # fmt: skip
        return moments

    config = ResidualConfig(clusters=how.clusters, iterations=how.iterations, seed=how.seed)
    quantizer = ResidualQuantizer.fit(torch.from_numpy(sample), config, how.rounds, corpus)
    took = time.perf_counter() - started
    figures = {"vectors": int(quantizer.counts[0].sum()), "sample": len(sample), "rounds": how.rounds}
    return quantizer, figures | {"seconds": round(took, 1)}


def _sample(url: str, parts: Sequence[Part], space: Space, how: Fitting) -> npt.NDArray[np.float32]:
    """Of each part its share of the sample, drawn without replacement."""
    ends = np.cumsum([0, *(part.rows for part in parts)])
    upto = ends * min(how.sample, ends[-1]) // max(ends[-1], 1)
    drawn = [(part, int(size), number) for number, (part, size) in enumerate(zip(parts, np.diff(upto), strict=True))]
    found = each(_drawn, drawn, url, space, how.seed, tasks=how.tasks)
    return np.concatenate([np.zeros((0, space.width), np.float32), *found])


def _drawn(item: tuple[Part, int, int], url: str, space: Space, seed: int) -> npt.NDArray[np.float32]:
    part, size, number = item
    values = segment_vectors.read(Storage.open(url), part, space).values
    if size >= len(values):
        return values
    return values[np.sort(np.random.default_rng([seed, number]).permutation(len(values))[:size])]


def _moments(part: Part, url: str, space: Space, fitted: "ResidualQuantizer") -> "Moments":
    import torch

    return fitted.moments(torch.from_numpy(segment_vectors.read(Storage.open(url), part, space).values))
