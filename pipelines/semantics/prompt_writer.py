"""Segments in, one prompt and its frames out, or why there is none. What rows lead to is that prompt's own fault."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from pipelines.semantics import author_day, pictures, prompt
from pipelines.semantics.author_day import AuthorDay, PromptConfig
from pipelines.semantics.budget import Budget, PromptTooLong, TokenCounter
from pipelines.semantics.checkpoint import Checkpoint

WRITTEN = (
    pa.field("prompt", pa.string()),
    pa.field("frames", pa.list_(pa.binary())),
    pa.field("bad_frames", pa.list_(pa.string())),
    pa.field("num_comments", pa.int32()),
    pa.field("reason", pa.string()),
    pa.field("detail", pa.string()),
    pa.field("attempts", pa.int32()),
)
"""Columns of what is written: the prompt and its frames, or a closed reason and detail of why there is none."""


class PromptWriter:
    """Writes the prompts of one question to one checkpoint."""

    def __init__(
        self, model: str, prompts: PromptConfig, budget: Budget, question: prompt.Question = prompt.ANCHOR
    ) -> None:
        self._prompts, self._budget, self._question = prompts, budget, question
        self._template = Checkpoint.read(model, f"{question.job}.model").chat_template
        self._counter = TokenCounter(Path(model), question.job)

    def written(self, profile: str, segments: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """A row of WRITTEN of some segments, which are in time order."""
        try:
            _refuse_gaps(segments)
            day = author_day.gather(profile, segments, self._prompts)
            day, text = self._counter.fit(day, self._budget)
            day = self._with_fitted_frames(day, self._budget.share(text, len(day.frames)))
            reason, detail = _nothing_to_read(day)
            content = day.content(self._question.instruction)
            written = "" if reason else prompt.rendered(content, self._template)
        except PromptTooLong as error:
            return refused("prompt_too_long", str(error))
        except Exception as error:  # whatever one author's rows lead to is that author's
            return refused("bad_row", f"{type(error).__name__}: {error}")
        return refused(reason, detail) | {
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
                frames.append(pictures.fitted(frame, self._budget.images, tokens))
            except Exception as error:  # decoders raise whatever broken bytes lead them to
                bad.append(f"keyframe {number}: {error}")
        return replace(day, frames=tuple(frames), bad_frames=tuple(bad))


def refused(reason: str, detail: str, attempts: int = 1) -> dict[str, Any]:
    """A row of WRITTEN without a prompt: `reason` is one of contract.REASONS."""
    nothing = {"prompt": "", "frames": [], "bad_frames": [], "num_comments": 0}
    return nothing | {"reason": reason, "detail": detail[:500], "attempts": attempts}


def _nothing_to_read(day: AuthorDay) -> tuple[str, str]:
    if not day.frames and day.bad_frames:
        return "bad_image", "; ".join(day.bad_frames)
    if not day.frames and not day.speech and not day.comments:
        return "no_frames", "there is no frame, no speech and no comment"
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
