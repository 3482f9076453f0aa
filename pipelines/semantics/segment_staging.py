"""Finished slices of a run that is not committed yet: what a killed run leaves for the next one.

A slice appears whole or not, in a file of its name, so that one look at the folder tells what is left to do. What is
held in memory is the slices that the engine has in hand.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyarrow import fs as pafs

from pipelines.semantics.segment_engine import VECTORS
from pipelines.semantics.segment_slices import KEY, Slice
from pipelines.tables import sweep
from pipelines.tables.storage import Storage
from pipelines.tables.sweep import STAGING

TABLE = "segment_embeddings"


class SegmentStaging:
    """The slices of some days. Those of a file that is gone are left aside, and go with the rest."""

    def __init__(self, storage: Storage, run: str, slices: Sequence[Slice]) -> None:
        """Args: `run` is what vectors are made from beside segments; `slices` are all of the days."""
        self._storage = storage
        self._slices = {each.name: each for each in slices}
        days = dict.fromkeys(each.day for each in slices)
        self._folders = {day: f"{storage.root}/{STAGING}/{TABLE}-{run}-{day}" for day in days}
        for folder in self._folders.values():
            storage.filesystem.create_dir(folder, recursive=True)
        self._waiting: dict[str, pa.Table] = {}

    def append(self, batch: pa.Table) -> None:
        """Takes a batch of VECTORS, and keeps the slices that are whole with it."""
        for name in pc.unique(batch["slice"]).to_pylist():
            rows = batch.filter(pc.equal(batch["slice"], name))
            if name in self._waiting:
                rows = pa.concat_tables([self._waiting.pop(name), rows])
            rows = _once(rows)
            if rows.num_rows < self._slices[name].rows:
                self._waiting[name] = rows
                continue
            sink = pa.BufferOutputStream()
            pq.write_table(rows, sink, compression="zstd")
            self._storage.put(self._path(self._slices[name]), sink.getvalue())

    def missing(self) -> list[Slice]:
        """The slices that are not whole, in order."""
        self._waiting.clear()
        done: set[str] = set()
        for folder in self._folders.values():
            infos = self._storage.filesystem.get_file_info(pafs.FileSelector(folder))
            done |= {info.base_name.removesuffix(".parquet") for info in infos}
        return [each for name, each in self._slices.items() if name not in done]

    def read(self, day: str) -> Iterator[pa.Table]:
        """The slices of a day that are whole, in order, each sorted by key."""
        lost = {each.name for each in self.missing()}
        for name, each in self._slices.items():
            if each.day == day and name not in lost:
                yield pq.read_table(self._path(each), schema=VECTORS, filesystem=self._storage.filesystem)

    def forget(self, day: str) -> None:
        """Deletes what is kept of one day, so that the next run asks for all of it."""
        self._storage.filesystem.delete_dir_contents(self._folders[day])

    def remove(self) -> None:
        """Deletes the slices, once their days are committed, and what runs left that nobody went on with."""
        for folder in self._folders.values():
            self._storage.filesystem.delete_dir(folder)
        sweep.staging(self._storage)

    def _path(self, wanted: Slice) -> str:
        return f"{self._folders[wanted.day]}/{wanted.name}.parquet"


def _once(rows: pa.Table) -> pa.Table:
    """One row of each segment, sorted by key: where a worker died, its rows may come twice."""
    rows = rows.sort_by([(name, "ascending") for name in KEY]).combine_chunks()
    keys = [rows[name].to_numpy() for name in KEY]
    is_first = np.ones(rows.num_rows, bool)
    is_first[1:] = np.logical_or.reduce([values[1:] != values[:-1] for values in keys])
    return rows.filter(pa.array(is_first))
