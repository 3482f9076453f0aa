"""Id dropout: now and then a training example has an unknown user or author, so that row 0 learns what those are like.

Without it nobody in training is unknown, row 0 stays where it began, and its scores are those of no one.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from models.batch import RankingBatch

_USER, _AUTHOR = 1, 2
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)

Words = npt.NDArray[np.uint64]


def without_some_ids(batch: RankingBatch, share: float, seed: int, step: int) -> RankingBatch:
    """The batch, in which about `share` of the users, and apart from them of the target authors, are unknown.

    What is drawn follows from the seed, the step and the example itself: the same for any number of workers, and after
    a resume. Profile and category go with the id, as they do for who is unknown; histories stay.

    Example:
        >>> from models.catalog import Catalog
        >>> from models.batch import collate
        >>> catalog = Catalog.build(user_ids=[7], user_profile=[[0]], author_ids=[30], author_category=[1])
        >>> rows = {"user_id": [7] * 1000, "author_id": [30] * 1000, "ts_ms": range(0, 3_600_000_000, 3_600_000)}
        >>> rows |= {"history_author_ids": [[30]] * 1000, "history_watch_s": [[9.0]] * 1000}
        >>> rows |= {"history_age_s": [[float(age)] for age in range(1000)]}
        >>> batch = collate({name: np.array(column) for name, column in rows.items()}, catalog)
        >>> dropped = without_some_ids(batch, share=0.1, seed=0, step=3)
        >>> [bool(50 < (ids == 0).sum() < 150) for ids in (dropped.user, dropped.author)]
        [True, True]
    """
    if not share:
        return batch
    drawn = _of_examples(batch)
    no_user, no_author = (_uniform(drawn, seed, step, side) < share for side in (_USER, _AUTHOR))
    user, author = (torch.from_numpy(mask).to(batch.user.device) for mask in (no_user, no_author))
    return batch._replace(
        user=batch.user.masked_fill(user, 0),
        user_profile=batch.user_profile.masked_fill(user[:, None], 0),
        author=batch.author.masked_fill(author, 0),
        author_category=batch.author_category.masked_fill(author, 0),
    )


def _of_examples(batch: RankingBatch) -> Words:
    """[B], a number that tells examples apart: of user, author, hour and the age of what the user watched last."""
    words = [part.cpu().numpy().astype(np.uint64) for part in (batch.user, batch.author, batch.hour)]
    if batch.history_age_s.shape[1]:
        words.append(batch.history_age_s[:, -1].cpu().contiguous().numpy().view(np.uint32).astype(np.uint64))
    mixed = np.zeros(batch.size, np.uint64)
    for word in words:
        mixed = _mixed(mixed + _GOLDEN + word)
    return mixed


def _uniform(drawn: Words, *keys: int) -> npt.NDArray[np.float64]:
    for key in keys:
        drawn = _mixed(drawn + _GOLDEN + np.uint64(key % 2**64))
    uniform: npt.NDArray[np.float64] = (drawn >> np.uint64(11)).astype(np.float64) * 2.0**-53
    return uniform


def _mixed(words: Words) -> Words:
    """The finaliser of SplitMix64 (Steele et al., 2014): each bit of a word has a say in each bit of the result."""
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return words ^ (words >> np.uint64(31))
