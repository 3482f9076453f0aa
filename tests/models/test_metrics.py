from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.metrics import auc, auc_by_group, gauc

ROWS = st.lists(
    st.tuples(st.integers(0, 1), st.sampled_from([-1.0, 0.0, 0.25, 0.5, 3.0]), st.integers(0, 4)), max_size=30
)


def auc_by_pairs(labels: list[int], scores: list[float]) -> float:
    pairs = [
        (p > n) + 0.5 * (p == n)
        for p, hit in zip(scores, labels, strict=True)
        if hit
        for n, other in zip(scores, labels, strict=True)
        if not other
    ]
    return sum(pairs) / len(pairs) if pairs else math.nan


def test_auc_by_hand() -> None:
    assert auc([1, 0, 1, 0], [0.9, 0.8, 0.7, 0.1]) == 0.75
    assert auc([1, 0], [0.5, 0.5]) == 0.5
    assert auc([0, 1], [1.0, 0.0]) == 0.0


def test_gauc_weighs_users_by_impressions_and_leaves_out_those_with_one_class() -> None:
    labels = [1, 0, 1, 0, 0, 1, 1]
    scores = [0.9, 0.1, 0.2, 0.3, 0.1, 0.7, 0.8]
    users = [5, 5, 8, 8, 8, 9, 9]
    assert gauc(labels, scores, users) == pytest.approx((2 * 1.0 + 3 * 0.5) / 5)


@given(ROWS)
def test_auc_equals_the_count_over_pairs(rows: list[tuple[int, float, int]]) -> None:
    labels, scores = [r[0] for r in rows], [r[1] for r in rows]
    np.testing.assert_allclose(auc(labels, scores), auc_by_pairs(labels, scores))


@given(ROWS)
def test_gauc_equals_the_loop_over_users(rows: list[tuple[int, float, int]]) -> None:
    total, weight = 0.0, 0
    for user in {r[2] for r in rows}:
        own = [r for r in rows if r[2] == user]
        value = auc_by_pairs([r[0] for r in own], [r[1] for r in own])
        if not math.isnan(value):
            total, weight = total + len(own) * value, weight + len(own)
    wanted = total / weight if weight else math.nan
    np.testing.assert_allclose(gauc([r[0] for r in rows], [r[1] for r in rows], [r[2] for r in rows]), wanted)


@given(ROWS, st.randoms())
def test_order_of_rows_and_scale_of_scores_do_not_matter(rows: list[tuple[int, float, int]], random: object) -> None:
    shuffled = list(rows)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    before = gauc([r[0] for r in rows], [r[1] for r in rows], [r[2] for r in rows])
    after = gauc([r[0] for r in shuffled], [8 * r[1] - 3 for r in shuffled], [r[2] for r in shuffled])
    np.testing.assert_allclose(after, before)


@pytest.mark.parametrize(("labels", "scores"), [([], []), ([1, 1], [0.1, 0.2]), ([0], [0.3])])
def test_undefined_metrics_are_nan(labels: list[int], scores: list[float]) -> None:
    assert math.isnan(auc(labels, scores)) and math.isnan(gauc(labels, scores, labels))


@pytest.mark.parametrize(
    ("labels", "scores"), [([0, 1], [0.1, math.nan]), ([0, 2], [0.1, 0.2]), ([0, 1], [0.1]), ([[0, 1]], [[0.1, 0.2]])]
)
def test_rows_that_cannot_be_measured_are_refused(labels: list[int], scores: list[float]) -> None:
    with pytest.raises(ValueError, match="NaN|labels"):
        auc(labels, scores)


@given(ROWS.filter(bool))
def test_drawings_of_labels_share_scores_and_users(rows: list[tuple[int, float, int]]) -> None:
    labels, scores, users = (np.array(column) for column in zip(*rows, strict=True))
    drawn = np.stack([labels, 1 - labels, labels])
    found = auc_by_group(drawn, scores, users)
    assert found.groups.tolist() == sorted(set(users.tolist()))
    assert found.sizes.tolist() == [int((users == user).sum()) for user in found.groups]
    for row, one in zip(found.aucs, drawn, strict=True):
        wanted = [auc(one[users == user], scores[users == user]) for user in found.groups]
        np.testing.assert_allclose(row, wanted)
    np.testing.assert_allclose(found.mean(), [gauc(one, scores, users) for one in drawn])


def test_drawings_of_another_size_are_refused() -> None:
    with pytest.raises(ValueError, match=r"labels and scores must be \[B\]"):
        auc_by_group(np.zeros((3, 2)), np.zeros(3), np.zeros(3))
    with pytest.raises(ValueError, match=r"labels and scores must be \[B\]"):
        gauc(np.zeros((2, 3)), np.zeros(3), np.zeros(3))
