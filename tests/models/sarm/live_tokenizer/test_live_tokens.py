from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from models.sarm.live_tokenizer.live_tokens import LiveTokens
from tests.models.sarm.live_tokenizer.test_merges import text

A, B, C, D, BC = range(5)


def base() -> dict[str, Any]:
    """a, b, c, d, and bc, which the base makes itself."""
    vocabulary = {"a": A, "b": B, "c": C, "d": D, "bc": BC}
    return {"model": {"vocab": vocabulary, "merges": [["b", "c"]]}}


def extended(*learned: tuple[str, str]) -> tuple[LiveTokens, dict[str, Any]]:
    state = base()
    return LiveTokens.none(state).extended(state, learned), state


def test_a_merge_of_merges_stands_for_all_of_its_pieces() -> None:
    live, state = extended((text(A), text(BC)), (text(A, BC), text(D)))
    assert live.pieces == [(A, BC), (A, BC, D)]
    assert state["model"]["vocab"] | {"abc": 5, "abcd": 6} == state["model"]["vocab"]
    assert state["model"]["merges"] == [["b", "c"], ["a", "bc"], ["abc", "d"]]
    assert live.expand([6, D, 5]) == (A, BC, D, D, A, BC)


def test_cover_gives_the_live_token_over_every_base_id() -> None:
    live, _ = extended((text(A), text(BC)), (text(A, BC), text(D)))
    ids, number = live.cover(np.array([D, 6, A, 5]))
    assert ids.tolist() == [D, A, BC, D, A, A, BC]
    assert number.tolist() == [0, 2, 2, 2, 0, 1, 1]
    assert live.span(np.array([6, 0])).tolist() == [3, 1]
    assert live.cover(np.zeros(0, dtype=np.int64))[0].tolist() == []


def test_a_merge_that_spells_another_token_is_left_out_with_all_upon_it() -> None:
    live, _ = extended((text(B), text(C)), (text(B, C), text(D)), (text(A), text(D)))
    assert live.pieces == [(A, D)]  # "bc" is the base's; "bcd" was learnt upon it
    live, _ = extended((text(A), text(BC)), (text(A), text(B)), (text(A, B), text(C)))
    assert live.pieces == [(A, BC), (A, B)]  # "abc" stands for (a, bc), not for (a, b, c)


def test_an_extension_appends_to_what_was_there() -> None:
    first, state = extended((text(A), text(D)))
    second = first.extended(state, [(text(5), text(C))])
    assert second.pieces == [(A, D), (A, D, C)] and first.pieces == [(A, D)]
    assert state["model"]["vocab"]["adc"] == 6


def test_live_ids_come_behind_gaps_in_the_base_ids() -> None:
    state = base()
    state["model"]["vocab"]["added"] = 9
    live = LiveTokens.none(state).extended(state, [(text(A), text(D))])
    assert state["model"]["vocab"]["ad"] == 10 and live.expand([10]) == (A, D)


def test_ids_beyond_what_can_be_written_are_refused() -> None:
    state = base()
    state["model"]["vocab"]["added"] = 0xFFFFE
    one = LiveTokens.none(state).extended(state, [(text(A), text(D))])
    with pytest.raises(ValueError, match="at most 1048576 ids"):
        one.extended(state, [(text(A), text(C))])


def test_a_file_whose_merges_make_other_ids_is_refused() -> None:
    _, state = extended((text(A), text(D)), (text(D), text(D)))
    state["model"]["vocab"] |= {"ad": 6, "dd": 5}
    with pytest.raises(ValueError, match="makes id 6, wanted 5"):
        LiveTokens(state, 5, 1)


def test_what_an_extension_replaces_is_what_stood_over_its_base_ids() -> None:
    first, state = extended((text(A), text(BC)), (text(D), text(D)))
    longer = [(text(5), text(D)), (text(5, D), text(D)), (text(C), text(D))]
    live = first.extended(state, longer)
    assert live.pieces[2:] == [(A, BC, D), (A, BC, D, D), (C, D)]
    # abcd: abc stood over its first two; abcdd: abc, and dd over its last two; cd: nothing.
    assert [parts.tolist() for parts in live.replaced(2)] == [[1, 1, 0], [1, 1, 2, 2], [0, 0]]
    assert live.replaced(5) == []
