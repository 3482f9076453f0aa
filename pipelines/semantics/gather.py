"""Keys in, prompts out: what an engine is asked of each author and day. One author's faults stay that author's."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.dataset as pads

from pipelines.semantics import author_day, pictures, prompt
from pipelines.semantics.attempts import LIMIT, begin, given_up, groups
from pipelines.semantics.author_day import AuthorDay, PromptConfig
from pipelines.semantics.budget import Budget, PromptTooLong, TokenCounter
from pipelines.semantics.checkpoint import Checkpoint
from pipelines.tables import contract, newest
from pipelines.tables.storage import Storage

GATHERED = pa.schema(
    [
        ("day", pa.string()),
        ("author_id", pa.int64()),
        ("prompt", pa.string()),
        ("frames", pa.list_(pa.binary())),
        ("bad_frames", pa.list_(pa.string())),
        ("num_comments", pa.int32()),
        ("reason", pa.string()),
        ("detail", pa.string()),
        ("attempts", pa.int32()),
    ]
)
"""One request: the prompt and its frames, or a closed reason and detail of why there is none."""
_READS = 3
"""Times that a batch is read from a storage that fails."""

Key = tuple[str, int]
"""Day and author."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Gathering:
    """What a gatherer is told."""

    root: str
    """The `url` of the storage that holds the days."""
    model: str
    """Folder of the checkpoint, on every node."""
    prompts: PromptConfig
    """How much of an author's day is read."""
    budget: Budget
    """What a prompt may cost."""


class Gather:
    """Builds the prompts of a batch of keys, reading only those authors' segments."""

    def __init__(self, told: Gathering, attempts: Any) -> None:
        """`attempts` is the pool's actor (attempts.py): a picture that kills this process is found by it."""
        import ray

        self._wait, self._attempts, self._me = ray.get, attempts, ray.get_runtime_context().get_actor_id()
        self._careful = begin(attempts, self._me)
        self._prompts = Prompts(told)

    def __call__(self, keys: pa.Table) -> pa.Table:
        """Days and authors -> GATHERED; authors without anything to read get a reason instead of a prompt."""
        wanted = list(zip(keys["day"].to_pylist(), keys["author_id"].to_pylist(), strict=True))
        rows = self._carefully(wanted) if self._careful else self._gathered(wanted)
        return pa.Table.from_pylist(rows, schema=GATHERED)

    def _gathered(self, keys: list[Key]) -> list[dict[str, Any]]:
        self._wait(self._attempts.took.remote(self._me, keys))
        rows = self._prompts.of(keys)
        self._attempts.finished.remote(self._me, keys)
        return rows

    def _carefully(self, keys: list[Key]) -> list[dict[str, Any]]:
        """Behind a death: suspects in small groups, and those with three deaths not at all."""
        deaths = dict(zip(keys, self._wait(self._attempts.deaths.remote(keys)), strict=True))
        died = f"the process that reads this author's day died at each of {LIMIT} attempts"
        lost = given_up(keys, lambda key: deaths[key])
        rows = [refused(key, "bad_row", died) | {"attempts": LIMIT} for key in lost]
        for group in groups(keys, lambda key: deaths[key]):
            rows += self._gathered(group)
        self._attempts.gave_up.remote(lost)
        self._careful = bool(self._wait(self._attempts.suspects.remote()))
        return rows


