"""Job `cards`: what the page of the endpoint shows of authors: anchors, shaded by what the ranker reads, and frames.

Reads a published ranker, anchors and segments; publishes the artifact "cards". Nothing that ranks depends on it.
Run: python -m pipelines cards --config pipelines/configs/demo.yaml
"""

import io
import logging
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from models.artifacts import cards as files
from models.artifacts.cards import KIND, Card, Word
from models.artifacts.manifest import ArtifactError
from pipelines.analysis.analyse import Subject
from pipelines.ranking import published
from pipelines.runtime.run import Run
from pipelines.semantics import author_day, keyframes
from pipelines.tables import newest
from pipelines.tables.anchor_text import NAMES
from pipelines.tables.artifacts import Artifacts
from pipelines.tables.contract import FIELDS, ContractError
from pipelines.tables.days import day_after
from pipelines.tables.fingerprint import digest
from pipelines.tables.storage import Storage

log = logging.getLogger(__name__)
_READ_TOGETHER = 2048
_JPEG_QUALITY = 80
Fields = tuple[tuple[str, tuple[Word, ...]], ...]
"""As in Card."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CardsConfig:
    """How much is shown."""

    ranker: str | None = None
    """Whose reading shades the words, by the names of its sources; null = the only one that is published."""
    frames: int = 2
    """Keyframes of each author."""
    width: int = 160
    """Most pixels that a frame is wide."""
    authors_with_frames: int = 20_000
    """Most authors whose frames are kept, those of the newest days; about 10 kB each in memory while the job runs."""

    def __post_init__(self) -> None:
        if min(self.frames, self.authors_with_frames) < 0 or self.width < 16:
            raise ValueError(f"wanted frames and authors >= 0, and a width >= 16, got {self}")


def run(config: CardsConfig, run: Run) -> dict[str, Any]:
    """Publishes cards of all authors that have an anchor. Raises ContractError where there is no anchor."""
    storage, artifacts = run.storage, Artifacts(run.storage)
    day = next(reversed(storage.days("anchors")), None)
    if day is None:
        raise ContractError("table anchors: wanted a day, got none; run the job anchors")
    ranker = published.chosen_ranker(config.ranker, artifacts)
    made_from = {
        "config": digest([config.frames, config.width, config.authors_with_frames]),
        ranker: str(artifacts.current(ranker)),
        "anchors": newest.fingerprint(storage, "anchors", until=day),
    }
    run_id = f"{day}-{digest(made_from)}"
    if artifacts.current(KIND) == run_id:
        return {"run_id": run_id, "how": "current"}
    rows = newest.read(storage, "anchors", until=day).to_pylist()
    frames = _frames(config, storage, rows)
    subject = _subject(storage, day, ranker)
    with tempfile.TemporaryDirectory() as scratch:
        count = files.write(Path(scratch), _cards(subject, rows, frames))
        artifacts.publish(KIND, Path(scratch), run_id, made_from)
    log.info("cards %s | %d authors, %d with frames", run_id, count, len(frames))
    return {"run_id": run_id, "how": "published", "authors": count, "with_frames": len(frames)}


def _subject(storage: Storage, day: str, ranker: str) -> Subject | None:
    """Who reads the words; None, which is told, where the ranker reads none."""
    try:
        subject = Subject.open(storage, day_after(day), ranker)
    except ArtifactError as error:
        log.info("words are not shaded: %s", error)
        return None
    if subject.sarm.config.tokens != "base":
        log.info("words are not shaded: %s reads live tokens alone, which are not words", ranker)
        return None
    return subject


def _frames(config: CardsConfig, storage: Storage, rows: Sequence[Mapping[str, Any]]) -> dict[int, list[bytes]]:
    """Keyframes of authors on the day of their anchor, the newest days first, as many authors as are wanted."""
    of_day: dict[str, set[int]] = {}
    for row in rows:
        of_day.setdefault(row["since"].isoformat(), set()).add(row["author_id"])
    found: dict[int, list[bytes]] = {}
    for day in sorted(set(of_day) & set(storage.days("segments")), reverse=True):
        for author_id, segments in author_day.stream(storage, day):
            if not config.frames or len(found) >= config.authors_with_frames:
                return found
            if author_id in of_day[day]:
                chosen, _ = keyframes.select(segments, config.frames)
                found[author_id] = [_small(frame.jpeg, config.width) for frame in chosen]
    return found


def _small(jpeg: bytes, width: int) -> bytes:
    from PIL import Image

    with Image.open(io.BytesIO(jpeg)) as picture:
        if picture.width <= width:
            return jpeg
        picture.thumbnail((width, picture.height))
        small = io.BytesIO()
        picture.convert("RGB").save(small, "JPEG", quality=_JPEG_QUALITY)
        return small.getvalue()


def _cards(
    subject: Subject | None, rows: Sequence[Mapping[str, Any]], frames: Mapping[int, Sequence[bytes]]
) -> Iterator[tuple[Card, Sequence[bytes]]]:
    """A card of each row, in their order, some read together."""
    for start in range(0, len(rows), _READ_TOGETHER):
        part = rows[start : start + _READ_TOGETHER]
        for row, fields in zip(part, _fields(subject, part), strict=True):
            card = Card(author_id=row["author_id"], day=row["since"].isoformat(), fields=fields)
            yield card, frames.get(row["author_id"], ())


def _fields(subject: Subject | None, rows: Sequence[Mapping[str, Any]]) -> list[Fields]:
    """The words of each row's anchor, shaded where its author is one of the ranker's."""
    from pipelines.analysis import importance

    plain = [tuple((field, _plain(row[field])) for field in FIELDS) for row in rows]
    if subject is None:
        return plain
    at = subject.catalog.author_rows(np.array([row["author_id"] for row in rows], np.int64))
    known = np.flatnonzero(at)
    weights = importance.of_authors(subject.sarm, subject.ids, subject.tokens, at[known])
    for place, shares in zip(known.tolist(), weights, strict=True):
        by_word = importance.by_word(rows[place], shares, subject.tokenizer)
        plain[place] = tuple(zip(FIELDS, map(_shaded, FIELDS, by_word["fields"]), strict=True))
    return plain


def _plain(phrases: Sequence[str]) -> tuple[Word, ...]:
    return tuple(Word(word=word, importance=None) for word in ", ".join(phrases).split())


def _shaded(field: str, words: Sequence[Mapping[str, Any]]) -> tuple[Word, ...]:
    """The words of a field without its name, which stands before them."""
    own = words[len(NAMES[field].split()) :]
    return tuple(Word(word=word["word"], importance=round(word["importance"], 5)) for word in own)
