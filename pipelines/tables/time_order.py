"""The rows of a day in the order of time, read a range at a time, whatever order its files have."""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipelines.tables.day_rows import DayRows, RowGroup

_READ_AT_ONCE = 131_072


class TimeOrder:
    """A day of a table, by one of its columns of moments.

    A day whose row groups follow one another in time, as those of our jobs do, is read in place: a range costs the row
    groups that it touches, and rows of the same time come as they do in the files. Of another day the order is found
    first, and kept, 8 bytes a row and 24 while it is made; there the column `number` orders rows of the same time.
    """

    def __init__(self, rows: DayRows, number: str, by: str = "ts_ms") -> None:
        self._rows, self._by, self._groups = rows, by, rows.groups(by)
        self._starts = np.cumsum([0, *(group.rows for group in self._groups)])
        self._order = None if _follow(self._groups) else _order(rows, by, number)

    def __len__(self) -> int:
        """Rows of the day."""
        return int(self._starts[-1])

    def moments(self) -> Iterator[npt.NDArray[np.int64]]:
        """The moments of all rows, in bounded pieces, as they lie in the files."""
        for part in self._rows.batches(_READ_AT_ONCE, [self._by]):
            yield part[self._by].to_numpy()

    def read(self, rows: range, columns: list[str]) -> pa.Table:
        """The rows at these places of the order, the oldest first. `columns` must have the one that it goes by."""
        if self._order is None:
            first, last = (np.searchsorted(self._starts, place, side="right") - 1 for place in (rows[0], rows[-1]))
            table = self._rows.table_of(self._groups[first : last + 1], columns)
            in_time = np.argsort(table[self._by].to_numpy(), kind="stable")
            return table.take(in_time[rows.start - int(self._starts[first]) :][: len(rows)])
        chosen = self._order[rows.start : rows.stop]
        wanted = np.sort(chosen)
        group_of = np.searchsorted(self._starts, wanted, side="right") - 1
        touched = np.unique(group_of)
        table = self._rows.table_of([self._groups[group] for group in touched], columns)
        # Where each group that was read begins among the rows that were read.
        begins = np.cumsum([0, *(self._groups[group].rows for group in touched)])[:-1]
        places = wanted - self._starts[group_of] + begins[np.searchsorted(touched, group_of)]
        return table.take(places[np.searchsorted(wanted, chosen)])


def _follow(groups: list[RowGroup]) -> bool:
    """Whether no row group begins before the one before it has ended."""
    ends = [(group.least, group.most) for group in groups]
    return all(
        before[1] is not None and after[0] is not None and before[1] <= after[0]
        for before, after in zip(ends, ends[1:], strict=False)
    )


def _order(rows: DayRows, by: str, number: str) -> npt.NDArray[np.int64]:
    parts = list(rows.batches(_READ_AT_ONCE, [by, number]))
    moment, tie = (np.concatenate([part[name].to_numpy() for part in parts]) for name in (by, number))
    order: npt.NDArray[np.int64] = np.lexsort((tie, moment))
    return order
