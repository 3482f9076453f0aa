"""Finished parts of an anchor run that is not committed yet: what a killed run leaves for the next one."""

import uuid
from collections.abc import Mapping

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyarrow import fs as pafs

from pipelines.semantics.engine import ANSWERS
from pipelines.semantics.gather import Key
from pipelines.tables import sweep
from pipelines.tables.storage import Storage
from pipelines.tables.sweep import STAGING

_INPUTS = pa.field("inputs", pa.binary(16))
_PART = ANSWERS.append(_INPUTS)


class Staging:
    """Parts of one run, beside the tables of a storage, so that any machine can go on. A part appears whole or not.

    Each day has a folder of its own, named by the lineage without the day's segments: where segments came meanwhile,
    the answers of those authors stand whose own have not changed.
    """

    def __init__(self, storage: Storage, run: str, inputs: Mapping[str, Mapping[int, bytes]]) -> None:
        """Args: `inputs` is, by day and author, the hash of what the answer is made from (see carried.py)."""
        self._storage, self._inputs = storage, inputs
        self._folders = {day: f"{storage.root}/{STAGING}/{run}-{day}" for day in inputs}
        for folder in self._folders.values():
            storage.filesystem.create_dir(folder, recursive=True)

    def append(self, batch: pa.Table) -> None:
        """Keeps a batch of ANSWERS."""
        for day in pc.unique(batch["day"]).to_pylist():
            rows = batch.filter(pc.equal(batch["day"], day))
            inputs = [self._inputs[day].get(author) for author in rows["author_id"].to_pylist()]
            sink = pa.BufferOutputStream()
            pq.write_table(
                rows.append_column(_PART.field("inputs"), pa.array(inputs, _PART.field("inputs").type)), sink
            )
            self._storage.put(f"{self._folders[day]}/part-{uuid.uuid4().hex}.parquet", sink.getvalue())

    def read(self, day: str) -> pa.Table:
        """The finished rows of a day whose inputs are as they were, one per author, in the order of authors."""
        filesystem, inputs = self._storage.filesystem, self._inputs[day]
        infos = filesystem.get_file_info(pafs.FileSelector(self._folders[day]))
        paths = sorted(info.path for info in infos if info.path.endswith(".parquet"))
        parts = [pq.read_table(path, schema=_PART, filesystem=filesystem) for path in paths]
        table = pa.concat_tables(parts) if parts else _PART.empty_table()
        first: dict[int, int] = {}
        made_from = zip(table["author_id"].to_pylist(), table["inputs"].to_pylist(), strict=True)
        for row, (author, value) in enumerate(made_from):
            if value == inputs.get(author):
                first.setdefault(author, row)
        rows = pa.array([first[author] for author in sorted(first)], pa.int64())
        return table.take(rows).select(ANSWERS.names)

    def keys(self) -> set[Key]:
        """Keys of every finished row."""
        return {(day, author) for day in self._folders for author in self.read(day)["author_id"].to_pylist()}

    def forget(self, day: str) -> None:
        """Deletes what is kept of one day, so that the next run asks for all of it."""
        self._storage.filesystem.delete_dir_contents(self._folders[day])

    def remove(self) -> None:
        """Deletes the parts, once their days are committed, and what runs left that nobody went on with."""
        for folder in self._folders.values():
            self._storage.filesystem.delete_dir(folder)
        sweep.staging(self._storage)
