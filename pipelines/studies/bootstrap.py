"""What a difference of GAUC owes to the users of the scored day: a bootstrap over users, within one seed.

It says nothing of other worlds or other initialisations; those are what the interval over seeds is about. GAUC is a
weighted mean of users' AUCs, so a resample of users is one row of a matrix of counts, and nothing is ranked again.
"""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from models.metrics import GroupAUC

RESAMPLES = 1_000
_SHARES = (2.5, 97.5)
"""Percentiles that bound the 95 % interval."""
_TOGETHER = 100
"""Resamples whose counts are held at a time."""

Floats = npt.NDArray[np.float64]


def over_users(model: GroupAUC, other: GroupAUC, seed: int = 0) -> dict[str, float | None]:
    """GAUC of `model` minus that of `other` in points, {delta, ci_low, ci_high}, with the 95 % interval over users.

    Both are of the same labels, [U] or [R, U]: of R drawings, the mean difference counts. None where no user has both
    classes. Raises ValueError where they are of other users.
    """
    if not np.array_equal(model.groups, other.groups) or model.aucs.shape != other.aucs.shape:
        raise ValueError(f"wanted AUCs of the same users, got {model.aucs.shape} and {other.aucs.shape}")
    differences = np.atleast_2d(model.aucs - other.aucs)
    defined = ~np.isnan(differences)
    weights = (defined * model.sizes).T
    weighted = np.where(defined, differences, 0.0).T * weights
    if not weights.sum(axis=0).all():
        return dict.fromkeys(("delta", "ci_low", "ci_high"))
    delta = float((weighted.sum(axis=0) / weights.sum(axis=0)).mean())
    with np.errstate(divide="ignore", invalid="ignore"):
        drawn = np.concatenate(
            [(counts @ weighted / (counts @ weights)).mean(axis=1) for counts in _resamples(len(weights), seed)]
        )
    # A resample of a few users may hold none with both classes: it has no GAUC.
    low, high = np.nanpercentile(drawn, _SHARES)
    return {"delta": 100 * delta, "ci_low": 100 * float(low), "ci_high": 100 * float(high)}


def _resamples(users: int, seed: int) -> Iterator[Floats]:
    """How often each user is in a resample of as many users: RESAMPLES rows, [_TOGETHER, U] at a time."""
    rng = np.random.default_rng(seed)
    for _ in range(RESAMPLES // _TOGETHER):
        yield rng.multinomial(users, np.full(users, 1.0 / users), size=_TOGETHER).astype(np.float64)
