from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from models.ops.rotary import rotary_turns, rotate, rotate_reference
from tests.models.ops.agreement import TOLERANCE, assert_agree

CPU = torch.device("cpu")


@pytest.mark.parametrize("dtype", TOLERANCE)
@given(size=st.tuples(st.integers(1, 3), st.integers(1, 6), st.integers(1, 4)), seed=st.integers(0, 99))
def test_complex_numbers_turn_as_real_ones(dtype: torch.dtype, size: tuple[int, int, int], seed: int) -> None:
    torch.manual_seed(seed)
    batch, length, pairs = size
    turns = rotary_turns(length, 2 * pairs, CPU)
    assert_agree(rotate, rotate_reference, torch.randn(batch, length, 2 * pairs, dtype=dtype), turns)


def test_scores_depend_on_the_distance_only() -> None:
    torch.manual_seed(0)
    turns = rotary_turns(12, 8, CPU)
    query, key = torch.randn(8), torch.randn(8)
    scores = rotate(query.expand(12, 8), turns) @ rotate(key.expand(12, 8), turns).T
    torch.testing.assert_close(scores[2, 5], scores[6, 9])
    assert not torch.isclose(scores[2, 5], scores[2, 6])


def test_the_first_pair_turns_by_its_position_in_radians() -> None:
    x = torch.tensor([[1.0, 0.0, 0.0, 0.0]]).expand(3, 4)
    turned = rotate(x, rotary_turns(3, 4, CPU))
    torch.testing.assert_close(turned[2, :2], torch.tensor([-0.41614684, 0.9092974]))
