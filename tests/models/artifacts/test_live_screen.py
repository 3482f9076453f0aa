"""What came on screen of late: the newest segment that anybody knew, and files that are refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.artifacts import live_screen
from models.artifacts.manifest import ArtifactError
from models.artifacts.screens import Screen, codes_at

DELAY_MS = 3
SEGMENTS = st.dictionaries(
    st.tuples(st.integers(0, 5), st.integers(0, 40)), st.tuples(st.integers(0, 3), st.integers(0, 9)), max_size=30
)
"""(author, end) -> live, code."""
MOMENTS = st.lists(st.tuples(st.integers(-1, 6), st.integers(0, 50)), max_size=20)
"""Author, moment."""


def screen_of(segments: dict[tuple[int, int], tuple[int, int]]) -> Screen:
    ordered = sorted(segments.items())
    return Screen(
        codebook="v1",
        clusters=(10, 2),
        delay_ms=DELAY_MS,
        author_ids=np.array([author for (author, _), _ in ordered], np.int64),
        live_ids=np.array([live for _, (live, _) in ordered], np.int64),
        end_ts_ms=np.array([end for (_, end), _ in ordered], np.int64),
        codes=np.array([[code, code % 2] for _, (_, code) in ordered], np.int32).reshape(-1, 2),
    )


@given(SEGMENTS, SEGMENTS, MOMENTS, st.none() | st.sets(st.integers(0, 3)))
def test_an_author_has_the_newest_segment_that_any_of_several_knew(
    first: dict[Any, Any], second: dict[Any, Any], moments: list[tuple[int, int]], lives: set[int] | None
) -> None:
    screens = [screen_of(first), screen_of(second)]
    authors, times = (np.array([moment[at] for moment in moments], np.int64) for at in (0, 1))
    asked = None if lives is None else (lambda _, of: np.isin(of, sorted(lives)))
    found = codes_at(screens, authors, times, asked).tolist()
    for (author, ts_ms), codes in zip(moments, found, strict=True):
        newest = (-1, (-1, -1))
        for of in (first, second):
            known = [end for which, end in of if which == author and end + DELAY_MS <= ts_ms]
            known = [end for end in known if lives is None or of[author, end][0] in lives]
            if known and max(known) > newest[0]:
                code = of[author, max(known)][1]
                newest = max(known), (code, code % 2)
        assert tuple(codes) == newest[1]
    for ts_ms in {moment[1] for moment in moments}:  # one moment for all is the same
        assert codes_at(screens, authors, ts_ms).tolist() == codes_at(screens, authors, times * 0 + ts_ms).tolist()


def test_what_was_saved_is_what_is_loaded(tmp_path: Path) -> None:
    screen = screen_of({(1, 10): (7, 3), (1, 20): (7, 4), (2, 15): (8, 9)})
    live_screen.save(screen, 30, tmp_path)
    again = live_screen.load(tmp_path)
    for name in ("author_ids", "live_ids", "end_ts_ms", "codes"):
        assert np.array_equal(getattr(again, name), getattr(screen, name))
    assert (again.codebook, again.clusters, again.delay_ms, again.newest_ms) == ("v1", (10, 2), DELAY_MS, 20)
    assert again.meaning == screen.meaning
    for other in (replace(screen, codebook="v2"), replace(screen, clusters=(10, 3)), replace(screen, delay_ms=0)):
        assert again.meaning != other.meaning


def test_each_asked_for_may_have_a_live_of_its_own() -> None:
    screen, wanted = screen_of({(1, 10): (7, 3), (1, 20): (8, 4), (2, 15): (9, 5)}), np.array([7, 8, 7, 0])
    found = codes_at([screen], np.array([1, 1, 2, 1]), 50, lambda at, of: (wanted[at] == of) | (wanted[at] == 0))
    assert found[:, 0].tolist() == [3, 4, -1, 4]


def test_nothing_on_screen_can_be_saved_too(tmp_path: Path) -> None:
    live_screen.save(screen_of({}), 30, tmp_path)
    screen = live_screen.load(tmp_path)
    assert codes_at([screen], np.array([1, 2]), 50).tolist() == [[-1, -1], [-1, -1]]
    assert screen.newest_ms == 0


def arrays(**values: Any) -> Callable[[Path], None]:
    """Others in the place of some of its arrays."""

    def apply(folder: Path) -> None:
        path = folder / "segments.safetensors"
        live_screen.save_file(live_screen.load_file(path) | values, path)

    return apply


def head(**values: Any) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        path = folder / "screen.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | values))

    return apply


DAMAGE: dict[str, tuple[Callable[[Path], None], str]] = {
    "another format": (head(format=2), "wanted format 1, .* got 2"),
    "no level": (head(clusters=[]), "levels of 1 code or more"),
    "an empty level": (head(clusters=[10, 0]), "levels of 1 code or more"),
    "a negative delay": (head(delay_ms=-1), "a delay of 0 or more, got 1, .* and -1"),
    "no number": (head(delay_ms="soon"), "cannot be read"),
    "a level more": (head(clusters=[10, 2, 2]), r"codes: wanted int32 \(3, 3\), got int32 \(3, 2\)"),
    "no such code": (head(clusters=[10, 1]), r"wanted codes from 0 of levels of 10, 1, got \[3, 0\] to \[9, 1\]"),
    "no code": (arrays(codes=np.full((3, 2), -1, np.int32)), "wanted codes from 0 of levels"),
    "another type": (arrays(live_ids=np.zeros(3)), r"live_ids: wanted int64 \(3,\), got float64"),
    "a row less": (arrays(live_ids=np.zeros(2, np.int64)), r"live_ids: wanted int64 \(3,\), got int64 \(2,\)"),
    "authors unsorted": (arrays(author_ids=np.array([2, 1, 1])), "ascending and unique by author and end"),
    "ends unsorted": (arrays(end_ts_ms=np.array([20, 10, 15])), "ascending and unique by author and end"),
    "one twice": (arrays(end_ts_ms=np.array([20, 20, 15])), "ascending and unique by author and end"),
    "before 1970": (arrays(end_ts_ms=np.array([-5, 20, 15])), "wanted segments that end from 1970"),
    "the future": (arrays(end_ts_ms=np.array([10, 10**9, 15])), "wanted segments that end from 1970 to 27, got"),
    "a file less": (lambda folder: (folder / "segments.safetensors").unlink(), "cannot be read"),
    "no file at all": (lambda folder: (folder / "segments.safetensors").write_bytes(b"none"), "cannot be read"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_what_does_not_fit_is_refused(tmp_path: Path, name: str) -> None:
    change, message = DAMAGE[name]
    live_screen.save(screen_of({(1, 10): (7, 3), (1, 20): (7, 4), (2, 15): (8, 9)}), 30, tmp_path)
    change(tmp_path)
    with pytest.raises(ArtifactError, match=f"{message}.*; run the job screens again"):
        live_screen.load(tmp_path)


def test_what_could_not_be_loaded_is_not_saved(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="screen of v1: wanted segments that end from 1970"):
        live_screen.save(screen_of({(1, 10**12): (7, 3)}), 30, tmp_path)
    assert not list(tmp_path.iterdir())
