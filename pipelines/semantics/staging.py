"""Finished parts of an anchor run that is not committed yet: what a killed run leaves for the next one."""

import uuid

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyarrow import fs as pafs

from pipelines.semantics.engine import ANSWERS, KEYS
from pipelines.tables.storage import Storage

Key = tuple[str, int]
"""Day and author."""


class Staging:
    """Parts of one run, beside the tables of a storage, so that any machine can go on. A part appears whole or not."""

    def __init__(self, storage: Storage, run: str) -> None:
        self.folder = f"{storage.root}/staging/{run}"
        self._storage = storage
        storage.filesystem.create_dir(self.folder, recursive=True)

    def append(self, batch: pa.Table) -> None:
        """Keeps a batch of ANSWERS."""
        sink = pa.BufferOutputStream()
        pq.write_table(batch, sink)
        self._storage.put(f"{self.folder}/part-{uuid.uuid4().hex}.parquet", sink.getvalue())

    def read(self, day: str | None = None) -> pa.Table:
        """All finished rows (of a day), one per key, in the order of keys."""
        filesystem = self._storage.filesystem
        paths = sorted(info.path for info in filesystem.get_file_info(pafs.FileSelector(self.folder)))
        parts = [
            pq.read_table(path, schema=ANSWERS, filesystem=filesystem) for path in paths if path.endswith(".parquet")
        ]
        table = pa.concat_tables(parts) if parts else ANSWERS.empty_table()
        if day is not None:
            table = table.filter(pc.equal(table["day"], day))
        first: dict[Key, int] = {}
        for row, key in enumerate(_keys(table)):
            first.setdefault(key, row)
        return table.take(pa.array([first[key] for key in sorted(first)], pa.int64()))

    def keys(self) -> set[Key]:
        """Keys of every finished row."""
        return set(_keys(self.read()))

    def forget(self, day: str) -> None:
        """Deletes what is kept of one day, so that the next run asks for all of it."""
        table = self.read()
        others = table.filter(pc.not_equal(table["day"], day))
        self.remove()
        self._storage.filesystem.create_dir(self.folder, recursive=True)
        if others.num_rows:
            self.append(others)

    def remove(self) -> None:
        """Deletes the parts, once their days are committed."""
        self._storage.filesystem.delete_dir(self.folder)


def key_blocks(keys: list[Key], size: int) -> list[pa.Table]:
    """Keys as tables of KEYS, `size` rows each."""
    rows = [dict(zip(KEYS.names, key, strict=True)) for key in keys]
    return [pa.Table.from_pylist(rows[first : first + size], schema=KEYS) for first in range(0, len(rows), size)]


def _keys(table: pa.Table) -> list[Key]:
    return list(zip(*(table[name].to_pylist() for name in KEYS.names), strict=True))
