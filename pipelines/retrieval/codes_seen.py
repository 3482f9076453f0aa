"""The codes that were on screen at the clicks of a history, as rows of the user tower's table (LARM 2.3.2)."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from models.artifacts.codebook import Codebook
from pipelines.semantics.codes import CODEBOOKS
from pipelines.tables.artifacts import Artifacts
from pipelines.tables.contract import ContractError
from pipelines.tables.storage import Storage

_NONE = -1


@dataclass(frozen=True, kw_only=True, slots=True)
class CodesSeen:
    """Which codes histories have, and what they mean."""

    table: str
    """One of CODEBOOKS; examples have them in the column `history_<table>`, level after level of one click after
    another, -1 where none were known."""
    codebook: str
    """The version that made them."""
    clusters: tuple[int, ...]
    """Its sizes."""

    @classmethod
    def of(cls, storage: Storage, table: str, days: Sequence[str]) -> "CodesSeen":
        """The published codebook's. Raises ContractError where examples of `days` do not have its codes."""
        folder, manifest = Artifacts(storage).verified(CODEBOOKS[table])
        found = cls(table=table, codebook=manifest.run_id, clusters=Codebook.load(folder).quantizer.clusters)
        for day in days:
            if found.column not in storage.dataset("examples", day).schema.names:
                raise ContractError(
                    f"table examples, day {day}: wanted the column {found.column}, got none; name {table} in "
                    "examples.codes and run the job examples again"
                )
        return found

    @property
    def column(self) -> str:
        """Of examples."""
        return f"history_{self.table}"

    @property
    def num_rows(self) -> int:
        """Of the table that has a row for each code of each level, and row 0 for none."""
        return 1 + sum(self.clusters)

    def rows(self, codes: npt.NDArray[Any], length: int) -> Tensor:
        """codes [B, H * J] of histories of this length H -> [B, H, J] int64. Raises ValueError for another width."""
        levels = len(self.clusters)
        if codes.shape[1] != length * levels:
            raise ValueError(
                f"column {self.column}: wanted {levels} codes of each of {length} clicks, got {codes.shape[1]} numbers"
            )
        offsets = np.array([1, *accumulate(self.clusters, initial=1)][1:-1])
        by_click = codes.reshape(len(codes), length, levels).astype(np.int64)
        return torch.from_numpy(np.where(by_click == _NONE, 0, by_click + offsets))
