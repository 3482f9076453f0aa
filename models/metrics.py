"""AUC and GAUC, exact and tie-aware."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]


def auc(labels: npt.ArrayLike, scores: npt.ArrayLike) -> float:
    """Probability that a positive outranks a negative, a tie counting half; nan if one class is absent.

    `labels` [B] are 0 or 1, `scores` [B] finite or infinite. Raises ValueError for NaN scores and other labels.

    Example:
        >>> auc([1, 0, 0], [0.9, 0.2, 0.9])
        0.75
    """
    positive, values = _checked(labels, scores)
    return (
        float(_auc_by_group(positive, values, np.zeros(len(values), dtype=np.int64))[0][0]) if len(values) else np.nan
    )


def gauc(labels: npt.ArrayLike, scores: npt.ArrayLike, groups: npt.ArrayLike) -> float:
    """Mean of the groups' AUC weighted by their impressions (HoME eq. 12); nan if no group has both classes.

    Groups (users) with one class are left out, of the weights too. `groups` [B] are ids of any comparable type.

    Example:
        >>> gauc([1, 0, 0, 1], [0.9, 0.2, 0.3, 0.1], groups=["ann", "ann", "bob", "bob"])
        0.5
    """
    positive, values = _checked(labels, scores)
    members = np.asarray(groups)
    if members.shape != values.shape:
        raise ValueError(f"groups has shape {members.shape}, scores {values.shape}; wanted one group per score")
    if not len(values):
        return np.nan
    codes = np.unique(members, return_inverse=True)[1].astype(np.int64)
    aucs, sizes = _auc_by_group(positive, values, codes)
    defined = ~np.isnan(aucs)
    if not defined.any():
        return np.nan
    return float(np.average(aucs[defined], weights=sizes[defined]))


def _checked(labels: npt.ArrayLike, scores: npt.ArrayLike) -> tuple[npt.NDArray[np.bool_], FloatArray]:
    given: npt.NDArray[Any] = np.asarray(labels)
    values = np.asarray(scores, dtype=np.float64)
    if given.ndim != 1 or given.shape != values.shape:
        raise ValueError(f"labels and scores must be [B], got shapes {given.shape} and {values.shape}")
    if np.isnan(values).any():
        raise ValueError(f"{int(np.isnan(values).sum())} scores are NaN; a metric over them would mean nothing")
    if not np.isin(given, (0, 1)).all():
        raise ValueError("labels must be 0 or 1")
    return given.astype(np.bool_), values


def _auc_by_group(positive: npt.NDArray[np.bool_], scores: FloatArray, codes: IntArray) -> tuple[FloatArray, IntArray]:
    """AUC (nan where undefined) and size of groups 0..G-1, by rank sums, without a loop over groups."""
    order = np.lexsort((scores, codes))
    group, score, hit = codes[order], scores[order], positive[order]
    sizes = np.bincount(group)
    starts = np.concatenate([[0], np.cumsum(sizes)[:-1]])
    new_run = np.ones(len(score), dtype=np.bool_)
    new_run[1:] = (group[1:] != group[:-1]) | (score[1:] != score[:-1])
    run = np.cumsum(new_run) - 1
    run_start = np.flatnonzero(new_run)
    run_end = np.append(run_start[1:], len(score))
    # Ranks from 1 within the group; the members of a run of ties share the middle one.
    rank = ((run_start + run_end + 1) / 2.0)[run] - starts[group]
    positives = np.bincount(group, weights=hit)
    negatives = sizes - positives
    rank_sum = np.bincount(group, weights=rank * hit)
    with np.errstate(divide="ignore", invalid="ignore"):
        values = (rank_sum - positives * (positives + 1) / 2.0) / (positives * negatives)
    values[(positives == 0) | (negatives == 0)] = np.nan
    return values, sizes.astype(np.int64)
