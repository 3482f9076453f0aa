"""What retrieval reads: an index of lives and the towers that made its vectors, which are of one version."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from models.artifacts.live_index import Floats, Ints, LiveIndex, Nearest
from models.artifacts.manifest import ArtifactError
from models.artifacts.store import ArtifactStore
from models.artifacts.towers import Towers
from models.batch import RankingBatch
from models.larm.two_tower import Viewers

log = logging.getLogger(__name__)
KIND, TOWERS = "live_index", "towers"


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class LiveSearch:
    """One index and its towers, immutable: what a request reads."""

    version: str
    """Run id of the index."""
    towers_version: str
    """Run id of the towers, as the index names it."""
    index: LiveIndex
    towers: Towers
    cells: CellSearch | None = None
    """Of an index that is not searched exactly."""

    def nearest(self, user: Floats, k: int, ts_ms: int, ended: Ints | None = None) -> Nearest:
        """See LiveIndex.nearest; with cells nearly all of them are found."""
        return (self.cells or self.index).nearest(user, k, ts_ms, ended)

    def user_vector(self, rows: RankingBatch) -> Floats:
        """The vector [D] of the user of a batch of one row."""
        viewers = Viewers(rows.user, rows.user_profile, rows.history, rows.history_mask)
        with torch.inference_mode():
            vector: Floats = self.towers.model.viewers(viewers)[0].numpy()
        return vector

    def age_s(self, ts_ms: int) -> float:
        """Seconds from the moment whose screens it knows to another; 0 where that was before."""
        return max(0.0, (ts_ms - self.index.until_ts_ms) / 1000.0)

    def after(self, store: ArtifactStore) -> Iterator[LiveSearch]:
        """An index has no deltas: it is published anew."""
        return iter(())


class CellSearch:
    """Finds lives by the cells of their index: faiss's inverted lists, in which lies what the index says.

    What is looked into is compared exactly. It takes as much memory as the vectors.
    """

    def __init__(self, index: LiveIndex) -> None:
        """Copies the vectors; wants an index with cells."""
        import faiss  # here and below: most indexes need none

        assert index.cells is not None, "an index without cells is compared whole"
        self._index, self._probes, width = index, index.cells.probes, index.width
        quantizer = faiss.IndexFlatIP(width)
        quantizer.add(index.cells.centroids)
        self._lists: Any = faiss.IndexIVFFlat(quantizer, width, len(index.cells.centroids), faiss.METRIC_INNER_PRODUCT)
        self._lists.is_trained = True
        vectors, cells = np.ascontiguousarray(index.vectors), index.cells.cells.astype(np.int64)
        self._lists.add_core(len(vectors), faiss.swig_ptr(vectors), None, faiss.swig_ptr(cells))

    def nearest(self, user: Floats, k: int, ts_ms: int, ended: Ints | None = None) -> Nearest:
        """See LiveIndex.nearest. Looks into more cells where those that are nearest hold fewer than k on air."""
        import faiss

        faiss.omp_set_num_threads(1)  # of the thread that asks, as in serve/likeness.py
        on_air = self._index.on_air(ts_ms)
        if ended is not None:
            on_air[self._index.rows_of(ended)] = False
        count = int(np.count_nonzero(on_air))
        k, probes, bits = min(k, count), self._probes, np.packbits(on_air, bitorder="little")
        if not k:
            return Nearest(np.empty(0, np.int64), np.empty(0, np.float32), 0)
        parameters: Any = faiss.SearchParametersIVF  # of which faiss tells mypy other arguments
        selector = faiss.IDSelectorBitmap(len(on_air), faiss.swig_ptr(bits))
        while True:
            how = parameters(sel=selector, nprobe=probes)
            (scores,), (rows,) = self._lists.search(user[None], k, params=how)
            if rows[-1] >= 0 or probes == self._lists.nlist:
                scores, rows = scores[rows >= 0], rows[rows >= 0]
                order = np.lexsort((rows, -scores))
                return Nearest(rows[order], scores[order], count)
            probes = min(2 * probes, self._lists.nlist)


class SearchLoader:
    """Loads versions of the index, and the towers that each names, once for all that name the same.

    Both are verified in this process: an index of 100,000 lives of width 64 is 28 MB, and hashing holds nobody up.
    """

    def __init__(self, store: ArtifactStore) -> None:
        self._store = store
        self._towers: tuple[str, Towers] | None = None

    def __call__(self, version: str) -> LiveSearch:
        """Raises ArtifactError for an index or towers that do not fit, with what was got and wanted."""
        started = time.perf_counter()
        folder, manifest = self._store.verified(KIND, version)
        towers_version = manifest.made_from.get(TOWERS)
        if not towers_version:
            raise ArtifactError(f"{KIND} {version}: wanted made_from.{TOWERS} in its manifest; run the job index again")
        towers, index = self._towers_of(towers_version), LiveIndex.load(folder)
        if index.width != towers.model.config.dim:
            raise ArtifactError(
                f"{KIND} {version}: wanted vectors of width {towers.model.config.dim}, as those of {TOWERS} "
                f"{towers_version}, got {index.width}; run the jobs item_vectors and index again"
            )
        cells = None if index.cells is None else CellSearch(index)
        search = LiveSearch(version=version, towers_version=towers_version, index=index, towers=towers, cells=cells)
        log.info("loaded index %s of %d lives in %.2f s", version, len(index.live_ids), time.perf_counter() - started)
        return search

    def _towers_of(self, version: str) -> Towers:
        if self._towers is None or self._towers[0] != version:
            folder, _ = self._store.verified(TOWERS, version)
            towers = Towers.load(folder, mapped=True)
            if towers.codebook is not None:
                raise ArtifactError(
                    f"{TOWERS} {version}: wanted towers without codes, got some that read those of codebook "
                    f"{towers.codebook} in histories, which the endpoint does not know yet; train without towers.codes"
                )
            self._towers = version, towers
        return self._towers[1]
