"""How tokens are shared, and what gives way where they are few."""

import io
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from pipelines.runtime.config import ConfigError
from pipelines.semantics.author_day import AuthorDay, PromptConfig
from pipelines.semantics.budget import Budget, PromptTooLong, TokenCounter
from pipelines.semantics.checkpoint import STUDENT, Checkpoint
from pipelines.semantics.engine_config import EngineConfig
from pipelines.semantics.image_sizes import MARKS
from tests.pipelines.semantics.checkpoints import changed, copied, published_images


@pytest.fixture
def published(tmp_path: Path) -> Checkpoint:
    folder = copied(tmp_path / "model")
    published_images(folder)
    changed(folder, "config.json", lambda c: c["text_config"].update(max_position_embeddings=32768))
    return Checkpoint.read(str(folder))


def frame(width: int, height: int) -> bytes:
    sink = io.BytesIO()
    Image.new("RGB", (width, height)).save(sink, "JPEG")
    return sink.getvalue()


def day(*comments: str, speech: tuple[str, ...] = (), profile: str = "Mila", frames: int = 4) -> AuthorDay:
    pictures = tuple(frame(64, 64) for _ in range(frames))
    return AuthorDay(profile=profile, frames=pictures, speech=speech, comments=comments, bad_frames=())


def test_by_default_a_published_checkpoint_has_room_for_all_that_is_asked(published: Checkpoint):
    budget = Budget.of(published, PromptConfig(), EngineConfig())
    text = 4 * 300 + 8 * 120
    assert budget.max_model_len == budget.full >= text + 4 * (256 + MARKS) + 320 + budget.fixed
    assert budget.share(text=434, frames=4) == 256


def test_a_given_length_makes_frames_smaller(published: Checkpoint):
    budget = Budget.of(published, PromptConfig(), EngineConfig(max_model_len=1024))
    share = budget.share(text=200, frames=4)
    assert 64 <= share < 256
    assert (
        budget.fixed + 200 + 4 * (share + MARKS) + budget.answer
        <= 1024
        < budget.fixed + 204 + 4 * (share + 1 + MARKS) + budget.answer
    )


def test_what_cannot_fit_is_refused_with_both_numbers(published: Checkpoint):
    with pytest.raises(ConfigError, match=r"^anchors.engine.max_model_len: wanted at least \d+ .* got 500 ") as caught:
        Budget.of(published, PromptConfig(), EngineConfig(max_model_len=500))
    assert "4 frames of 66, answer 320" in str(caught.value)
    with pytest.raises(ConfigError, match=r"max_model_len 40000: .* holds at most 32768"):
        Budget.of(published, PromptConfig(), EngineConfig(max_model_len=40000))


def test_frames_cannot_be_smaller_than_the_processor_makes_them(published: Checkpoint):
    few = replace(published, images=replace(published.images, min_pixels=100 * 28 * 28))
    with pytest.raises(ConfigError, match=r"frame_tokens 50: .* at least 100 tokens"):
        Budget.of(few, PromptConfig(), EngineConfig(frame_tokens=50))


def test_the_window_of_the_language_model_bounds_the_default(published: Checkpoint):
    small = replace(published, config={**published.config, "text_config": {"max_position_embeddings": 900}})
    assert Budget.of(small, PromptConfig(), EngineConfig()).max_model_len == 900


def test_where_text_is_long_the_least_engaging_comments_go_first_then_speech(published: Checkpoint):
    counter = TokenCounter(STUDENT)
    budget = Budget.of(published, PromptConfig(), EngineConfig(max_model_len=1024))
    said = ("word " * 40, "other " * 40)
    whole = day("first", "second", speech=said)
    assert counter.fit(whole, budget)[0] == whole
    crowded, text = counter.fit(day("first", "talk " * 300, "last", speech=said), budget)
    assert (crowded.comments, crowded.speech) == (("first",), said)
    assert budget.share(text, 4) >= budget.least
    silent, _ = counter.fit(day("first", speech=("word " * 40, "other " * 600)), budget)
    assert (silent.comments, silent.speech) == ((), ("word " * 40,))


def test_a_profile_that_alone_is_too_long_is_an_error_with_both_numbers(published: Checkpoint):
    budget = Budget.of(published, PromptConfig(), EngineConfig(max_model_len=1024))
    with pytest.raises(PromptTooLong, match=r"needs \d{4} tokens, .* anchors.engine.max_model_len = 1024"):
        TokenCounter(STUDENT).fit(day(profile="zq " * 900), budget)


def test_days_without_frames_need_room_for_text_only(published: Checkpoint):
    budget = Budget.of(published, PromptConfig(num_frames=0), EngineConfig(max_model_len=500))
    assert TokenCounter(STUDENT).fit(day("hello", frames=0), budget)[0].comments == ("hello",)
