"""The memory bank (SARM eq. 8): author -> (h_CLS, h_TAR)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

NEVER = -1
"""``written_step`` of a row that was never written."""


class MemoryBank:
    """Two vectors per author row, and the step that wrote them. Row 0 is the unknown author.

    A plain class and no ``nn.Module``: it is state of the training loop, neither a parameter nor a buffer that
    data-parallel training would broadcast at each step.
    """

    def __init__(self, num_authors: int, dim: int) -> None:
        self.vectors = torch.zeros(num_authors + 1, 2, dim)
        """[N+1, 2, D] float32: h_CLS, h_TAR."""
        self.written_step = torch.full((num_authors + 1,), NEVER, dtype=torch.int64)
        """[N+1] int64, NEVER where nothing was written."""

    def read(self, rows: Tensor) -> Tensor:
        """rows [...] -> [..., 2, D], detached. Rows never written are zeros."""
        return self.vectors[rows]

    def read_part(self, rows: Tensor, part: int) -> Tensor:
        """rows [...] -> h_CLS (part 0) or h_TAR (part 1) [..., D], detached."""
        return self.vectors[:, part][rows]

    def write(self, rows: Tensor, vectors: Tensor, step: int) -> None:
        """Overwrite rows [A] with vectors [A, 2, D]; of rows that occur twice the last one stays.

        Raises ValueError for shapes that do not fit, for rows outside the bank and for a negative step.
        """
        wanted = (len(rows), *self.vectors.shape[1:])
        if rows.ndim != 1 or tuple(vectors.shape) != wanted:
            raise ValueError(f"rows {tuple(rows.shape)} want vectors of shape {wanted}, got {tuple(vectors.shape)}")
        if step < 0:
            raise ValueError(f"step must be >= 0, got {step}")
        if not len(rows):
            return
        if int(rows.min()) < 0 or int(rows.max()) >= len(self.vectors):
            raise ValueError(
                f"rows {int(rows.min())}..{int(rows.max())} are outside a bank of {len(self.vectors)} rows"
            )
        unique, inverse = torch.unique(rows, return_inverse=True)
        last = torch.zeros(len(unique), dtype=torch.int64)
        last.scatter_reduce_(0, inverse, torch.arange(len(rows)), reduce="amax")
        self.vectors[unique] = vectors.detach()[last].to(self.vectors.dtype)
        self.written_step[unique] = step

    def to_numpy(self) -> npt.NDArray[Any]:
        """A copy of the vectors, float32 [N+1, 2, D], for a snapshot."""
        return np.array(self.vectors.numpy())

    def save(self, path: Path) -> None:
        """Write vectors and steps as one safetensors file, to resume training from."""
        save_file({"vectors": self.vectors, "written_step": self.written_step}, path)

    @classmethod
    def load(cls, path: Path) -> MemoryBank:
        """Read what ``save`` wrote."""
        tensors = load_file(path)
        missing = {"vectors", "written_step"} - set(tensors)
        if missing:
            raise ValueError(f"{path} is no memory bank: it has {sorted(tensors)} and misses {sorted(missing)}")
        bank = cls(len(tensors["vectors"]) - 1, tensors["vectors"].shape[-1])
        bank.vectors, bank.written_step = tensors["vectors"], tensors["written_step"]
        return bank
