from __future__ import annotations

import numpy as np
import pytest

from models.sarm.anchor_tokens import AnchorTokens


def anchors() -> AnchorTokens:
    return AnchorTokens(
        base=np.array([[1, 5, 6], [1, 7, 0]], dtype=np.int32), live=np.array([[0, 2, 2], [0, 0, 0]], dtype=np.int32)
    )


def test_lengths_count_cls_and_not_padding() -> None:
    assert anchors().lengths.tolist() == [3, 2]
    assert AnchorTokens.empty(2).lengths.tolist() == [1, 1]


def test_scatter_places_anchors_and_leaves_the_other_rows_empty() -> None:
    table = anchors().scatter(np.array([3, 1]), 4)
    assert table.base.tolist() == [[1, 0, 0], [1, 7, 0], [1, 0, 0], [1, 5, 6]]
    assert table.live.tolist() == [[0, 0, 0], [0, 0, 0], [0, 0, 0], [0, 2, 2]]


@pytest.mark.parametrize("rows", [[1, 1], [0, 4], [-1, 0], [0]])
def test_scatter_refuses_rows_that_do_not_fit(rows: list[int]) -> None:
    with pytest.raises(ValueError, match="rows"):
        anchors().scatter(np.array(rows), 4)


def test_select_takes_anchors_and_tensors_are_int64() -> None:
    base, live = anchors().select(np.array([1])).tensors()
    assert base.tolist() == [[1, 7, 0]] and str(live.dtype) == "torch.int64"


def test_arrays_of_different_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="base and live"):
        AnchorTokens(base=np.ones((2, 3), np.int32), live=np.zeros((2, 2), np.int32))
