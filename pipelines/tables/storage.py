"""Tables on storage: any pyarrow filesystem (a folder, s3://, gs://), one commit marker per table and day.

A day is written as new Parquet files and then made visible by one small `_COMMIT.json` that lists them, so a reader
never sees half a day, whatever dies when. Days that a user brings without a marker are read as all their *.parquet.
The name of a file ends in a hash of its content, so that a look at the folder tells whether its rows have changed.
"""

import hashlib
import json
import logging
import os
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyarrow import fs as pafs

from models.artifacts.roots import open_root, put_file
from models.config import PathText
from pipelines.tables import contract, values
from pipelines.tables.contract import ContractError
from pipelines.tables.day_rows import DayRows
from pipelines.tables.guard import Guard
from pipelines.tables.lease import Leases, leases_of
from pipelines.tables.listing import EMPTY, MARKER, UNCOMMITTED, Listing, is_brought, is_older, is_part

log = logging.getLogger(__name__)
ABANDONED_S = 86_400
"""A part that no commit lists, and that is older than this, was left by a write that died."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StorageConfig:
    """Where tables and artifacts live."""

    root: PathText = "runs/store"
    """A folder, or a URL that pyarrow understands (s3://bucket/path, gs://bucket/path)."""
    least_share: float = 0.5
    """A day that is there is replaced only by one that has at least this share of its rows, told by their keys."""

    def __post_init__(self) -> None:
        if not 0 <= self.least_share <= 1:
            raise ValueError(f"least_share: wanted 0 to 1, got {self.least_share}")


@dataclass(frozen=True, kw_only=True)
class Commit:
    """What `_COMMIT.json` says: the files that make up a day, and what they were made from."""

    files: tuple[str, ...]
    rows: int
    fingerprint: str
    made_from: Mapping[str, str] = field(default_factory=dict)


class Storage:
    """Reads and writes the contract's tables below one root."""

    def __init__(
        self, filesystem: pafs.FileSystem, root: str, *, url: str, oracle: bool = False, guard: Guard | None = None
    ) -> None:
        """Args: `url` opens the same storage in another process; `oracle` allows reading the simulator's truth; `guard`
        refuses some writes."""
        self.url = url
        self.filesystem = filesystem
        self.root = root.rstrip("/")
        self._oracle, self._guard = oracle, guard

    @classmethod
    def open(cls, root: str, *, oracle: bool = False) -> "Storage":
        """Storage at a folder or URL. The folder is made when first written to."""
        filesystem, path, url = open_root(root)
        return cls(filesystem, path, url=url, oracle=oracle)

    def with_oracle(self) -> "Storage":
        """The same storage, for measuring and demonstrating: it may read the simulator's truth."""
        return Storage(self.filesystem, self.root, url=self.url, oracle=True)

    def guarded(self, guard: Guard | None) -> "Storage":
        """The same storage, for jobs whose rows come from outside: `write` refuses what the guard refuses."""
        return Storage(self.filesystem, self.root, url=self.url, oracle=self._oracle, guard=guard)

    @cached_property
    def leases(self) -> Leases:
        """What keeps two jobs from writing the same thing at the same time."""
        return leases_of(self.url, self.filesystem)

    def lease(self, name: str, day: str, wait_s: float = 0.0) -> AbstractContextManager[None]:
        """Held while a day of a table is written; raises HeldError where another job holds it for more than `wait_s`.

        `write` takes it for itself. A job takes it where it works for long before it writes.
        """
        return self.leases.hold(_lease_of(name, day), wait_s)

    def folder(self, name: str, day: str) -> str:
        """Path of one table's day, inside `filesystem`."""
        return f"{self.root}/tables/{contract.spec(name).name}/day={day}"

    def listing(self, name: str) -> Listing:
        """The table's days and what their files are, from one call to the filesystem."""
        base = f"{self.root}/tables/{contract.spec(name).name}"
        infos = self.filesystem.get_file_info(pafs.FileSelector(base, allow_not_found=True, recursive=True))
        return Listing(base, infos, lambda day: not self._parquet(name, day, self.commit_of(name, day)))

    def days(self, name: str) -> list[str]:
        """Days that hold data, oldest first."""
        return self.listing(name).days

    def holds(self, name: str, day: str) -> bool:
        """True if `day` is one of `days`, without a look at the others."""
        return bool(self._parquet(name, day, self.commit_of(name, day)))

    def commit_of(self, name: str, day: str) -> Commit | None:
        """The day's commit, or None where nothing was committed."""
        path = f"{self.folder(name, day)}/{MARKER}"
        if self.filesystem.get_file_info(path).type != pafs.FileType.File:
            return None
        with self.filesystem.open_input_stream(path) as stream:
            content = stream.read()
        try:
            raw = json.loads(content)
            return Commit(files=tuple(raw.pop("files")), **raw)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise ContractError(
                f"table {name}, day {day}: wanted a commit marker, got a damaged {path} ({error!r}); "
                "remove that day's folder and run the job that writes it again"
            ) from error

    def is_current(self, name: str, day: str, made_from: Mapping[str, str]) -> bool:
        """True if the day is committed, was made from exactly these inputs, and its files are there."""
        commit = self.commit_of(name, day)
        if commit is None or dict(commit.made_from) != dict(made_from):
            return False
        infos = self.filesystem.get_file_info(pafs.FileSelector(self.folder(name, day)))
        return set(commit.files) <= {info.base_name for info in infos}

    def fingerprint(self, name: str, day: str) -> str:
        """Hash of a day's content: from the marker, else of the files' names, sizes and times."""
        commit = self.commit_of(name, day)
        if commit is not None:
            return commit.fingerprint
        infos = self.filesystem.get_file_info(self._parquet(name, day, None))
        return hashlib.sha256(repr([(i.base_name, i.size, i.mtime_ns) for i in infos]).encode()).hexdigest()

    def _parquet(self, name: str, day: str, commit: Commit | None) -> list[str]:
        folder = self.folder(name, day)
        if commit is not None:
            return [f"{folder}/{file}" for file in commit.files]
        infos = self.filesystem.get_file_info(pafs.FileSelector(folder, allow_not_found=True))
        # Without a marker, our own parts are an unfinished write; what a user brought beside them stays visible.
        return sorted(i.path for i in infos if is_brought(i.base_name))

    def files(self, name: str, day: str) -> list[str]:
        """Parquet files of a day. Raises ContractError where there are none, naming the days that exist."""
        if contract.spec(name).oracle and not self._oracle:
            raise ContractError(f"table {name} is the simulator's truth; this job may not read it")
        commit = self.commit_of(name, day)
        files = self._parquet(name, day, commit)
        if not files and commit is None:
            raise ContractError(
                f"table {name}, day {day}: wanted Parquet files in {self.folder(name, day)}, got none; "
                f"days present: {', '.join(self.days(name)) or 'none'}; run the job that writes {name} first"
            )
        return files

    def read(
        self, name: str, day: str, columns: list[str] | None = None, where: pc.Expression | None = None
    ) -> pa.Table:
        """A day's rows, with the contract's types (all columns, or those asked for)."""
        files = self.files(name, day)
        if not files:
            return _empty(name, columns)
        return DayRows(self.filesystem, files, name, day).table(columns, where)

    def dataset(self, name: str, day: str) -> DayRows:
        """A day that has files, for reading in batches."""
        return DayRows(self.filesystem, self.files(name, day), name, day)

    def labels(self, name: str, day: str) -> list[str]:
        """Label columns of a day of LABELLED, in order; none where the day has no rows."""
        files = self.files(name, day)
        names = DayRows(self.filesystem, files, name, day).schema.names if files else []
        return [column for column in names if contract.is_label(name, column)]

    def read_days(self, name: str, days: Iterable[str], columns: list[str] | None = None) -> pa.Table:
        """Several days, concatenated in the order given; no rows where no day is given."""
        return pa.concat_tables([self.read(name, day, columns) for day in days] or [_empty(name, columns)])

    def write(
        self, name: str, day: str, chunks: Iterable[pa.Table], made_from: Mapping[str, str] | None = None
    ) -> Commit:
        """Streams `chunks` into a day, checks keys, and commits it. A failure leaves the previous version visible.

        Memory is one chunk plus the key columns. Rows of an empty day are allowed: the job ran and found nothing.
        A write that fails takes its own files away; those of one that was killed go with a later write of that day.
        Raises HeldError while another job writes that day, and ContractError where the guard refuses the new rows.
        """
        with self.lease(name, day):
            return self._write(name, day, chunks, made_from)

    def append(
        self, name: str, day: str, chunks: Iterable[pa.Table], made_from: Mapping[str, str] | None = None
    ) -> Commit:
        """`write`, but what a job wrote of the day before stays, ahead of the new rows.

        That no new row has the key of an old one is the matter of the caller. Raises ContractError for a day that a
        user brought.
        """
        with self.lease(name, day):
            onto = self.commit_of(name, day)
            if onto is None and self._parquet(name, day, None):
                raise ContractError(
                    f"table {name}, day {day}: wanted a day that a job wrote, to add rows to it, got files without a "
                    f"commit in {self.folder(name, day)}; move them away"
                )
            return self._write(name, day, chunks, made_from, onto)

    def _write(
        self,
        name: str,
        day: str,
        chunks: Iterable[pa.Table],
        made_from: Mapping[str, str] | None = None,
        onto: Commit | None = None,
    ) -> Commit:
        folder = self.folder(name, day)
        self.filesystem.create_dir(folder, recursive=True)
        files, rows, digest, keys = [], 0, hashlib.sha256(), []
        run = uuid.uuid4().hex[:12]
        try:
            for number, chunk in enumerate(chunks):
                chunk = contract.conform(chunk, name, day)
                values.check(chunk, name, day)
                content = _parquet_bytes(chunk)
                file_digest = hashlib.sha256(content)
                files.append(f"{UNCOMMITTED}{run}-{number:05d}-{file_digest.hexdigest()[:16]}.parquet")
                self.put(f"{folder}/{files[-1]}", content)
                digest.update(file_digest.digest())
                keys.append(chunk.select(list(contract.spec(name).key)))
                rows += chunk.num_rows
            if keys:
                contract.check_keys(pa.concat_tables(keys), name, day)
            if self._guard is not None:
                self._check_guard(self._guard, name, day, keys)
            self.leases.confirm(_lease_of(name, day))
        except BaseException:
            self._delete(folder, set(files))
            raise
        commit = Commit(
            files=(*(onto.files if onto else ()), *files),
            rows=(onto.rows if onto else 0) + rows,
            fingerprint=_chained(onto, digest.hexdigest()) if files or not onto else onto.fingerprint,
            made_from=dict(made_from or {}),
        )
        self._commit(name, day, commit)
        return commit

    def _check_guard(self, guard: Guard, name: str, day: str, keys: Sequence[pa.Table]) -> None:
        """Asks the guard where the day is there, and can be read."""
        key = list(contract.spec(name).key)
        try:
            old = self.read(name, day, key) if self.holds(name, day) else None
        except ContractError as error:
            log.warning("%s; it is written anew", error)
            return
        if old is not None and old.num_rows:
            new = pa.concat_tables(keys or [old.slice(0, 0)])
            kept = old.join(new, key, join_type="left semi").num_rows
            guard.check(f"table {name}, day {day}", old=old.num_rows, kept=kept, new=new.num_rows)

    def adopt(self, name: str, day: str, other: "Storage") -> None:
        """Makes a day of `other`, on the same filesystem, a day of this storage too; nothing where it is one already.

        Its files are linked on a local disk that can, and copied elsewhere: neither storage ever changes a file in
        place, so each may replace or sweep its own.
        """
        if self.holds(name, day) and self.fingerprint(name, day) == other.fingerprint(name, day):
            return
        folder, files = self.folder(name, day), {PurePosixPath(path).name: path for path in other.files(name, day)}
        commit = other.commit_of(name, day) or Commit(
            files=tuple(files),
            rows=other.dataset(name, day).count_rows(),
            fingerprint=other.fingerprint(name, day),
        )
        with self.lease(name, day):
            self.filesystem.create_dir(folder, recursive=True)
            for file, path in files.items():
                self._link(path, f"{folder}/{file}")
            self._commit(name, day, commit)

    def _link(self, path: str, target: str) -> None:
        if self.filesystem.get_file_info(target).type == pafs.FileType.File:
            self.filesystem.delete_file(target)
        if isinstance(self.filesystem, pafs.LocalFileSystem):
            try:
                os.link(path, target)
                return
            except OSError as error:
                log.debug("%s cannot be linked (%s) and is copied", path, error)
        self.filesystem.copy_file(path, target)

    def write_json(self, path: str, content: Mapping[str, Any]) -> None:
        """`write_text` of JSON."""
        self.write_text(path, json.dumps(content, indent=1, sort_keys=True))

    def write_text(self, path: str, text: str) -> None:
        """`put` of a text."""
        self.put(path, text.encode())

    def put(self, path: str, content: bytes | pa.Buffer) -> None:
        """Puts a file in one step: by rename on a local disk, by a single put on an object store."""
        put_file(self.filesystem, path, content)

    def _commit(self, name: str, day: str, commit: Commit) -> None:
        """Makes the commit the day's, then deletes what the commit that it replaces listed and it does not.

        Beside that the parts of a write that died, once they are old; a file that a user brought is not ours to delete.
        EMPTY comes before the marker and goes after it, so that `listing` is right at every moment.
        """
        folder, replaced = self.folder(name, day), self.commit_of(name, day)
        if not commit.files:
            self.write_text(f"{folder}/{EMPTY}", "")
        self.write_json(f"{folder}/{MARKER}", asdict(commit))
        old = set() if replaced is None else set(replaced.files) - set(commit.files)
        self._delete(folder, old | ({EMPTY} if commit.files else set()) | (self._abandoned(folder) - set(commit.files)))

    def sweep(self, name: str, day: str) -> list[str]:
        """Deletes the files that writes of a day left when they died, and returns their names; `_commit` does it too.

        Raises HeldError while a job writes that day.
        """
        folder = self.folder(name, day)
        with self.lease(name, day):
            commit = self.commit_of(name, day)
            left = self._abandoned(folder) - set(commit.files if commit else ())
            self._delete(folder, left)
        return sorted(left)

    def _abandoned(self, folder: str) -> set[str]:
        """Parts, and unfinished puts, that nobody has written to for long."""
        infos = self.filesystem.get_file_info(pafs.FileSelector(folder))
        return {info.base_name for info in infos if is_part(info.base_name) and is_older(info, ABANDONED_S)}

    def _delete(self, folder: str, files: set[str]) -> None:
        """Deletes those of the files that are there: another writer may have been faster."""
        for info in self.filesystem.get_file_info([f"{folder}/{file}" for file in sorted(files)]):
            if info.type == pafs.FileType.File:
                self.filesystem.delete_file(info.path)


def _chained(onto: Commit | None, fingerprint: str) -> str:
    """Of the rows of a commit and those that follow."""
    return hashlib.sha256(f"{onto.fingerprint} {fingerprint}".encode()).hexdigest() if onto else fingerprint


def _lease_of(name: str, day: str) -> str:
    return f"{contract.spec(name).name}/day={day}"


def _empty(name: str, columns: list[str] | None) -> pa.Table:
    """No rows of a table, or of those of its columns and labels that are asked for."""
    asked = pa.schema([(column, pa.uint8()) for column in columns or ()])
    empty = contract.schema_of(name, asked, columns).empty_table()
    return empty.select(columns) if columns else empty


def _parquet_bytes(chunk: pa.Table) -> pa.Buffer:
    """One Parquet file of rows. Small row groups, so that a reader of few keys reads little of a sorted table."""
    sink = pa.BufferOutputStream()
    pq.write_table(chunk, sink, compression="zstd", row_group_size=1024)
    return sink.getvalue()


def batches(rows: DayRows, batch_size: int, columns: list[str] | None = None) -> Iterator[pa.Table]:
    """A day's rows in bounded pieces, in file order."""
    return rows.batches(batch_size, columns)


def shared_root(root: str) -> str:
    """The storage root as workers must name it: their working directory is another."""
    return root if "://" in root else os.path.abspath(root)


def rows_of(storage: Storage, name: str, day: str) -> int:
    """Rows of a committed day."""
    commit = storage.commit_of(name, day)
    return commit.rows if commit else 0
