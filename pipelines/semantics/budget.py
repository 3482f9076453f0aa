"""How the tokens that an engine can hold are shared between the instruction, the day's text, its frames, the answer."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pipelines.runtime.config import ConfigError
from pipelines.semantics import comments, prompt
from pipelines.semantics.author_day import AuthorDay, PromptConfig
from pipelines.semantics.checkpoint import Checkpoint
from pipelines.semantics.engine_config import EngineConfig
from pipelines.semantics.image_sizes import MARKS, ImageSizes
from pipelines.semantics.tokenizer_file import TOKENIZER, load_tokenizer

_PROFILE_CHARS = 200
_FEW = 64
"""Tokens of a frame (224 x 224 pixels in Qwen2-VL) below which comments give way before frames shrink further."""


class PromptTooLong(ValueError):
    """A day does not fit into what the engine can hold; the message has both numbers."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Budget:
    """What the requests of a job may cost, tokens."""

    max_model_len: int
    """All of a request, its answer included."""
    fixed: int
    """The chat template and the instruction."""
    text: int
    """What profile, speech and comments of a day were reckoned at: one token a character."""
    answer: int
    """Kept for the answer."""
    num_frames: int
    """Of an author."""
    frame: int
    """Most for one frame, without the marks around it."""
    least: int
    """What a frame is not made smaller than."""
    images: ImageSizes
    """How the checkpoint's processor counts."""

    @classmethod
    def of(
        cls,
        checkpoint: Checkpoint,
        prompts: PromptConfig,
        config: EngineConfig,
        question: prompt.Question = prompt.ANCHOR,
    ) -> "Budget":
        """Raises ConfigError, with what was got and what is needed, where no prompt fits."""
        images = checkpoint.images
        if config.frame_tokens < images.fewest_tokens and prompts.num_frames:
            raise ConfigError(
                f"{question.job}.engine.frame_tokens {config.frame_tokens}: the processor of {checkpoint.folder} makes "
                f"at least {images.fewest_tokens} tokens of a frame; set it to that or more"
            )
        frame = min(config.frame_tokens, images.most_tokens)
        nothing = prompt.content(profile="", frames=(), speech=(), comments=(), instruction=question.instruction)
        counter = TokenCounter(checkpoint.folder, question.job)
        budget = cls(
            max_model_len=0,
            fixed=counter.count(prompt.rendered(nothing, checkpoint.chat_template)),
            text=prompts.num_frames * prompts.max_speech_chars
            + prompts.num_comments * comments.MAX_CHARS
            + _PROFILE_CHARS,
            answer=config.max_answer_tokens if question.answered else 0,
            num_frames=prompts.num_frames,
            frame=frame,
            least=max(images.fewest_tokens, min(frame, _FEW)),
            images=images,
        )
        length = config.max_model_len or min(budget.full, checkpoint.longest)
        budget = replace(budget, max_model_len=length)
        budget._check(checkpoint, question.job)
        return budget

    @property
    def full(self) -> int:
        """What the longest request costs, nothing made smaller."""
        return self.fixed + self.text + self.num_frames * (self.frame + MARKS) + self.answer

    @property
    def smallest(self) -> int:
        """What a request costs whose frames are as small as may be, and whose day has no text."""
        return self.fixed + self.num_frames * (self.least + MARKS) + self.answer

    def _check(self, checkpoint: Checkpoint, job: str) -> None:
        if self.max_model_len > checkpoint.longest:
            raise ConfigError(
                f"{job}.engine.max_model_len {self.max_model_len}: the checkpoint {checkpoint.folder} holds at most "
                f"{checkpoint.longest} (max_position_embeddings in its config.json); set it to that or less"
            )
        if self.smallest > self.max_model_len:
            raise ConfigError(
                f"{job}.engine.max_model_len: wanted at least {self.smallest} tokens (instruction {self.fixed}, "
                f"{self.num_frames} frames of {self.least + MARKS}, answer {self.answer}), got {self.max_model_len} "
                f"for {checkpoint.folder}; set it to {min(self.full, checkpoint.longest)}, or lower "
                f"{job}.prompt.num_frames{f' or {job}.engine.max_answer_tokens' if self.answer else ''}"
            )

    def room(self, text: int) -> int:
        """Tokens that are left for frames beside a day's text; below 0 where the text is too long."""
        return self.max_model_len - self.answer - self.fixed - text

    def share(self, text: int, frames: int) -> int:
        """Most tokens for each of a day's frames, beside so many tokens of text."""
        return min(self.frame, self.room(text) // frames - MARKS) if frames else self.frame


class TokenCounter:
    """Counts tokens with a checkpoint's own tokenizer, and makes a day's text fit."""

    def __init__(self, folder: Path, job: str = prompt.ANCHOR.job) -> None:
        """Args: `job` is who asks, as errors name it."""
        self._job, self._tokenizer = job, load_tokenizer(folder / TOKENIZER, f"{job}.model")

    def count(self, text: str) -> int:
        """Tokens of a text."""
        return len(self._tokenizer.encode(text, add_special_tokens=False).ids)

    def lines(self, texts: Sequence[str]) -> int:
        """Tokens of texts on lines of their own."""
        return sum(1 + self.count(text) for text in texts)

    def fit(self, day: AuthorDay, budget: Budget) -> tuple[AuthorDay, int]:
        """The day with as much of its text as fits beside its frames, and what its text costs.

        Frames shrink first, as far as `budget.least`; then the least engaging comments go, and then the last speech.
        Raises PromptTooLong where nothing is left to go.
        """
        text = self.lines([day.profile, *day.speech, *day.comments])
        while (missing := len(day.frames) * (budget.least + MARKS) - budget.room(text)) > 0:
            if day.comments:
                text -= self.lines(day.comments[-1:])
                day = replace(day, comments=day.comments[:-1])
            elif day.speech:
                text -= self.lines(day.speech[-1:])
                day = replace(day, speech=day.speech[:-1])
            else:
                raise PromptTooLong(
                    f"the prompt needs {budget.max_model_len + missing} tokens, {text} of them for the profile; wanted "
                    f"at most {self._job}.engine.max_model_len = {budget.max_model_len}"
                )
        return day, text
