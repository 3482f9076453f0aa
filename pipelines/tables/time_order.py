"""The rows of a day in the order of time, read some ranges at a time, whatever order its files have."""

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipelines.tables.day_rows import DayRows, RowGroup

_READ_AT_ONCE = 131_072


class TimeOrder:
    """A day of a table, by one of its columns of moments.

    A day whose row groups follow one another in time, as those of our jobs do, is read in place: ranges cost the row
    groups that they touch, and rows of the same time come as they do in the files. Of another day the order is found
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

    def read(self, rows: Sequence[range], columns: list[str]) -> pa.Table:
        """The rows at the places of these ranges of the order, which come one after another, the oldest first.

        `columns` must have the one that it goes by.
        """
        places = np.concatenate([np.arange(of.start, of.stop) for of in rows])
        chosen = places if self._order is None else self._order[places]
        wanted = np.sort(chosen)
        group_of = np.searchsorted(self._starts, wanted, side="right") - 1
        touched = np.unique(group_of)
        table = self._rows.table_of([self._groups[group] for group in touched], columns)
        # Where each group that was read begins among the rows that were read.
        begins = np.cumsum([0, *(self._groups[group].rows for group in touched)])[:-1]
        taken = wanted - self._starts[group_of] + begins[np.searchsorted(touched, group_of)]
        if self._order is None:  # groups follow one another, rows within one may not
            return table.take(np.argsort(table[self._by].to_numpy(), kind="stable")[taken])
        return table.take(taken[np.searchsorted(wanted, chosen)])


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
