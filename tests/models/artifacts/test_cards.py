"""Cards, written and read back."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.artifacts.cards import Card, Cards, Word, write
from models.artifacts.manifest import ArtifactError

CARD = Card(
    author_id=7, day="2026-01-02", fields=(("theme", (Word(word="caf\u00e9,", importance=0.5),)), ("scene", ()))
)


def test_a_card_and_its_frames_come_back(tmp_path: Path) -> None:
    other = Card(author_id=9, day="2026-01-01", fields=(("theme", (Word(word="x", importance=None),)),))
    assert write(tmp_path, [(CARD, [b"\xff\xd8one", b"two"]), (other, [])]) == 2
    cards = Cards(tmp_path)
    assert len(cards) == 2
    assert cards.card(7) == {
        "author_id": 7,
        "day": "2026-01-02",
        "fields": [["theme", [{"word": "caf\u00e9,", "importance": 0.5}]], ["scene", []]],
        "frames": 2,
    }
    assert cards.card(9) == {
        "author_id": 9,
        "day": "2026-01-01",
        "fields": [["theme", [{"word": "x", "importance": None}]]],
        "frames": 0,
    }
    assert [cards.frame(7, number) for number in (0, 1, 2, -1)] == [b"\xff\xd8one", b"two", None, None]
    assert [cards.card(author) for author in (-1, 8, 10)] == [None] * 3
    assert cards.frame(9, 0) is None and cards.frame(8, 0) is None


@given(
    frames=st.dictionaries(st.integers(-(2**63), 2**63 - 1), st.lists(st.binary(max_size=5), max_size=3), max_size=8)
)
def test_any_authors_and_frames(tmp_path_factory: pytest.TempPathFactory, frames: dict[int, list[bytes]]) -> None:
    folder = tmp_path_factory.mktemp("cards")
    write(folder, [(Card(author_id=author, day="d", fields=()), frames[author]) for author in sorted(frames)])
    cards = Cards(folder)
    for author, jpegs in frames.items():
        found = cards.card(author)
        assert found is not None and (found["author_id"], found["frames"]) == (author, len(jpegs))
        assert [cards.frame(author, number) for number in range(len(jpegs))] == jpegs


def test_another_order_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="wanted authors ascending, each once, got 7 and then 7"):
        write(tmp_path, [(CARD, []), (CARD, [])])


@pytest.mark.parametrize("file", ["cards.json", "texts.bin", "frames.bin", "author_ids.npy", "frame_at.npy"])
def test_missing_and_cut_files_are_refused(tmp_path: Path, file: str) -> None:
    write(tmp_path, [(CARD, [b"frame"])])
    content = (tmp_path / file).read_bytes()
    (tmp_path / file).write_bytes(content[:-1])
    with pytest.raises(ArtifactError, match="run the job cards again"):
        Cards(tmp_path)
    (tmp_path / file).unlink()
    with pytest.raises(ArtifactError, match="run the job cards again"):
        Cards(tmp_path)


def test_files_of_other_cards_are_refused(tmp_path: Path) -> None:
    write(tmp_path, [(CARD, [b"frame"])])
    np.save(tmp_path / "author_ids.npy", np.array([1, 2], np.int64))
    with pytest.raises(ArtifactError, match="do not fit one another"):
        Cards(tmp_path)
