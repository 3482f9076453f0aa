"""Questions about segments: their answers are true of the very segment, and the student is asked as it is told."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from pipelines.semantics import prompt
from pipelines.students import pairs as distil_data
from pipelines.students import questions
from pipelines.students.distil import CARD, DistilConfig
from pipelines.students.pairs import Pair
from pipelines.students.questions import QUESTIONS, answers
from pipelines.tables.storage import Storage
from pipelines.world.authors import day_name
from pipelines.world.laws import open_laws
from pipelines.world.lexicon import FORMATS, SCENES
from tests.pipelines.conftest import tiny_settings
from tests.pipelines.little_student import PROMPT
from tests.pipelines.students.test_distil import run, settings_for

ANCHOR = {
    "theme": ["night fishing"], "topic": ["tax law", "old boats", "bait"], "scene": ["pier"], "format": ["single host"],
}  # fmt: skip


def segment(speech: str | None, *comments: str, frames: int = 1) -> dict[str, Any]:
    return {"speech": speech, "comments": [{"text": text} for text in comments], "frames": [{}] * frames}


def test_an_answer_is_what_the_anchor_says_and_the_segment_bears_out() -> None:
    assert answers(segment("welcome to night fishing . next up bait", "old boats please"), ANCHOR) == {
        "theme": "night fishing",
        "topic": "bait, old boats",
        "scene": "pier",
        "format": "single host",
        "on_screen": "night fishing, single host, pier",
    }


@pytest.mark.parametrize(
    ("shown", "anchor", "kinds"),
    [
        (segment("quick break for a cooking moment"), ANCHOR, set()),
        (segment(None), ANCHOR, set()),
        (segment("night fishing", frames=0), ANCHOR, {"theme"}),
        (segment(None, "love night fishing"), ANCHOR | {"scene": ["pier", "boat"]}, {"theme", "format"}),
        (segment("night fishing"), ANCHOR | {"theme": []}, set()),
    ],
)
def test_what_cannot_be_told_of_a_segment_is_not_asked(
    shown: dict[str, Any], anchor: dict[str, list[str]], kinds: set[str]
) -> None:
    assert answers(shown, anchor).keys() == kinds


@pytest.fixture(scope="module")
def storage(tiny_store: Path) -> Storage:
    return Storage.open(str(tiny_store / "store"))


@pytest.fixture(scope="module")
def asked(storage: Storage) -> list[Pair]:
    return questions.load(storage, PROMPT, len(QUESTIONS))


def test_answers_are_true_of_the_simulated_segment(tiny_store: Path, storage: Storage) -> None:
    """Against the plans that the world drew its segments from: no anchor in between."""
    config = tiny_settings(tiny_store).world
    laws, found = open_laws(config, 1), Counter[str]()
    for day in range(config.num_days):
        name = day_name(config.first_day, day)
        plans = {plan.live_id: plan for plan in laws.plan(day)}
        anchors = {row["author_id"]: row for row in storage.read("anchors", name).to_pylist()}
        for row in storage.read("segments", name).to_pylist():
            plan, said = plans[row["live_id"]], answers(row, anchors[row["author_id"]])
            truth = {
                "theme": laws.words.themes[plan.theme_at(row["segment"])],
                "scene": SCENES[plan.scene],
                "format": FORMATS[plan.format],
            }
            assert {kind: said[kind] for kind in truth if kind in said}.items() <= truth.items()
            assert set(said.get("topic", "").split(", ")) <= {"", *(laws.words.topics[at] for at in plan.topics)}
            found.update(said.keys())
    assert all(found[kind] > 20 for kind in QUESTIONS)


def test_so_many_of_each_segment_and_all_kinds_alike(storage: Storage, asked: list[Pair]) -> None:
    ones = questions.load(storage, PROMPT, 1)
    days = {id(pair.day) for pair in ones}
    assert len(days) == len(ones) and len(ones) < len(asked) <= len(ones) * len(QUESTIONS)
    kinds = Counter(pair.question for pair in ones)
    assert kinds.keys() == set(QUESTIONS.values()) and min(kinds.values()) > len(ones) / 12
    assert not questions.load(storage, PROMPT, 0)


def test_authors_are_left_out(storage: Storage, asked: list[Pair]) -> None:
    some = {pair.author_id for pair in asked[:20]}
    without = questions.load(storage, PROMPT, 5, without=some)
    only = questions.load(storage, PROMPT, 5, only=some)
    assert {pair.author_id for pair in only} == some and not some & {pair.author_id for pair in without}
    assert len(only) + len(without) == len(asked)


def test_the_question_stands_where_the_instruction_does(asked: list[Pair]) -> None:
    pair = asked[0]
    turns = distil_data.messages(pair, with_answer=True)
    assert turns[0]["content"][-1]["text"].endswith(pair.question) and pair.question in QUESTIONS.values()
    assert prompt.INSTRUCTION not in turns[0]["content"][-1]["text"] and turns[1]["content"] == pair.answer
    assert list(distil_data.vocabulary_texts([pair]))[-2:] == [pair.answer, pair.question]


@pytest.mark.ray
def test_a_student_learns_them_beside_anchors(tmp_path: Path, ray_cluster: None) -> None:
    done = run(settings_for(tmp_path, questions=2))
    card = json.loads((done.output / CARD).read_text())
    shares = card["held_out"]["questions"]
    assert shares.keys() <= set(QUESTIONS.values()) and shares and all(0 <= share <= 1 for share in shares.values())
    tokenizer = (done.output / "tokenizer.json").read_text()
    assert "screen" in tokenizer and card["held_out"]["author_days"] == 3


def test_they_are_off_unless_asked_for() -> None:
    assert DistilConfig().questions == 0
    with pytest.raises(ValueError, match=r"distil.questions: wanted 0 to 5, got 6"):
        DistilConfig(questions=6)
