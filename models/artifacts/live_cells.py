"""Cells of an index of very many lives: a search looks into those nearest to the user alone (inverted lists, IVF)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from models.artifacts.manifest import ArtifactError

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class LiveCells:
    """C cells; each live is in the one whose centroid is nearest to its vector."""

    centroids: Floats
    """[C, D], of length 1."""
    cells: npt.NDArray[np.int32]
    """[n], of each live."""
    probes: int
    """Cells that are looked into for a user: those with the largest inner products."""

    def __post_init__(self) -> None:
        """Raises ArtifactError for cells that hold no lives rightly."""
        count = len(self.centroids)
        if self.centroids.ndim != 2 or self.centroids.dtype != np.float32 or not np.isfinite(self.centroids).all():
            raise ArtifactError(f"live_index: wanted centroids [C, D] of finite float32, got {self.centroids.shape}")
        if self.cells.dtype != np.int32 or (len(self.cells) and not 0 <= self.cells.min() <= self.cells.max() < count):
            raise ArtifactError(f"live_index: wanted cells from 0 to {count - 1} of int32, got {self.cells.dtype}")
        if not 1 <= self.probes <= count:
            raise ArtifactError(f"live_index: wanted probes from 1 to {count}, got {self.probes}")