class Prompts:
    """The prompts of keys. Knows no Ray."""

    def __init__(self, told: Gathering) -> None:
        self._storage = Storage.open(told.root)
        self._told = told
        self._template = Checkpoint.read(told.model).chat_template
        self._counter = TokenCounter(Path(told.model))
        self._profiles_on: dict[str, str | None] = {}

    def of(self, keys: Sequence[Key]) -> list[dict[str, Any]]:
        """Rows of GATHERED, one for each key. Raises OSError where the storage keeps failing."""
        by_day: dict[str, list[int]] = {}
        for day, author_id in keys:
            by_day.setdefault(day, []).append(author_id)
        return [row for day, authors in by_day.items() for row in self._day(day, authors)]

    def _day(self, day: str, authors: list[int]) -> list[dict[str, Any]]:
        try:
            profiles, segments = self._read(day, authors)
        except (ValueError, TypeError) as error:  # rows of one author that cannot be read, in a batch with others
            if len(authors) == 1:
                return [refused((day, authors[0]), "bad_row", str(error))]
            return [row for author in authors for row in self._day(day, [author])]
        return [self._row((day, author), profiles.get(author, ""), segments.get(author, [])) for author in authors]

    def _read(self, day: str, authors: list[int]) -> tuple[Mapping[int, str], Mapping[int, list[dict[str, Any]]]]:
        """Profiles and segments of some authors; a storage that fails is asked again."""
        chosen = pads.field("author_id").isin(pa.array(authors, pa.int64()))
        for attempt in range(1, _READS + 1):
            try:
                segments = self._storage.read("segments", day, where=chosen)
                return self._profiles(day, chosen), dict(author_day.group(segments))
            except OSError:
                if attempt == _READS:
                    raise
                time.sleep(attempt)
        raise AssertionError("not reached")

    def _profiles(self, day: str, chosen: pads.Expression) -> dict[int, str]:
        """The newest profile, as of the day, of the authors of a batch: the rest of the table stays on storage."""
        if day not in self._profiles_on:
            self._profiles_on[day] = newest.carry(self._storage, "authors", until=day)
        if (carried := self._profiles_on[day]) is None:
            return {}
        people = self._storage.read(contract.newest_of("authors"), carried, ["author_id", "profile"], chosen)
        return dict(zip(people["author_id"].to_pylist(), people["profile"].to_pylist(), strict=True))

    def _row(self, key: Key, profile: str, segments: list[dict[str, Any]]) -> dict[str, Any]:
        try:
            _refuse_gaps(segments)
            day = author_day.gather(profile, segments, self._told.prompts)
            day, text = self._counter.fit(day, self._told.budget)
            day = self._with_fitted_frames(day, self._told.budget.share(text, len(day.frames)))
            reason, detail = _nothing_to_read(day)
            written = "" if reason else prompt.rendered(day.content(), self._template)
        except PromptTooLong as error:
            return refused(key, "prompt_too_long", str(error))
        except Exception as error:  # whatever one author's rows lead to is that author's
            return refused(key, "bad_row", f"{type(error).__name__}: {error}")
        return refused(key, reason, detail) | {
            "prompt": written,
            "frames": list(day.frames),
            "bad_frames": list(day.bad_frames),
            "num_comments": len(day.comments),
        }

    def _with_fitted_frames(self, day: AuthorDay, tokens: int) -> AuthorDay:
        """The day with frames that cost at most so many tokens each; what cannot be brought there is a bad frame."""
        frames, bad = [], list(day.bad_frames)
        for number, frame in enumerate(day.frames):
            try:
                frames.append(pictures.fitted(frame, self._told.budget.images, tokens))
            except Exception as error:  # decoders raise whatever broken bytes lead them to
                bad.append(f"keyframe {number}: {error}")
        return replace(day, frames=tuple(frames), bad_frames=tuple(bad))


def refused(key: Key, reason: str, detail: str) -> dict[str, Any]:
    """A row of GATHERED without a prompt: `reason` is one of contract.REASONS."""
    row = {"day": key[0], "author_id": key[1], "reason": reason, "detail": detail[:500]}
    return row | {"prompt": "", "frames": [], "bad_frames": [], "num_comments": 0, "attempts": 1}


def _nothing_to_read(day: AuthorDay) -> tuple[str, str]:
    if not day.frames and day.bad_frames:
        return "bad_image", "; ".join(day.bad_frames)
    if not day.frames and not day.speech and not day.comments:
        return "no_frames", "the day holds no frame, no speech and no comment"
    return "", ""


def _refuse_gaps(segments: Sequence[Mapping[str, Any]]) -> None:
    """Raises ValueError where a list holds a null: Parquet's writers do not look into lists."""
    for segment in segments:
        for column in ("frames", "comments"):
            values = segment[column]
            if values is None or None in values:
                raise ValueError(
                    f"segment {segment['segment']} of live {segment['live_id']}: wanted no null in {column}, got "
                    f"{'null' if values is None else f'one at place {values.index(None)}'}"
                )
