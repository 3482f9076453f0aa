"""Which comments the model reads."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.semantics.comments import MAX_CHARS, is_relevant, select


def said(*comments: tuple[str | None, float | None]) -> dict[str, Any]:
    return {"comments": [{"text": text, "engagement": engagement} for text, engagement in comments]}


def test_the_most_engaged_come_first():
    segments = [said(("low", 0.1), ("high", 0.9)), said(("middle", 0.5))]
    assert select(segments, 8) == ["high", "middle", "low"]
    assert select(segments, 2) == ["high", "middle"]
    assert select(segments, 0) == [] == select([], 8)


def test_a_text_is_kept_once_at_its_best():
    segments = [said(("hello", 0.1), ("other", 0.5)), said((" hello ", 0.9), ("hel lo", 0.2))]
    assert select(segments, 8) == ["hello", "other", "hel lo"]


def test_ties_are_broken_by_the_text():
    assert select([said(("b", 0.5), ("c", 0.5), ("a", 0.5))], 2) == ["a", "b"]


@pytest.mark.parametrize("text", ["!drops", "see https://example.org", "123", "...", "", "  ", "\U0001f600 !!"])
def test_what_says_nothing_is_left_out(text: str):
    assert not is_relevant(text)
    assert select([said((text, 1.0), ("words", 0.0))], 8) == ["words"]


@pytest.mark.parametrize("text", ["great !", "42 km", "你好", "Привет"])
def test_words_in_any_script_are_kept(text: str):
    assert select([said((text, 1.0))], 8) == [text]


def test_a_text_is_one_line_of_bounded_length():
    (text,) = select([said(("two\nlines\tof " + "x" * 500, 1.0))], 8)
    assert text.startswith("two lines of xxx") and len(text) == MAX_CHARS


def test_missing_text_or_engagement_is_no_comment_and_no_engagement():
    assert select([said((None, 1.0), ("words", None), ("more", 0.5))], 8) == ["more", "words"]


@given(st.lists(st.tuples(st.text(max_size=12), st.floats(0, 1)), max_size=20), st.integers(0, 10))
def test_at_most_so_many_distinct_lines_by_falling_engagement(comments: list[tuple[str, float]], count: int):
    chosen = select([said(*comments)], count)
    best: dict[str, float] = {}
    for text, engagement in comments:
        line = " ".join(text.split())
        best[line] = max(best.get(line, 0.0), engagement)
    relevant = [line for line in best if is_relevant(line)]
    assert len(chosen) == len(set(chosen)) == min(count, len(relevant))
    assert [best[line] for line in chosen] == sorted((best[line] for line in relevant), reverse=True)[:count]
