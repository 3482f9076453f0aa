"""What was on screen at a moment, as codes: those of the newest segment of a live that was known then.

A table of codes is read once for many moments, a part at a time, and each part is asked by the one point-in-time rule
(models/as_of.py). What a user saw at a click is a fact of the click: later segments of that live change nothing.
Memory: 24 + 4 J bytes a moment, and 250 bytes for each of 65,536 segments.
"""

from collections.abc import Sequence
from datetime import date, timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from models.as_of import newest_segments
from models.history import HISTORY_PAD
from pipelines.samples.event_reader import DAY_MS
from pipelines.tables.contract import ContractError
from pipelines.tables.days import day_name
from pipelines.tables.fingerprint import digest
from pipelines.tables.storage import Storage

Ints = NDArray[np.int64]
Codes = NDArray[np.int32]
_Segments = tuple[Ints, Ints, Ints, Codes]
"""Authors, lives, ends and codes."""

NONE = HISTORY_PAD
"""Stands for a code where nothing was known."""
_LONGEST_DAYS = 7
"""Segments are of the day on which their live began, so many days before them at most (pipelines/tables/values.py)."""
_READ_TOGETHER = 65_536
_COLUMNS = ["live_id", "end_ts_ms", "codes", "codebook"]


class Screen:
    """One table of codes, all of one codebook: that of its newest day."""

    def __init__(self, storage: Storage, table: str, delay_s: float = 0.0) -> None:
        """Args: `delay_s` is the time from a segment's end until its codes are known.

        Raises ContractError where the table has no rows.
        """
        self.table, self._storage = table, storage
        self.delay_ms = round(delay_s * 1000)
        """From a segment's end until its codes are known."""
        self._listing = storage.listing(table)
        if not self._listing.days:
            raise ContractError(
                f"table {table}: wanted the codes of segments, as examples.codes names it, got no day; run the job "
                "codes, or take it out of examples.codes"
            )
        first = self._newest_row()
        self.codebook: str = first["codebook"]
        """Its version."""
        self.num_codes = len(first["codes"])
        """J."""
        self.asked = self.known = 0
        """Moments so far, and those of them at which a segment was known."""

    def _newest_row(self) -> Any:
        """A row of the newest day that has any: all segments of a day may have been refused."""
        for day in reversed(self._listing.days):
            for part in self._storage.dataset(self.table, day).batches(1, ["codebook", "codes"]):
                if part.num_rows:
                    return part.slice(0, 1).to_pylist()[0]
        raise ContractError(
            f"table {self.table}: wanted the codes of segments, got days without a row; run the jobs embed_segments "
            "and codes"
        )

    def made_from(self, days: Sequence[str]) -> dict[str, str]:
        """Of the moments on these days of impressions, ascending: what their codes are read from, and the codebook.

        Raises ContractError for a day behind the first one of the table whose segments have no codes: they would be
        known later, as if nothing had been on screen.
        """
        first = self._listing.days[0]
        if missing := [day for day in days if day >= first and not self._listing.stamp(day)]:
            raise ContractError(
                f"table {self.table}: wanted codes of the segments of {missing[0]}, a day of impressions, got those of "
                f"{first} to {self._listing.days[-1]}; run the jobs up to codes, or take it out of examples.codes"
            )
        read = [[day, self._listing.stamp(day)] for day in self._read_for(days[0], days[-1])]
        made_from = {self.table: digest([read, self.delay_ms]), codebook_key(self.table): self.codebook}
        # Examples of older versions say nothing of a delay, and stay what they are where there is none.
        return made_from | ({delay_key(self.table): str(self.delay_ms)} if self.delay_ms else {})

    def at(self, live_id: Ints, ts_ms: Ints) -> Codes:
        """Codes [M, J] of lives [M] at moments [M], NONE where no segment of the live was known.

        Raises ContractError where codes of another codebook, or another number of them, are read.
        """
        codes = np.full((len(live_id), self.num_codes), NONE, np.int32)
        if not len(live_id):
            return codes
        newest_ms = np.full(len(live_id), np.iinfo(np.int64).min)
        by_live = np.argsort(live_id, kind="stable")
        lives = live_id[by_live]
        for day in self._read_for(*(day_name(int(of // DAY_MS)) for of in (ts_ms.min(), ts_ms.max()))):
            for part in self._storage.dataset(self.table, day).batches(_READ_TOGETHER, _COLUMNS):
                segments = part["live_id"].to_numpy(), part["end_ts_ms"].to_numpy()
                which = by_live[_places_of(np.unique(segments[0]), lives)]
                if not len(which):
                    continue
                (rows,) = newest_segments(*segments, live_id[which], ts_ms[which], delay_ms=self.delay_ms).T
                is_newer = (rows >= 0) & (segments[1][rows] >= newest_ms[which])
                which, rows = which[is_newer], rows[is_newer]
                codes[which], newest_ms[which] = self._codes_of(part, day)[rows], segments[1][rows]
        self.asked += len(codes)
        self.known += int((codes[:, 0] != NONE).sum())
        return codes

    def newest_known_ms(self, days: Sequence[str]) -> int:
        """When the newest segment of lives that began on these days is known. Raises ContractError where none is."""
        parts = (
            part
            for day in days
            for part in self._storage.dataset(self.table, day).batches(_READ_TOGETHER, ["end_ts_ms"])
        )
        ends = [pc.max(part["end_ts_ms"]).as_py() for part in parts if part.num_rows]
        if not ends:
            raise ContractError(
                f"table {self.table}: wanted codes of segments on {', '.join(days)}, got none; run the job codes"
            )
        return int(max(ends)) + self.delay_ms

    def newest_of_authors(
        self, ts_ms: int, *, since_ms: int | None = None, days: Sequence[str] | None = None
    ) -> tuple[Ints, Ints, Ints, Codes]:
        """Of each author the newest segment that was known at a moment, and at each moment of ends after `since_ms`.

        Of lives that began on `days`, None = in the seven days before the moment. Returns author ids [S], ascending,
        the segments' lives and ends [S], for each author ascending and unique, and their codes [S, J]. Raises as `at`.
        """
        day = day_name((ts_ms - 1) // DAY_MS)
        bounds = ts_ms - self.delay_ms, ts_ms if since_ms is None else since_ms
        none = np.zeros(0, np.int64)
        parts: list[_Segments] = [(none, none, none, np.zeros((0, self.num_codes), np.int32))]
        for of in self._read_for(day, day) if days is None else days:
            for part in self._storage.dataset(self.table, of).batches(_READ_TOGETHER, ["author_id", *_COLUMNS]):
                author, live, end = (part[name].to_numpy() for name in ("author_id", "live_id", "end_ts_ms"))
                parts.append(_kept((author, live, end, self._codes_of(part, of)), *bounds))
                if sum(len(of[0]) for of in parts[1:]) > max(len(parts[0][0]), _READ_TOGETHER):
                    parts = [_kept(_joined(parts), *bounds)]
        return _kept(_joined(parts), *bounds)

    def _read_for(self, first: str, last: str) -> list[str]:
        """Days of the table that hold segments of moments on days `first` to `last`."""
        since = (date.fromisoformat(first) - timedelta(days=_LONGEST_DAYS)).isoformat()
        return [day for day in self._listing.days if since <= day <= last]

    def _codes_of(self, part: pa.Table, day: str) -> Codes:
        """[n, J]."""
        if others := set(pc.unique(part["codebook"]).to_pylist()) - {self.codebook}:
            raise ContractError(
                f"table {self.table}, day {day}: wanted codes of the codebook {self.codebook}, as on its newest day, "
                f"got some of {', '.join(sorted(others))}; codes of two codebooks never mix: run the job codes again"
            )
        lengths = set(pc.unique(pc.list_value_length(part["codes"])).to_pylist())
        if lengths != {self.num_codes}:
            raise ContractError(
                f"table {self.table}, day {day}: wanted {self.num_codes} codes in each row, got {sorted(lengths)}; "
                "run the job codes again"
            )
        codes: Codes = part["codes"].combine_chunks().flatten().to_numpy().reshape(-1, self.num_codes)
        return codes


def delay_key(table: str) -> str:
    """Where the commit of examples names the delay, in ms, after which the codes that they carry are known."""
    return f"{table}/delay_ms"


def codebook_key(table: str) -> str:
    """Where the commit of examples names the codebook of the codes that they carry."""
    return f"{table}/codebook"


def _places_of(wanted: Ints, lives: Ints) -> Ints:
    """Places of the values `wanted`, ascending, in `lives`, ascending."""
    starts, ends = np.searchsorted(lives, wanted, "left"), np.searchsorted(lives, wanted, "right")
    counts = ends - starts
    before = np.cumsum(counts) - counts
    places: Ints = np.arange(counts.sum()) + np.repeat(starts - before, counts)
    return places


def _joined(parts: Sequence[_Segments]) -> _Segments:
    author, live, end, codes = (np.concatenate(column) for column in zip(*parts, strict=True))
    return author, live, end, codes


def _kept(segments: _Segments, until_ms: int, since_ms: int) -> _Segments:
    """By author and end: of each author's segments up to a moment the last one, and all that were it after `since_ms`.

    Of two that end at once the later row stays, as models/as_of.py has it.
    """
    author, live, end, codes = segments
    rows = np.lexsort((end, author))
    rows = rows[end[rows] <= until_ms]
    rows = rows[_is_last(author[rows]) | _is_last(end[rows])]
    is_next_late = np.append(end[rows][1:], 0)[: len(rows)] > since_ms
    rows = rows[_is_last(author[rows]) | is_next_late]
    return author[rows], live[rows], end[rows], codes[rows]


def _is_last(values: Ints) -> NDArray[np.bool_]:
    """[n], of each of the ordered values whether the next one differs."""
    is_last: NDArray[np.bool_] = np.diff(values, append=values[-1:] + 1) != 0
    return is_last
