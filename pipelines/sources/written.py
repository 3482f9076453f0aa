"""What a source that is always read as a whole writes: its days replace those of its earlier run, all of them."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pyarrow as pa

from pipelines.tables import rejections
from pipelines.tables.guard import Guard
from pipelines.tables.storage import Storage


class Written:
    """The days that one run of a job writes."""

    def __init__(self, storage: Storage, job: str) -> None:
        """`job` is its word, which is its stage in `rejections` too."""
        self._storage, self._job = storage, job
        self._ours = {"job": job}
        self._days = set[tuple[str, str]]()

    def check(self, guard: Guard, name: str, new: int) -> None:
        """Raises ContractError where the source holds far fewer rows of a table than it did in an earlier run.

        By their number alone: an export of the last 30 days has other days, and other rows in each, every day.
        """
        commits = [self._storage.commit_of(name, day) for day in self._storage.days(name)]
        old = sum(commit.rows for commit in commits if commit is not None and dict(commit.made_from) == self._ours)
        guard.check(f"table {name}, all days", old=old, kept=min(old, new), new=new)

    def write(self, name: str, day: str, rows: pa.Table | Iterable[pa.Table]) -> None:
        """Commits a day, of one file or of several, saying which job it is from."""
        self._storage.write(name, day, [rows] if isinstance(rows, pa.Table) else rows, self._ours)
        self._days.add((name, day))

    def finish(self, names: Iterable[str], refused: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
        """Empties those days of the tables that an earlier run wrote and this one did not.

        `refused`: by day, all rows of `rejections` that the job has.
        """
        for name in names:
            for day in self._storage.days(name):
                commit = self._storage.commit_of(name, day)
                if (name, day) not in self._days and commit is not None and dict(commit.made_from) == self._ours:
                    self._storage.write(name, day, [], self._ours)
        for day in sorted({*self._storage.days(rejections.TABLE), *refused}):
            if refused.get(day) or rejections.of_stage(self._storage, day, self._job).num_rows:
                rejections.replace(self._storage, day, self._job, refused.get(day, []))
