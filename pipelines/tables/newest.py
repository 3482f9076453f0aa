"""The newest row of every author, or user, as of a day: carried from day to day, so that no job reads all past days.

`newest_anchors` of a day holds each author's newest anchor up to that day, and `since`, the day it was written on. A
commit carries its table forward; where that was not done, or a past day changed since, the next reader does it. So what
is read never depends on who carried, and a job reads one day of newest rows however many days there are.
"""

import logging
from collections.abc import Iterable, Iterator, Sequence
from datetime import date

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.tables import contract
from pipelines.tables.listing import Listing
from pipelines.tables.storage import Storage, batches, rows_of

log = logging.getLogger(__name__)
_FORM = "1"
"""Changes when other rows are carried from the same days."""
ROWS_PER_FILE = 65_536
_WAIT_S = 600.0
"""For another reader that carries the same day."""
_ROWS_HELD = 4 * ROWS_PER_FILE
"""Rows of days that are merged at a time: a table of many days that nobody carried yet is carried in steps."""


def read(
    storage: Storage,
    name: str,
    *,
    before: str | None = None,
    until: str | None = None,
    columns: Sequence[str] | None = None,
    where: pc.Expression | None = None,
) -> pa.Table:
    """The newest row of every key from the days before `before`, or up to and including `until`; sorted by key.

    Columns are those of the table and `since`, or the `columns` asked for. No rows where there are no such days.
    """
    table = contract.newest_of(name)
    day = carry(storage, name, before=before, until=until)
    if day is None:
        empty = contract.spec(table).schema.empty_table()
        return empty.select(list(columns)) if columns else empty
    return storage.read(table, day, list(columns) if columns else None, where)


def carry(storage: Storage, name: str, *, before: str | None = None, until: str | None = None) -> str | None:
    """Brings the newest rows up to date for the last such day of the table, and returns it; None where there is none.

    Costs one look at the table's folder, and one marker, where that was done before.
    """
    listing = storage.listing(name)
    days = listing.up_to(before=before, until=until)
    if days and not _is_current(storage, name, days[-1], listing):
        _catch_up(storage, name, days, listing)
    return days[-1] if days else None


def fingerprint(storage: Storage, name: str, *, before: str | None = None, until: str | None = None) -> str:
    """Hash of all days of a table before `before`, or up to and including `until`, for the lineage of what reads them.

    It changes with any of those days, a row that a newer one replaced included; "" where there are none.
    """
    return storage.listing(name).history(before=before, until=until)


def _made_from(listing: Listing, day: str) -> dict[str, str]:
    return {"form": _FORM, "days": listing.history(until=day)}


def _is_current(storage: Storage, name: str, day: str, listing: Listing) -> bool:
    return storage.is_current(contract.newest_of(name), day, _made_from(listing, day))


def _catch_up(storage: Storage, name: str, days: Sequence[str], listing: Listing) -> None:
    """Carries the last of `days`, from the newest day before it that is carried already and still holds."""
    with storage.lease(contract.newest_of(name), days[-1], wait_s=_WAIT_S):
        if not _is_current(storage, name, days[-1], listing):  # another reader may have done it meanwhile
            _carry_from_last(storage, name, days, listing)


def _carry_from_last(storage: Storage, name: str, days: Sequence[str], listing: Listing) -> None:
    start = len(days) - 1
    while start and not _is_current(storage, name, days[start - 1], listing):
        start -= 1
    base, held = days[start - 1] if start else None, list[pa.Table]()
    for day in days[start:]:
        held.append(_of_day(storage, name, day))
        if day == days[-1] or sum(table.num_rows for table in held) >= _ROWS_HELD:
            _carry(storage, name, base, held, day, _made_from(listing, day))
            base, held = day, []


def _of_day(storage: Storage, name: str, day: str) -> pa.Table:
    rows = storage.read(name, day)
    since = pa.array([date.fromisoformat(day)], pa.date32())
    rows = rows.append_column("since", since.take(pa.array([0] * rows.num_rows, pa.int64())))
    return contract.conform(rows, contract.newest_of(name), day)


def _carry(
    storage: Storage, name: str, base: str | None, held: list[pa.Table], day: str, made_from: dict[str, str]
) -> None:
    """Writes the newest rows of `day`: those of `base` with the rows of the days behind it, `held`, over them."""
    table = contract.newest_of(name)
    (key,) = contract.spec(name).key
    new = _last_of_each(pa.concat_tables(held), key)
    old: Iterator[pa.Table] = iter(())
    if base is not None and rows_of(storage, table, base):
        old = (contract.conform(c, table, base) for c in batches(storage.dataset(table, base), ROWS_PER_FILE))
    with storage.lease(table, day, wait_s=_WAIT_S):
        commit = storage.write(table, day, _of_equal_size(_merged(old, new, key)), made_from)
    log.debug("%s carried to %s | %d rows", table, day, commit.rows)


def _last_of_each(rows: pa.Table, key: str) -> pa.Table:
    """The last row of every key, sorted by key."""
    order = pa.array(range(rows.num_rows), pa.int64())
    last = rows.select([key]).append_column("_row", order).group_by(key).aggregate([("_row", "max")])
    return rows.take(last.sort_by(key)["_row_max"])


def _merged(old: Iterable[pa.Table], new: pa.Table, key: str) -> Iterator[pa.Table]:
    """Two sorted streams of rows as one; where both have a key, the row of `new`."""
    keys, start = new[key].to_numpy(), 0
    for chunk in old:
        end = int(keys.searchsorted(chunk[key][-1].as_py(), side="right"))
        rows = new.slice(start, end - start)
        kept = chunk.filter(pc.invert(pc.is_in(chunk[key], rows[key].combine_chunks())))
        yield pa.concat_tables([kept, rows]).sort_by(key)
        start = end
    yield new.slice(start)


def _of_equal_size(tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """The same rows in tables of ROWS_PER_FILE: what is written depends on the rows alone, not on how they came."""
    waiting: list[pa.Table] = []
    for table in tables:
        waiting.append(table)
        while sum(t.num_rows for t in waiting) >= ROWS_PER_FILE:
            joined = pa.concat_tables(waiting)
            yield joined.slice(0, ROWS_PER_FILE).combine_chunks()
            waiting = [joined.slice(ROWS_PER_FILE)]
    rest = pa.concat_tables(waiting)
    if rest.num_rows:
        yield rest.combine_chunks()
