"""Which rows of a file can be used, and of each other row the first thing that was wrong with it."""

from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

Bools = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
_SHOWN = 80


class Refusals:
    """The rows of one file. A row that cannot be used is refused once; the others go on."""

    def __init__(self, name: str, job: str, place: str = "row") -> None:
        """`name` of the file, the `job` that reads it, and what its rows are called: row, or line."""
        self.name = name
        self.place = f"{name} {place}"
        self.refused: list[dict[str, str]] = []
        """Rows for `rejections`."""
        self.first_of: dict[tuple[str, str], tuple[int, str]] = {}
        """By column and what was wanted: how many rows were refused for it, and the first of them."""
        self.row: Ints = np.zeros(0, np.int64)
        """[rows] the number of each row that was read."""
        self.good: Bools = np.zeros(0, bool)
        """[rows] those that were not refused so far."""
        self._before, self._after = f"{name}, {place} ", f"; correct it and run the job {job} again"

    def __len__(self) -> int:
        """Rows that were read, the refused among them."""
        return len(self.row)

    def number(self, row: Ints) -> None:
        """Says which number each of the rows has that were read."""
        self.row, self.good = row, np.ones(len(row), bool)

    def refuse(self, bad: Bools, column: str, wanted: str) -> None:
        """Refuses those of the rows that are still good."""
        for index in np.flatnonzero(bad & self.good).tolist():
            got = self.cell(column, index)
            self.note(int(self.row[index]), column, wanted, "nothing" if got is None else repr(got[:_SHOWN]))
        self.good &= ~bad

    def refuse_repeated(self, ids: Ints, column: str) -> None:
        """Refuses rows whose id a row above has: of each id the first row is kept."""
        order = np.flatnonzero(self.good)
        _, first = np.unique(ids[order], return_index=True)
        repeated = self.good.copy()
        repeated[order[first]] = False
        self.refuse(repeated, column, "an id that no row above has")

    def note(self, row: int, column: str, wanted: str, got: str) -> None:
        """A refused row of that number."""
        where = f"column {column}: " if column else ""
        detail = f"{self._before}{row}, {where}wanted {wanted}, got {got}{self._after}"
        self.refused.append({"key": f"{self.place} {row}", "reason": "bad_row", "detail": detail})
        count, first = self.first_of.get((column, wanted), (0, detail))
        self.first_of[column, wanted] = count + 1, first

    def cell(self, column: str, index: int) -> Any:
        """The text of a cell, None where it is blank."""
        raise NotImplementedError


def summary(files: Iterable[Refusals]) -> list[str]:
    """One line for each thing that was wrong in files."""
    return [
        f"{count} row(s) of {file.name} rejected, the first: {detail}"
        for file in files
        for count, detail in file.first_of.values()
    ]
