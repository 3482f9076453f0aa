"""The bootstrap over users against one that ranks every resample again."""

import numpy as np
import pytest

from models.metrics import auc_by_group, gauc
from pipelines.studies.bootstrap import RESAMPLES, over_users

USERS, ROWS = 12, 240


def made(seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Users [n], labels [2, n], and the scores of a better and a worse model; the last user has one class only."""
    rng = np.random.default_rng(seed)
    users = rng.integers(0, USERS, ROWS)
    labels = rng.integers(0, 2, (2, ROWS))
    labels[:, users == USERS - 1] = 1
    return users, labels, labels[0] + rng.normal(0, 1, ROWS), labels[0] + rng.normal(0, 2, ROWS)


def naive(counts: np.ndarray, users: np.ndarray, labels: np.ndarray, scores: np.ndarray) -> float:
    """GAUC of a resample that is spelled out: a user who was drawn twice is two users."""
    rows, members = [], []
    for user, count in enumerate(counts):
        for copy in range(count):
            own = np.flatnonzero(users == user)
            rows.append(own)
            members.append(np.full(len(own), 100 * copy + user))
    chosen, groups = np.concatenate(rows), np.concatenate(members)
    return float(np.mean([gauc(one[chosen], scores[chosen], groups) for one in labels]))


def test_it_is_the_percentiles_of_resamples_that_are_ranked_again() -> None:
    users, labels, better, worse = made()
    found = over_users(auc_by_group(labels, better, users), auc_by_group(labels, worse, users), seed=5)
    draws = np.random.default_rng(5).multinomial(USERS, np.full(USERS, 1 / USERS), size=RESAMPLES)
    differences = [naive(c, users, labels, better) - naive(c, users, labels, worse) for c in draws]
    assert (found["ci_low"], found["ci_high"]) == pytest.approx(100 * np.percentile(differences, (2.5, 97.5)), abs=1e-6)
    whole = np.ones(USERS, int)
    wanted = naive(whole, users, labels, better) - naive(whole, users, labels, worse)
    assert found["delta"] == pytest.approx(100 * wanted)
    assert found["ci_low"] < found["delta"] < found["ci_high"]


def test_a_model_does_not_differ_from_itself_and_a_seed_gives_one_interval() -> None:
    users, labels, better, worse = made()
    one, two = auc_by_group(labels[0], better, users), auc_by_group(labels[0], worse, users)
    assert set(over_users(one, one).values()) == {0.0}
    assert over_users(one, two) == over_users(one, two) != over_users(one, two, seed=1)


def test_without_a_user_of_both_classes_there_is_no_difference() -> None:
    found = auc_by_group([1, 1, 0], [0.1, 0.2, 0.3], [1, 1, 2])
    assert over_users(found, found) == {"delta": None, "ci_low": None, "ci_high": None}


def test_other_users_are_refused() -> None:
    one, two = (auc_by_group([1, 0], [0.1, 0.2], users) for users in ([1, 1], [2, 2]))
    with pytest.raises(ValueError, match="of the same users"):
        over_users(one, two)
