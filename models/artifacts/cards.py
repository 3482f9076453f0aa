"""Cards: what people see of authors beside their scores, the words of their anchor and a few frames; an artifact.

A folder of flat files, which readers map: one JSON text per author, and JPEGs one after another.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from models.artifacts.manifest import ArtifactError

KIND = "cards"
"""Of the artifact."""
_FORMAT = 1
_HEAD, _TEXTS, _FRAMES = "cards.json", "texts.bin", "frames.bin"
_PLACES = ("author_ids", "text_at", "frame_of", "frame_at")
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, slots=True)
class Word:
    """A word of an anchor."""

    word: str
    importance: float | None
    """Its share of what the ranker reads in the anchor; None where the ranker reads no words."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Card:
    """What is shown of an author, but for the frames."""

    author_id: int
    day: str
    """On which the anchor was written, YYYY-MM-DD."""
    fields: tuple[tuple[str, tuple[Word, ...]], ...]
    """Of the anchor, in order: name and words."""


def write(folder: Path, cards: Iterable[tuple[Card, Sequence[bytes]]]) -> int:
    """Writes cards and their JPEGs, ascending by author, each author once, into an empty folder; returns how many.

    Holds 32 bytes an author. Raises ValueError for another order.
    """
    ids: list[int] = []
    text_at, frame_of, frame_at = [0], [0], [0]
    with (folder / _TEXTS).open("wb") as texts, (folder / _FRAMES).open("wb") as frames:
        for card, jpegs in cards:
            if ids and card.author_id <= ids[-1]:
                raise ValueError(f"wanted authors ascending, each once, got {ids[-1]} and then {card.author_id}")
            ids.append(card.author_id)
            text_at.append(text_at[-1] + texts.write(json.dumps(asdict(card), separators=(",", ":")).encode()))
            for jpeg in jpegs:
                frame_at.append(frame_at[-1] + frames.write(jpeg))
            frame_of.append(len(frame_at) - 1)
    for name, values in zip(_PLACES, (ids, text_at, frame_of, frame_at), strict=True):
        np.save(folder / f"{name}.npy", np.array(values, np.int64), allow_pickle=False)
    (folder / _HEAD).write_text(json.dumps({"format": _FORMAT, "authors": len(ids)}), encoding="utf-8")
    return len(ids)


class Cards:
    """The cards of a folder, mapped from disk."""

    def __init__(self, folder: Path) -> None:
        """Raises ArtifactError for a folder that holds none, or whose files do not fit one another."""
        try:
            head = json.loads((folder / _HEAD).read_bytes())
            places: dict[str, Ints] = {
                name: np.load(folder / f"{name}.npy", mmap_mode="r", allow_pickle=False) for name in _PLACES
            }
            self._texts, self._frames = _mapped(folder / _TEXTS), _mapped(folder / _FRAMES)
        except (OSError, ValueError) as error:
            raise ArtifactError(f"{folder.name}: wanted cards, got: {error}; run the job cards again") from error
        self._ids, self._text_at, self._frame_of, self._frame_at = (places[name] for name in _PLACES)
        size = len(self._ids)
        got = (head.get("format"), head.get("authors"), len(self._text_at), len(self._frame_of))
        ends = (int(self._text_at[-1]), int(self._frame_at[-1]), int(self._frame_of[-1]))
        wanted_ends = (len(self._texts), len(self._frames), len(self._frame_at) - 1)
        if got != (_FORMAT, size, size + 1, size + 1) or ends != wanted_ends:
            raise ArtifactError(f"{folder.name}: its files do not fit one another; run the job cards again")

    def __len__(self) -> int:
        return len(self._ids)

    def card(self, author_id: int) -> dict[str, Any] | None:
        """The fields of a Card, and `frames`, how many there are; None where there is none of the author."""
        position = self._position(author_id)
        if position is None:
            return None
        start, end = self._text_at[position : position + 2].tolist()
        found: dict[str, Any] = json.loads(self._texts[start:end].tobytes())
        first, last = self._frame_of[position : position + 2].tolist()
        return found | {"frames": last - first}

    def frame(self, author_id: int, number: int) -> bytes | None:
        """A JPEG of an author, 0 the first; None where there is none."""
        position = self._position(author_id)
        if position is None:
            return None
        first, last = self._frame_of[position : position + 2].tolist()
        if not 0 <= number < last - first:
            return None
        start, end = self._frame_at[first + number : first + number + 2].tolist()
        return self._frames[start:end].tobytes()

    def _position(self, author_id: int) -> int | None:
        position = int(np.searchsorted(self._ids, author_id))
        return position if position < len(self._ids) and self._ids[position] == author_id else None


def _mapped(path: Path) -> npt.NDArray[np.uint8]:
    # An empty file cannot be mapped.
    return np.memmap(path, np.uint8, "r") if path.stat().st_size else np.empty(0, np.uint8)
