"""Content features of two-stage variants: one fixed table by author row, moved forward day by day as anchors are."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from models.catalog import Catalog
from pipelines.storage import Storage

READS = {"tags": "codes"}
"""Kind of a two-stage variant -> what `models.two_stage` reads."""


class Content(Protocol):
    """A content feature in force."""

    table: Tensor
    """[N+1, J] int64 codes (0 = none)."""
    num_codes: int
    """Rows that a table of code vectors needs, row 0 included."""

    def advance(self, before: str) -> "Content":
        """Takes in what was known before a day began."""
        ...


class Tags:
    """The tags that the platform's own table gives authors; those of the newest row before the day."""

    def __init__(self, storage: Storage, catalog: Catalog, days: Sequence[str]) -> None:
        """`days` are those to train on: a tag that is first seen later has no vector and counts as none."""
        self._storage, self._catalog = storage, catalog
        known = storage.read_days("authors", [d for d in storage.days("authors") if d < days[-1]], ["tags"])
        names = sorted({tag for tags in known["tags"].to_pylist() for tag in tags or ()})
        self._code = {name: index for index, name in enumerate(names, 1)}
        self.num_codes = len(names) + 1
        self.table = torch.zeros(catalog.num_authors + 1, 1, dtype=torch.int64)

    def advance(self, before: str) -> "Tags":
        """Reads the authors' rows of all days before `before`."""
        days = [d for d in self._storage.days("authors") if d < before]
        newest = self._storage.latest("authors", days[-1]) if days else self._storage.read_days("authors", [])
        codes = [[self._code[t] for t in tags or () if t in self._code] for tags in newest["tags"].to_pylist()]
        table = np.zeros((self._catalog.num_authors + 1, max([1, *map(len, codes)])), dtype=np.int64)
        rows = self._catalog.author_rows(newest["author_id"].to_numpy())
        for row, of_author in zip(rows.tolist(), codes, strict=True):
            if row:
                table[row, : len(of_author)] = of_author
        self.table = torch.from_numpy(table)
        return self


def open_content(kind: str, storage: Storage, catalog: Catalog, days: Sequence[str]) -> Content:
    """The content feature of a two-stage variant, for training on `days`."""
    return {"tags": Tags}[kind](storage, catalog, days)
