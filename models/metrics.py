"""AUC and GAUC, exact and tie-aware; normalised entropy and calibration of probabilities."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]


class GroupAUC(NamedTuple):
    """AUC of every group (user): all that a GAUC, and a bootstrap over groups, needs of the scores."""

    groups: npt.NDArray[Any]
    """[G], ids in ascending order."""
    sizes: IntArray
    """[G], rows of each group."""
    aucs: FloatArray
    """[G] for labels [B], [R, G] for labels [R, B]; nan where a group has one class."""

    def mean(self) -> FloatArray:
        """GAUC: [] or [R]; nan where no group has both classes."""
        defined = ~np.isnan(self.aucs)
        weights = self.sizes * defined
        with np.errstate(divide="ignore", invalid="ignore"):
            mean: FloatArray = (np.where(defined, self.aucs, 0.0) * weights).sum(axis=-1) / weights.sum(axis=-1)
        return mean


def auc(labels: npt.ArrayLike, scores: npt.ArrayLike) -> float:
    """Probability that a positive outranks a negative, a tie counting half; nan if one class is absent.

    `labels` [B] are 0 or 1, `scores` [B] finite or infinite. Raises ValueError for NaN scores and other labels.

    Example:
        >>> auc([1, 0, 0], [0.9, 0.2, 0.9])
        0.75
    """
    return gauc(labels, scores, np.zeros(np.shape(scores), dtype=np.int64))


def gauc(labels: npt.ArrayLike, scores: npt.ArrayLike, groups: npt.ArrayLike) -> float:
    """Mean of the groups' AUC weighted by their impressions (HoME eq. 12); nan if no group has both classes.

    Groups (users) with one class are left out, of the weights too. `groups` [B] are ids of any comparable type.

    Example:
        >>> gauc([1, 0, 0, 1], [0.9, 0.2, 0.3, 0.1], groups=["ann", "ann", "bob", "bob"])
        0.5
    """
    if np.shape(labels) != np.shape(scores):
        raise ValueError(f"labels and scores must be [B], got shapes {np.shape(labels)} and {np.shape(scores)}")
    return float(auc_by_group(labels, scores, groups).mean())


def normalised_entropy(labels: npt.ArrayLike, scores: npt.ArrayLike) -> float:
    """Mean log loss of probabilities, divided by that of the mean label for all (He et al. 2014, eq. 3).

    Below 1 the scores say more than the base rate; nan if one class is absent.

    Example:
        >>> normalised_entropy([1, 0], [0.5, 0.5])
        1.0
    """
    given, values = _checked(labels, scores)
    rate = given.mean()
    if rate in (0.0, 1.0):
        return float("nan")
    likely = np.where(given, values, 1.0 - values)
    loss = -np.log(np.maximum(likely, np.finfo(np.float64).tiny)).mean()
    return float(loss / -(rate * np.log(rate) + (1 - rate) * np.log(1 - rate)))


def calibration(labels: npt.ArrayLike, scores: npt.ArrayLike) -> float:
    """Sum of probabilities, divided by the number of positives: 1 is right on average; nan without a positive.

    Example:
        >>> calibration([1, 0, 0, 0], [0.5, 0.25, 0.25, 0.0])
        1.0
    """
    given, values = _checked(labels, scores)
    return float(values.sum() / given.sum()) if given.any() else float("nan")


def auc_by_group(labels: npt.ArrayLike, scores: npt.ArrayLike, groups: npt.ArrayLike) -> GroupAUC:
    """AUC of every group. `labels` [B], or [R, B] for R drawings of the labels, which share one sort of the scores.

    Raises ValueError where `auc` does, and for shapes that differ.

    Example:
        >>> auc_by_group([[1, 0, 0], [0, 1, 1]], [0.9, 0.2, 0.3], groups=[7, 7, 5]).aucs.tolist()
        [[nan, 1.0], [nan, 0.0]]
    """
    positive, values = _checked(labels, scores)
    members = np.asarray(groups)
    if members.shape != values.shape:
        raise ValueError(f"groups has shape {members.shape}, scores {values.shape}; wanted one group per score")
    ids, codes = np.unique(members, return_inverse=True)
    if not len(ids):
        return GroupAUC(ids, np.zeros(0, np.int64), np.zeros((*positive.shape[:-1], 0)))
    aucs, sizes = _auc_by_group(positive, values, codes.astype(np.int64))
    return GroupAUC(ids, sizes, aucs)


def _checked(labels: npt.ArrayLike, scores: npt.ArrayLike) -> tuple[npt.NDArray[np.bool_], FloatArray]:
    given: npt.NDArray[Any] = np.asarray(labels)
    values = np.asarray(scores, dtype=np.float64)
    if values.ndim != 1 or given.ndim not in (1, 2) or given.shape[-1:] != values.shape:
        raise ValueError(f"labels and scores must be [B], got shapes {given.shape} and {values.shape}")
    if np.isnan(values).any():
        raise ValueError(f"{int(np.isnan(values).sum())} scores are NaN; a metric over them would mean nothing")
    if not np.isin(given, (0, 1)).all():
        raise ValueError("labels must be 0 or 1")
    return given.astype(np.bool_), values


def _auc_by_group(positive: npt.NDArray[np.bool_], scores: FloatArray, codes: IntArray) -> tuple[FloatArray, IntArray]:
    """AUC (nan where undefined) and size of groups 0..G-1, by rank sums, without a loop over groups."""
    order = np.lexsort((scores, codes))
    group, score, hit = codes[order], scores[order], positive[..., order]
    sizes = np.bincount(group)
    starts = np.concatenate([[0], np.cumsum(sizes)[:-1]])
    new_run = np.ones(len(score), dtype=np.bool_)
    new_run[1:] = (group[1:] != group[:-1]) | (score[1:] != score[:-1])
    run = np.cumsum(new_run) - 1
    run_start = np.flatnonzero(new_run)
    run_end = np.append(run_start[1:], len(score))
    # Ranks from 1 within the group; the members of a run of ties share the middle one.
    rank = ((run_start + run_end + 1) / 2.0)[run] - starts[group]
    positives = np.add.reduceat(hit, starts, axis=-1, dtype=np.float64)
    negatives = sizes - positives
    rank_sum = np.add.reduceat(rank * hit, starts, axis=-1)
    with np.errstate(divide="ignore", invalid="ignore"):
        values = (rank_sum - positives * (positives + 1) / 2.0) / (positives * negatives)
    values[(positives == 0) | (negatives == 0)] = np.nan
    return values, sizes.astype(np.int64)
