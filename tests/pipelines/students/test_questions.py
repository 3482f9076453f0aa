"""Questions about segments: a teacher's answers, of the very segment, asked as they are told."""

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from pipelines.semantics import prompt
from pipelines.settings import Settings
from pipelines.students import pairs as distil_data
from pipelines.students import questions
from pipelines.students.distil import CARD, DistilConfig
from pipelines.students.pairs import Pair
from pipelines.tables.contract import ContractError
from pipelines.tables.storage import Storage
from pipelines.world import world
from pipelines.world.live.config import LiveConfig
from pipelines.world.live.laws import QUESTIONS
from tests.pipelines.jobs import run_job
from tests.pipelines.little_student import PROMPT
from tests.pipelines.students.test_distil import run, settings_for

ON_SCREEN = "What is on screen?"


def live(settings: Settings) -> Settings:
    return replace(
        settings, world=replace(settings.world, laws="platform", live=LiveConfig(max_segments=16), recorded_segments=0)
    )


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Storage:
    settings = live(settings_for(tmp_path_factory.mktemp("taught")))
    run_job(world, settings)
    return Storage.open(settings.storage.root, oracle=True)


@pytest.fixture(scope="module")
def asked(storage: Storage) -> list[Pair]:
    return questions.load(storage, PROMPT, len(QUESTIONS))


def test_the_world_answers_of_each_segment_with_its_truth(storage: Storage) -> None:
    (day,) = storage.days("segment_answers")
    key = ("author_id", "live_id", "segment")
    truth = {tuple(row[name] for name in key): row for row in storage.read("oracle_segments", day).to_pylist()}
    rows = storage.read("segment_answers", day).to_pylist()
    assert Counter(tuple(row[name] for name in key) for row in rows) == dict.fromkeys(truth, len(QUESTIONS))
    for row in rows:
        of = truth[tuple(row[name] for name in key)]
        if row["question"] == ON_SCREEN:
            assert row["answer"] == f"{of['category']}, {of['theme']}, {of['scene']}"
        else:
            assert row["answer"] in (of["theme"], of["scene"])


def test_a_pair_is_the_segment_its_question_and_the_teachers_answer(storage: Storage, asked: list[Pair]) -> None:
    (day,) = storage.days("segment_answers")
    speech = {row["speech"]: row for row in storage.read("segments", day).to_pylist()}
    told = {
        (row["author_id"], row["live_id"], row["segment"], row["question"]): row["answer"]
        for row in storage.read("segment_answers", day).to_pylist()
    }
    assert len(asked) == len(told)
    for pair in asked:
        of = speech[pair.day.speech[0]]
        assert pair.author_id == of["author_id"] and not pair.day.profile
        assert pair.answer == told[(of["author_id"], of["live_id"], of["segment"], pair.question)]


@pytest.mark.parametrize("count", [1, 2, 3, 9])
def test_so_many_of_each_segment_and_all_questions_alike(storage: Storage, asked: list[Pair], count: int) -> None:
    found = questions.load(storage, PROMPT, count)
    segments = len(asked) // len(QUESTIONS)
    assert len(found) == segments * min(count, len(QUESTIONS))
    assert len({(id(pair.day), pair.question) for pair in found}) == len(found)
    kinds = Counter(pair.question for pair in found)
    assert kinds.keys() == QUESTIONS.keys() and max(kinds.values()) - min(kinds.values()) <= 1


def test_without_a_teachers_answers_it_says_what_to_do(tiny_store: Path) -> None:
    with pytest.raises(ContractError, match=r"segment_answers .*got no day; write them, or set distil.questions to 0"):
        questions.load(Storage.open(str(tiny_store / "store")), PROMPT, 1)


def test_the_question_stands_where_the_instruction_does(asked: list[Pair]) -> None:
    pair = asked[0]
    turns = distil_data.messages(pair, with_answer=True)
    assert turns[0]["content"][-1]["text"].endswith(pair.question) and pair.question in QUESTIONS
    assert prompt.INSTRUCTION not in turns[0]["content"][-1]["text"] and turns[1]["content"] == pair.answer
    assert list(distil_data.vocabulary_texts([pair]))[-2:] == [pair.answer, pair.question]


@pytest.mark.ray
@pytest.mark.parametrize("anchors", [True, False])
def test_a_student_learns_them_beside_anchors_or_alone(tmp_path: Path, ray_cluster: None, anchors: bool) -> None:
    settings = live(settings_for(tmp_path, anchors=anchors, questions=2))
    loop = replace(settings.distil.loop, summary_weight=1.0)
    done = run(replace(settings, distil=replace(settings.distil, loop=loop)))
    held_out = json.loads((done.output / CARD).read_text())["held_out"]
    shares = held_out["questions"]
    assert shares.keys() <= QUESTIONS.keys() and shares and all(0 <= share <= 1 for share in shares.values())
    assert held_out.get("author_days") == (3 if anchors else None)
    assert "screen" in (done.output / "tokenizer.json").read_text()


def test_authors_of_questions_that_are_measured_are_not_learnt_from(tmp_path: Path) -> None:
    from pipelines.students.distil import pairs_of

    settings = live(settings_for(tmp_path, questions=3))
    run_job(world, settings)
    held_out, rest = pairs_of(Storage.open(settings.storage.root), settings.distil)
    apart = {pair.author_id for pair in held_out}
    assert len(apart) == 3 and not apart & {pair.author_id for pair in rest}
    assert {pair.question for pair in held_out} == {prompt.INSTRUCTION, *QUESTIONS}


def test_what_cannot_be_learnt_is_said() -> None:
    assert DistilConfig().questions == 0 and DistilConfig().anchors
    with pytest.raises(ValueError, match=r"distil.questions: wanted 0 or more, got -1"):
        DistilConfig(questions=-1)
    with pytest.raises(ValueError, match=r"wanted something to learn, got anchors: false and questions: 0"):
        DistilConfig(anchors=False)
