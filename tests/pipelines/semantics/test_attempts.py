"""Which rows are suspected of a death, how they are taken up again, and when a job ends."""

import math
from pathlib import Path

import pytest

from pipelines.semantics.attempts import LIMIT, PATIENCE, PROBE, Attempts, Place, given_up, groups, last_words

LOG = """\
INFO starting
Traceback (most recent call last):
  File "old.py", line 1, in old
OSError: an older fault
(EngineCore pid=77) ERROR 11-26 10:00:00 [core.py:1] Traceback (most recent call last):
(EngineCore pid=77) ERROR 11-26 10:00:00 [core.py:1]   File "attention.py", line 9, in forward
(EngineCore pid=77) ERROR 11-26 10:00:00 [core.py:1] NotImplementedError: head_dim 16 is not supported
[vLLM] shutting down
Traceback (most recent call last):
  File "stage.py", line 3, in generate
vllm.v1.engine.exceptions.EngineDeadError: EngineCore encountered an issue. See stack trace above
"""


def play(poison: set[int], size: int) -> tuple[int, set[int], set[int]]:
    """(deaths, rows answered, rows given up) of a worker that dies at once of a group with a poison row."""
    told, rows, dead = Attempts(), list(range(size)), 0
    while True:
        deaths = dict(zip(rows, told.deaths(rows), strict=True))
        lost, answered = given_up(rows, deaths.__getitem__), set[int]()
        for group in list(groups(rows, deaths.__getitem__)):
            told.took("w", group)
            if poison & set(group):
                dead += 1
                assert not told.mourn("w", "words")
                break
            told.finished("w", group)
            answered |= set(group)
        else:
            return dead, answered, set(lost)


@pytest.mark.parametrize("size", [1, 2, 8, 63, 64, 512])
@pytest.mark.parametrize("place", ["first", "middle", "last"])
def test_one_poison_row_costs_three_deaths_and_no_other_row(size: int, place: str):
    row = {"first": 0, "middle": size // 2, "last": size - 1}[place]
    deaths, answered, lost = play({row}, size)
    assert (deaths, lost) == (LIMIT, {row})
    assert answered == set(range(size)) - {row}


def test_poison_rows_side_by_side_are_found_each():
    deaths, answered, lost = play({10, 11, 40}, 64)
    assert lost == {10, 11, 40} and answered == set(range(64)) - lost
    assert deaths <= 3 * LIMIT


def test_groups_of_suspects_are_as_many_as_they_are_large():
    found = list(groups(range(64), lambda row: 1))
    assert {len(group) for group in found} == {math.isqrt(64)} and sum(found, []) == list(range(64))
    mixed = list(groups([1, 2, 3, 4, 5], lambda row: {1: 2, 2: 3, 3: 1}.get(row, 0)))
    assert mixed == [[1], [3], [4, 5]]


def test_who_finished_is_no_suspect():
    told = Attempts()
    told.took("w", [1, 2])
    told.finished("w", [1])
    told.mourn("w", "")
    assert told.deaths([1, 2]) == [0, 1] and told.suspects() == 1
    told.finished("w", [2])
    assert told.suspects() == 0 and told.finished_any()


def test_what_dies_of_the_plainest_request_ends_the_job_at_once():
    told = Attempts()
    told.took("w", [1])
    assert told.mourn("w", "first words") == ""
    told.took("w", [PROBE])
    assert "plainest request" in told.mourn("w", "last words") and "last words" in told.verdict()


def test_an_engine_that_lives_through_the_probe_only_ends_the_job_too():
    told = Attempts()
    for death in range(PATIENCE):
        told.took("w", [PROBE])
        told.finished("w", [PROBE])
        told.took("w", [death])
        assert bool(told.mourn("w", "words")) == (death == PATIENCE - 1)


def test_deaths_with_answers_between_them_go_on():
    told = Attempts()
    for row in range(5 * PATIENCE):
        told.took("w", [row])
        told.finished("w", [row])
        assert told.mourn("w", "killed") == ""


def test_the_same_fault_at_two_starts_ends_the_job():
    told = Attempts()
    assert told.failed_to_start("trace 1\nValueError: no room\nits log: a:1") == ""
    assert "no room" in told.failed_to_start("trace 2\nValueError: no room\nits log: a:2")
    other = Attempts()
    assert [bool(other.failed_to_start(f"OSError: port {n}")) for n in range(3)] == [False, False, True]


def test_the_last_words_are_the_cause_and_not_what_came_of_it(tmp_path: Path):
    out, err = tmp_path / "worker.out", tmp_path / "worker.err"
    cause = [
        "Traceback (most recent call last):",
        '  File "attention.py", line 9, in forward',
        "NotImplementedError: head_dim 16 is not supported",
    ]
    out.write_text("all is well\n")
    err.write_text(LOG)
    words, log = last_words(out, err)
    assert (words.splitlines(), log) == (cause, err)
    out.write_text(LOG)
    err.write_text("KeyError: of a helper\n")
    words, log = last_words(out, err)
    assert (words.splitlines(), log) == (cause, out), "the engine's own log goes first"
    out.write_text("")
    err.write_text("one\ntwo\n")
    assert last_words(out, err) == ("one\ntwo", err)
    err.write_text("")
    assert last_words(out, err) == ("it wrote nothing", err)


def test_last_words_name_the_log_that_they_are_of(tmp_path: Path):
    out, err = tmp_path / "worker.out", tmp_path / "worker.err"
    out.write_text(LOG)
    err.write_text("")
    host = Place.here().host
    here, elsewhere = (Place(host=name, out=str(out), err=str(err)).last_words() for name in (host, "elsewhere"))
    assert here.endswith(f"is not supported\nits log: {host}:{out}")
    assert elsewhere == f"it left no words\nits log: elsewhere:{err}"
