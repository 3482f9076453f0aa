"""Content features of two-stage variants: one fixed table by author row, moved forward day by day as anchors are."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from models.catalog import Catalog
from models.quantize import ResidualConfig, ResidualQuantizer
from pipelines.tables import newest
from pipelines.tables.contract import ContractError
from pipelines.tables.storage import Storage

READS = {"tags": "codes", "sids": "codes", "mllm_target": "target", "mllm_history": "history"}
"""Kind of a two-stage variant -> what `models.two_stage` reads."""


class Content(Protocol):
    """A content feature in force."""

    table: Tensor
    """[N+1, J] int64 codes (0 = none), or [N+1, E] float32 embeddings (zeros = none)."""
    num_codes: int
    """Rows that a table of code vectors needs, row 0 included; 1 for embeddings."""

    def advance(self, before: str) -> "Content":
        """Takes in what was known before a day began."""
        ...


class Tags:
    """The tags that the platform's own table gives authors; those of the newest row before the day."""

    def __init__(self, storage: Storage, catalog: Catalog, days: Sequence[str]) -> None:
        """`days` are those to train on: a tag that is first seen later has no vector and counts as none."""
        self._storage, self._catalog = storage, catalog
        trained_on = [d for d in storage.days("authors") if days[0] <= d < days[-1]]
        known = [newest.read(storage, "authors", before=days[0], columns=["tags"])]
        known += [storage.read("authors", day, ["tags"]) for day in trained_on]
        names = sorted({tag for rows in known for tags in rows["tags"].to_pylist() for tag in tags or ()})
        self._code = {name: index for index, name in enumerate(names, 1)}
        self.num_codes = len(names) + 1
        self.table = torch.zeros(catalog.num_authors + 1, 1, dtype=torch.int64)

    def advance(self, before: str) -> "Tags":
        """Reads the newest row of every author before the day `before`."""
        people = newest.read(self._storage, "authors", before=before, columns=["author_id", "tags"])
        codes = [[self._code[t] for t in tags or () if t in self._code] for tags in people["tags"].to_pylist()]
        table = np.zeros((self._catalog.num_authors + 1, max([1, *map(len, codes)])), dtype=np.int64)
        rows = self._catalog.author_rows(people["author_id"].to_numpy())
        for row, of_author in zip(rows.tolist(), codes, strict=True):
            if row:
                table[row, : len(of_author)] = of_author
        self.table = torch.from_numpy(table)
        return self


class Embeddings:
    """The frozen embedding of the newest anchor before the day."""

    num_codes = 1

    def __init__(self, storage: Storage, catalog: Catalog, days: Sequence[str]) -> None:
        """Raises ContractError where a day of anchors before the last of `days` has no embeddings."""
        embedded = set(storage.days("anchor_embeddings"))
        missing = [d for d in storage.days("anchors") if d < days[-1] and d not in embedded]
        if missing:
            raise ContractError(f"table anchor_embeddings: wanted day {missing[0]}, got none; run the job embed first")
        self._storage, self._catalog = storage, catalog
        self.table = torch.zeros(catalog.num_authors + 1, _width(storage))

    def advance(self, before: str) -> "Embeddings":
        """Takes in the newest embedding of every author before the day `before`."""
        made = newest.read(self._storage, "anchor_embeddings", before=before, columns=["author_id", "embedding"])
        rows = self._catalog.author_rows(made["author_id"].to_numpy())
        vectors = made["embedding"].combine_chunks().flatten().to_numpy().reshape(len(rows), self.table.shape[1])
        known = rows > 0
        self.table[torch.from_numpy(rows[known])] = torch.from_numpy(vectors[known])
        return self


class SemanticIds:
    """Residual k-means codes of the embeddings (LARM), learnt from those in force when training ended."""

    def __init__(self, storage: Storage, catalog: Catalog, days: Sequence[str], sizes: ResidualConfig) -> None:
        learnt_from = Embeddings(storage, catalog, days).advance(before=days[-1]).table
        self._embeddings = Embeddings(storage, catalog, days)
        self._quantizer = ResidualQuantizer.fit(learnt_from[_present(learnt_from)], sizes)
        self._first_of_level = 1 + torch.arange(sizes.levels) * sizes.clusters
        self.num_codes = 1 + sizes.levels * sizes.clusters
        self.table = torch.zeros(len(learnt_from), sizes.levels, dtype=torch.int64)

    def advance(self, before: str) -> "SemanticIds":
        """Takes in the anchors of all days before `before`; every level has codes of its own."""
        embeddings = self._embeddings.advance(before).table
        present = _present(embeddings)
        self.table[present] = self._quantizer.codes(embeddings[present]) + self._first_of_level
        return self


def _width(storage: Storage) -> int:
    """E, from the first row of the table. Raises ContractError where it has none."""
    for day in storage.days("anchor_embeddings"):
        first = storage.read("anchor_embeddings", day, ["embedding"])["embedding"]
        if len(first):
            return len(first[0])
    raise ContractError("table anchor_embeddings: wanted at least one row, got none; run the job embed first")


def _present(embeddings: Tensor) -> Tensor:
    return (embeddings != 0).any(dim=1)


def open_content(
    kind: str, storage: Storage, catalog: Catalog, days: Sequence[str], semantic_ids: ResidualConfig
) -> Content:
    """The content feature of a two-stage variant, for training on `days`."""
    if kind == "tags":
        return Tags(storage, catalog, days)
    if kind == "sids":
        return SemanticIds(storage, catalog, days, semantic_ids)
    return Embeddings(storage, catalog, days)
