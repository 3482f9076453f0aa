"""Keys in, prompts out: what an engine is asked of each author and day. One author's faults stay that author's."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.dataset as pads

from pipelines.semantics import author_day
from pipelines.semantics.author_day import PromptConfig
from pipelines.semantics.budget import Budget
from pipelines.semantics.careful import Careful
from pipelines.semantics.prompt_writer import WRITTEN, PromptWriter, refused
from pipelines.tables import contract, newest
from pipelines.tables.storage import Storage

GATHERED = pa.schema([("day", pa.string()), ("author_id", pa.int64()), *WRITTEN])
"""One request of an author and day."""
_READS = 3
"""Times that a batch is read from a storage that fails."""

Key = tuple[str, int]
"""Day and author."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Gathering:
    """What a gatherer is told."""

    root: str
    """The `url` of the storage that holds the days."""
    model: str
    """Folder of the checkpoint, on every node."""
    prompts: PromptConfig
    """How much of an author's day is read."""
    budget: Budget
    """What a prompt may cost."""


class Gather:
    """Builds the prompts of a batch of keys, reading only those authors' segments."""

    def __init__(self, told: Gathering, attempts: Any) -> None:
        """`attempts` is the pool's actor (attempts.py): a picture that kills this process is found by it."""
        self._careful, self._prompts = Careful(attempts), Prompts(told)

    def __call__(self, keys: pa.Table) -> pa.Table:
        """Days and authors -> GATHERED; authors without anything to read get a reason instead of a prompt."""
        wanted = list(zip(keys["day"].to_pylist(), keys["author_id"].to_pylist(), strict=True))
        return pa.Table.from_pylist(self._careful.rows(wanted, self._prompts.of, _lost), schema=GATHERED)


class Prompts:
    """The prompts of keys. Knows no Ray."""

    def __init__(self, told: Gathering) -> None:
        self._storage = Storage.open(told.root)
        self._writer = PromptWriter(told.model, told.prompts, told.budget)
        self._profiles_on: dict[str, str | None] = {}

    def of(self, keys: Sequence[Key]) -> list[dict[str, Any]]:
        """Rows of GATHERED, one for each key. Raises OSError where the storage keeps failing."""
        by_day: dict[str, list[int]] = {}
        for day, author_id in keys:
            by_day.setdefault(day, []).append(author_id)
        return [row for day, authors in by_day.items() for row in self._day(day, authors)]

    def _day(self, day: str, authors: list[int]) -> list[dict[str, Any]]:
        try:
            profiles, segments = self._read(day, authors)
        except (ValueError, TypeError) as error:  # rows of one author that cannot be read, in a batch with others
            if len(authors) == 1:
                return [_row((day, authors[0]), refused("bad_row", str(error)))]
            return [row for author in authors for row in self._day(day, [author])]
        return [
            _row((day, author), self._writer.written(profiles.get(author, ""), segments.get(author, [])))
            for author in authors
        ]

    def _read(self, day: str, authors: list[int]) -> tuple[Mapping[int, str], Mapping[int, list[dict[str, Any]]]]:
        """Profiles and segments of some authors; a storage that fails is asked again."""
        chosen = pads.field("author_id").isin(pa.array(authors, pa.int64()))
        for attempt in range(1, _READS + 1):
            try:
                segments = self._storage.read("segments", day, where=chosen)
                return self._profiles(day, chosen), dict(author_day.group(segments))
            except OSError:
                if attempt == _READS:
                    raise
                time.sleep(attempt)
        raise AssertionError("not reached")

    def _profiles(self, day: str, chosen: pads.Expression) -> dict[int, str]:
        """The newest profile, as of the day, of the authors of a batch: the rest of the table stays on storage."""
        if day not in self._profiles_on:
            self._profiles_on[day] = newest.carry(self._storage, "authors", until=day)
        if (carried := self._profiles_on[day]) is None:
            return {}
        people = self._storage.read(contract.newest_of("authors"), carried, ["author_id", "profile"], chosen)
        return dict(zip(people["author_id"].to_pylist(), people["profile"].to_pylist(), strict=True))


def _row(key: Key, written: dict[str, Any]) -> dict[str, Any]:
    return {"day": key[0], "author_id": key[1], **written}


def _lost(key: Key, attempts: int) -> dict[str, Any]:
    died = f"the process that reads this author's day died at each of {attempts} attempts"
    return _row(key, refused("bad_row", died, attempts))
