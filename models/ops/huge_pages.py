"""Big tables in huge pages: a row at a random place then costs a fraction of the time to find."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def zeros(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Zeros on the CPU, from numpy, which asks the kernel for huge pages where torch does not.

    Example:
        >>> zeros(2, 3).sum()
        tensor(0.)
    """
    of_numpy = {torch.float32: np.float32, torch.float64: np.float64}[dtype]
    return torch.from_numpy(np.zeros(shape, of_numpy))
