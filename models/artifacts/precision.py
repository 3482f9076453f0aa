"""float16, in which a bank may be stored, and float32, which models read."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt


def as_read(state: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """A state as models read it: float16 becomes float32, everything else stays as it is."""
    if state.dtype != np.float16:
        return state
    import torch  # here, because jobs that read no bank import this module, too

    # By torch, which does 30 numbers in the time of one of numpy. It refuses to share what cannot be written to.
    read: npt.NDArray[Any] = torch.from_numpy(state if state.flags.writeable else np.array(state)).float().numpy()
    return read


def stored_as(table: npt.NDArray[Any], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    """float32 as it is stored, codes as they are. What is too large for float16 becomes infinite: banks refuse it."""
    with np.errstate(over="ignore"):
        return table.astype(dtype, copy=False) if table.dtype == np.float32 else table
