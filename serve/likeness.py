"""By what authors are compared: whitening, the lengths of whitened vectors, and for many authors an index.

Made once per version and node by a helper process (serve/prepare.py), and mapped from then on.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from models.artifacts.precision import as_read
from models.whitening import Whitening

EXACT_BELOW = 100_000
"""Rows below which every author is compared, which takes some 20 ms there; of more, an index finds some."""
PROBES = 128
"""Lists of the index that are read for a question."""

_BLOCK_ROWS = 65_536
_SAMPLES_PER_LIST = 39
_ITERATIONS = 6
_INDEX = "index.faiss"
_ARRAYS = ("mean", "axes", "lengths")

Floats = npt.NDArray[np.float32]
Rows = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Likeness:
    """Of one full bank. Cosines are of whitened vectors; an index finds rows, whose cosines are then computed."""

    whitening: Whitening
    """Fitted on all rows that have an anchor."""
    lengths: Floats
    """[N+1], of the whitened vectors."""
    index: Any = None
    """faiss index (inverted lists, 8 bits a number) of the rows that had an anchor; None where all are compared."""

    @classmethod
    def fit(cls, vectors: Floats, anchored: Flags) -> Likeness:
        """vectors [N+1, D], a view of the bank; anchored [N+1], which rows count. Reads the bank two or three times."""
        # Where no author has an anchor there is nothing to compare; one row then stands in for the missing fit.
        fitted = (b[anchored[p]] for p, b in _blocks(vectors)) if anchored.any() else [as_read(vectors[:1])]
        whitening = Whitening.fit(fitted)
        lengths = np.concatenate([np.linalg.norm(whitening(block), axis=1) for _, block in _blocks(vectors)])
        index = None if len(vectors) < EXACT_BELOW else _index(vectors, anchored, whitening)
        return cls(whitening=whitening, lengths=lengths, index=index)

    @classmethod
    def load(cls, folder: Path) -> Likeness:
        """What `save` wrote, mapped."""
        import faiss  # here and below: only the author cache needs it

        mean, axes, lengths = (np.load(folder / f"{name}.npy", mmap_mode="r") for name in _ARRAYS)
        index = None
        if (folder / _INDEX).exists():
            index = faiss.read_index(str(folder / _INDEX), faiss.IO_FLAG_MMAP_IFC)
        whitening = Whitening(mean=np.array(mean), axes=np.array(axes))
        return cls(whitening=whitening, lengths=lengths.view(np.ndarray), index=index)

    def save(self, folder: Path) -> list[str]:
        """Writes its files into an empty folder; returns their names."""
        import faiss

        arrays = {"mean": self.whitening.mean, "axes": self.whitening.axes, "lengths": self.lengths}
        for name, array in arrays.items():
            np.save(folder / f"{name}.npy", array, allow_pickle=False)
        if self.index is not None:
            faiss.write_index(self.index, str(folder / _INDEX))
        return [f"{name}.npy" for name in arrays] + ([] if self.index is None else [_INDEX])

    def found(self, direction: Floats, count: int) -> Rows:
        """Some `count` rows whose whitened vectors point most like `direction` [D]; wants an index."""
        import faiss

        # Of the thread that asks. Two would wait for each other, the longer the busier the machine.
        faiss.omp_set_num_threads(1)
        unit = direction / max(float(np.linalg.norm(direction)), 1e-12)
        _, rows = self.index.search(unit[None].astype(np.float32), count)
        found: Rows = rows[0][rows[0] >= 0].astype(np.int64)
        return found


def _blocks(vectors: Floats) -> Iterator[tuple[slice, Floats]]:
    for start in range(0, len(vectors), _BLOCK_ROWS):
        part = slice(start, start + _BLOCK_ROWS)
        yield part, as_read(vectors[part])


def _index(vectors: Floats, anchored: Flags, whitening: Whitening) -> Any:
    """Inverted lists of unit vectors, a byte for each number: inner products of these are cosines."""
    import faiss

    rows = np.flatnonzero(anchored)
    lists = 2 ** round(np.log2(2 * np.sqrt(max(len(rows), 1))))
    kind = faiss.ScalarQuantizer.QT_8bit
    index = faiss.IndexIVFScalarQuantizer(
        faiss.IndexFlatIP(vectors.shape[1]), vectors.shape[1], lists, kind, faiss.METRIC_INNER_PRODUCT, False
    )
    index.nprobe = PROBES
    index.cp.niter, index.cp.spherical = _ITERATIONS, True
    index.cp.max_points_per_centroid = index.cp.min_points_per_centroid = _SAMPLES_PER_LIST
    sample = np.sort(np.random.default_rng(0).choice(rows, min(len(rows), _SAMPLES_PER_LIST * lists), replace=False))
    index.train(_unit(whitening(as_read(vectors[sample]))))
    for part, block in _blocks(vectors):
        of_block = np.flatnonzero(anchored[part])
        index.add_with_ids(_unit(whitening(block[of_block])), of_block + part.start)
    return index


def _unit(vectors: Floats) -> Floats:
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit: Floats = np.divide(vectors, lengths, out=np.zeros_like(vectors), where=lengths > 0)
    return unit
