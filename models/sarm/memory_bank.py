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
"""`written_step` of a row that was never written."""
_MOST_ASKED = 2**17
"""Rows whose age is looked at."""


class MemoryBank:
    """Two vectors per author row, and the step that wrote them. Row 0 is the unknown author.

    A plain class and no `nn.Module`: it is state of the training loop, neither a parameter nor a buffer that
    data-parallel training would broadcast at each step. It stays on the device that it was made on, and rows and
    vectors that it is given must be there.

    Example:
        >>> bank = MemoryBank(num_authors=3, dim=2)
        >>> bank.write(torch.tensor([3]), torch.ones(1, 2, 2), step=7)
        >>> bank.read_part(torch.tensor([2, 3]), 0)
        tensor([[0., 0.],
                [1., 1.]])
        >>> bank.written_step.tolist()
        [-1, -1, -1, 7]
    """

    def __init__(self, num_authors: int, dim: int, device: torch.device | str = "cpu") -> None:
        self.vectors = torch.zeros(num_authors + 1, 2, dim, device=device)
        """[N+1, 2, D] float32: h_CLS, h_TAR."""
        self.written_step = torch.full((num_authors + 1,), NEVER, dtype=torch.int64, device=device)
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
        last = torch.zeros_like(unique, dtype=torch.int64)
        last.scatter_reduce_(0, inverse, torch.arange(len(rows), device=rows.device), reduce="amax")
        self.vectors[unique] = vectors.detach()[last].to(self.vectors.dtype)
        self.written_step[unique] = step

    def age(self, step: int) -> float:
        """Steps from when a row was written to `step`, the mean of all rows that were; nan where none was.

        Of a big bank, the mean of some of its rows, evenly spaced: it is asked while training waits.
        """
        some = self.written_step[:: 1 + len(self.written_step) // _MOST_ASKED]
        written = some[some != NEVER]
        return step - float(written.double().mean())

    def to_numpy(self) -> npt.NDArray[Any]:
        """A copy of the vectors, float32 [N+1, 2, D], for a snapshot."""
        return np.array(self.vectors.cpu().numpy())

    def save(self, path: Path) -> None:
        """Write vectors and steps as one safetensors file, to resume training from."""
        save_file({"vectors": self.vectors.cpu(), "written_step": self.written_step.cpu()}, path)

    @classmethod
    def load(cls, path: Path, device: torch.device | str = "cpu") -> MemoryBank:
        """Read what `save` wrote on any device. Raises ValueError for a file of another kind."""
        tensors = load_file(path)
        missing = {"vectors", "written_step"} - set(tensors)
        if missing:
            raise ValueError(f"{path} is no memory bank: it has {sorted(tensors)} and misses {sorted(missing)}")
        bank = cls(len(tensors["vectors"]) - 1, tensors["vectors"].shape[-1], device)
        bank.vectors.copy_(tensors["vectors"])
        bank.written_step.copy_(tensors["written_step"])
        return bank
