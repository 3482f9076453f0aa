"""Ranking: the scores of the model, for the history and the candidates that were asked for."""

from __future__ import annotations

import itertools
import json
import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models import TASKS
from models.batch import collate
from serve.schema import RankRequest, RankResponse
from serve.snapshot import Gathered, Moment, Snapshot
from serve.user_sequence import DuplicateCandidatesError, RankConfig, States, UserSequence, fuse
from serve.watcher import NotReadyError
from tests.serve.conftest import AUTHOR_IDS, LENGTH, NOW_MS, RANKER, USER_IDS, Published, watcher_of

USER = int(USER_IDS[1])


def offline(snapshot: Snapshot, columns: dict[str, npt.NDArray[Any]]) -> npt.NDArray[np.float32]:
    """What evaluation computes: `score_rows` of a batch of rows with full histories, from the same bank."""
    batch = collate(columns, snapshot.bank.catalog)
    tables = {
        name: torch.from_numpy(state)
        for name, state in snapshot.bank.gather(np.arange(snapshot.bank.num_authors + 1)).items()
    }
    return snapshot.model.score_rows(batch, tables).numpy()


def rows_of(
    user_id: int, candidates: Sequence[int], history: Sequence[tuple[int, float, float]], ts_ms: int = NOW_MS
) -> dict[str, npt.NDArray[Any]]:
    """Columns of example rows; `history` is (author id, age in seconds, seconds watched), newest last."""
    size, pad = len(candidates), LENGTH - len(history)
    ids = [-1] * pad + [item[0] for item in history]
    ages = [0.0] * pad + [item[1] for item in history]
    watched = [0.0] * pad + [item[2] for item in history]
    return {
        "user_id": np.full(size, user_id),
        "author_id": np.array(candidates),
        "ts_ms": np.full(size, ts_ms),
        "history_author_ids": np.tile(np.array(ids, np.int64), (size, 1)),
        "history_age_s": np.tile(np.array(ages, np.float32), (size, 1)),
        "history_watch_s": np.tile(np.array(watched, np.float32), (size, 1)),
    }


def request(**fields: Any) -> RankRequest:
    return RankRequest.model_validate(
        {"user_id": USER, "candidates": AUTHOR_IDS[:5].tolist(), "context": {"ts_ms": NOW_MS}} | fields
    )


def item(author_id: int, age_s: float, watched: float = 30.0) -> dict[str, Any]:
    return {"author_id": author_id, "ts_ms": NOW_MS - round(age_s * 1000), "watch_time_s": watched}


def probabilities(response: RankResponse, order: Sequence[int]) -> npt.NDArray[np.float64]:
    by_id = {c.author_id: [getattr(c, task) for task in TASKS] for c in response.candidates}
    return np.array([by_id[author_id] for author_id in order])


def assert_offline(
    published: Published, response: RankResponse, candidates: Sequence[int], history: Sequence[tuple[int, float, float]]
) -> None:
    wanted = offline(watcher_of(published.root).current, rows_of(USER, candidates, history))
    np.testing.assert_allclose(probabilities(response, candidates), wanted, atol=1e-5)


def test_scores_of_a_given_history_are_those_of_the_model(shared: Published, sequence: UserSequence) -> None:
    candidates = AUTHOR_IDS[10:30].tolist()
    history = [(int(AUTHOR_IDS[i]), 1000.0 * (9 - i), 10.0 * i) for i in range(5)]
    response = sequence.rank(request(candidates=candidates, history=[item(*each) for each in history]))
    assert_offline(shared, response, candidates, history)


def test_scores_of_the_published_history_are_those_of_the_model(shared: Published, sequence: UserSequence) -> None:
    candidates = AUTHOR_IDS.tolist()
    authors, times, watched = watcher_of(shared.root).current.histories.of_user(USER)
    ages = (NOW_MS - times) / 1000
    history = list(zip(authors.tolist(), ages.tolist(), np.minimum(watched, ages).tolist(), strict=True))
    response = sequence.rank(request(candidates=candidates))
    assert response.history_used == len(history) == LENGTH - 1
    assert_offline(shared, response, candidates, history)


def test_scores_without_a_history_are_those_of_the_model(shared: Published, sequence: UserSequence) -> None:
    candidates = AUTHOR_IDS[:7].tolist()
    response = sequence.rank(request(candidates=candidates, history=[]))
    assert response.history_used == 0
    assert_offline(shared, response, candidates, [])


def test_unknown_ids_are_scored_with_the_cold_start_row(shared: Published, sequence: UserSequence) -> None:
    candidates = [int(AUTHOR_IDS[0]), -1, 2**63 - 1, -(2**63)]
    response = sequence.rank(request(candidates=candidates, history=[item(777, 50.0), item(int(AUTHOR_IDS[2]), 20.0)]))
    assert_offline(shared, response, candidates, [(777, 50.0, 30.0), (int(AUTHOR_IDS[2]), 20.0, 20.0)])
    assert {c.author_id: c.known for c in response.candidates} == dict(
        zip(candidates, [True, False, False, False], strict=True)
    )
    assert (response.misses.candidates, response.misses.history) == (3, 1)


def test_an_unknown_user_is_answered_and_flagged(sequence: UserSequence) -> None:
    response = sequence.rank(request(user_id=-5))
    assert not response.user_known and response.history_used == 0 and len(response.candidates) == 5
    assert sequence.rank(request()).user_known


def test_the_id_of_padding_is_an_author_like_any_other_unknown_one(sequence: UserSequence) -> None:
    known = int(AUTHOR_IDS[1])
    of_minus_one = sequence.rank(request(history=[item(known, 90.0), item(-1, 60.0), item(known, 30.0)]))
    of_unknown = sequence.rank(request(history=[item(known, 90.0), item(777, 60.0), item(known, 30.0)]))
    assert of_minus_one.candidates == of_unknown.candidates
    assert of_minus_one.history_used == 3 and of_minus_one.misses.history == 1


def test_the_order_of_the_given_history_does_not_matter(sequence: UserSequence) -> None:
    items = [item(int(AUTHOR_IDS[i]), 100.0 * (i + 1), 5.0 * i) for i in range(6)]
    answers = [sequence.rank(request(history=order)).candidates for order in (items, items[::-1])]
    assert answers[0] == answers[1]


def test_only_the_newest_items_are_read(sequence: UserSequence) -> None:
    items = [item(int(AUTHOR_IDS[i]), 100.0 * (20 - i)) for i in range(20)]
    response = sequence.rank(request(history=items))
    assert response.history_used == LENGTH
    assert response.candidates == sequence.rank(request(history=items[-LENGTH:])).candidates


def test_items_that_are_not_earlier_do_not_count(sequence: UserSequence) -> None:
    past, present, future = item(int(AUTHOR_IDS[1]), 60.0), item(int(AUTHOR_IDS[2]), 0.0), item(int(AUTHOR_IDS[3]), -60)
    response = sequence.rank(request(history=[past, present, future]))
    assert response.history_used == 1
    assert response.candidates == sequence.rank(request(history=[past])).candidates


def test_clicks_younger_than_the_delay_do_not_count_given_and_published_alike(tmp_path: Path) -> None:
    published = Published(tmp_path / "store", delay_ms=600_000)
    published.publish("a")
    sequence = UserSequence(watcher_of(published.root))
    items = [item(int(AUTHOR_IDS[i]), age_s) for i, age_s in enumerate([900.0, 600.001, 600.0, 10.0])]
    response = sequence.rank(request(history=items))
    assert response.history_used == 2
    assert response.candidates == sequence.rank(request(history=items[:2])).candidates
    _, times, _ = watcher_of(published.root).current.histories.of_user(USER)
    moments = [int(times[3]) + 600_000, int(times[3]) + 600_001]
    assert [sequence.rank(request(context={"ts_ms": moment})).history_used for moment in moments] == [3, 4]


def test_without_published_histories_no_more_is_read_than_the_model_was_trained_with(published: Published) -> None:
    published.bank("b", "m-a", histories=False)
    items = [item(int(AUTHOR_IDS[i]), 100.0 * (20 - i)) for i in range(20)]
    assert UserSequence(watcher_of(published.root)).rank(request(history=items)).history_used == LENGTH


def test_nobody_has_watched_longer_than_the_time_that_passed(sequence: UserSequence) -> None:
    answers = [sequence.rank(request(history=[item(int(AUTHOR_IDS[1]), 10.0, watched)])) for watched in (10.0, 9999.0)]
    assert answers[0].candidates == answers[1].candidates


def test_the_published_history_stops_at_the_time_of_the_request(shared: Published, sequence: UserSequence) -> None:
    _, times, _ = watcher_of(shared.root).current.histories.of_user(USER)
    response = sequence.rank(request(context={"ts_ms": int(times[3])}))
    assert response.history_used == 3


def test_without_a_time_the_request_is_now(sequence: UserSequence) -> None:
    assert sequence.rank(request(context={})).history_used == LENGTH - 1


def test_candidates_come_in_descending_order_of_the_fused_score(sequence: UserSequence) -> None:
    candidates = AUTHOR_IDS[::-1].tolist()
    response = sequence.rank(request(candidates=candidates))
    scores = [c.score for c in response.candidates]
    assert scores == sorted(scores, reverse=True)
    assert sorted(c.author_id for c in response.candidates) == sorted(candidates)
    for c in response.candidates:
        assert c.score == pytest.approx((1 + c.click) * (1 + c.follow) * (1 + c.long_view) * (1 + c.gift), rel=1e-9)


def test_weights_change_the_order(shared: Published) -> None:
    weights = {"click": 0.0, "follow": 0.0, "long_view": 0.0, "gift": -2.0}
    response = UserSequence(watcher_of(shared.root), RankConfig(weights=weights)).rank(
        request(candidates=AUTHOR_IDS.tolist())
    )
    gifts = [c.gift for c in response.candidates]
    assert gifts == sorted(gifts)


OTHER = {"stay": "watch", "click": "inter", "subscribe": "inter"}


def test_a_ranker_of_other_tasks_answers_with_a_probability_of_each(tmp_path: Path) -> None:
    published = Published(tmp_path / "store", ranker=replace(RANKER, tasks=OTHER))
    published.publish("a")
    watcher = watcher_of(published.root)
    response = UserSequence(watcher, RankConfig(weights={"subscribe": 2.0})).rank(
        request(candidates=AUTHOR_IDS.tolist())
    )
    answer = json.loads(response.model_dump_json())
    for row in answer["candidates"]:
        assert list(row) == ["author_id", "score", *OTHER, "known"]
        assert row["score"] == pytest.approx((1 + row["stay"]) * (1 + row["click"]) * (1 + row["subscribe"]) ** 2)
    wrong = UserSequence(watcher, RankConfig(weights={"gift": 2.0}))
    with pytest.raises(ValueError, match="gift is no task of the ranker; it has stay, click, subscribe"):
        wrong.rank(request(candidates=AUTHOR_IDS.tolist()))


def test_the_answer_of_the_default_tasks_has_the_fields_it_always_had(sequence: UserSequence) -> None:
    answer = json.loads(sequence.rank(request(candidates=AUTHOR_IDS[:2].tolist())).model_dump_json())
    fields = ["author_id", "score", "click", "follow", "long_view", "gift", "known"]
    assert [list(row) for row in answer["candidates"]] == [fields] * 2


def test_equal_scores_keep_the_order_of_the_request(sequence: UserSequence) -> None:
    unknown = [90_001, 7, 80_001, 1, 60_001]
    assert [c.author_id for c in sequence.rank(request(candidates=unknown)).candidates] == unknown


@given(
    st.lists(st.lists(st.floats(0, 1, width=32), min_size=4, max_size=4), min_size=1, max_size=20),
    st.integers(0, 3),
    st.floats(0.0, 1.0),
)
def test_a_higher_probability_never_lowers_the_score(rows: list[list[float]], task: int, more: float) -> None:
    weights = np.array([1.0, 2.0, 0.5, 3.0])
    before = np.array(rows, np.float32)
    after = before.copy()
    after[:, task] = np.maximum(after[:, task], np.float32(more))
    assert (fuse(after, weights) >= fuse(before, weights)).all()


def test_a_candidate_given_twice_is_named(sequence: UserSequence) -> None:
    with pytest.raises(DuplicateCandidatesError, match="holds author 15 twice"):
        sequence.rank(request(candidates=[5, 15, 25, 15]))


def test_before_the_first_bank_nothing_is_ranked(published: Published) -> None:
    waiting = UserSequence(watcher_of(published.root / "elsewhere"))
    with pytest.raises(NotReadyError, match="no bank is published"):
        waiting.rank(request())
    assert not waiting.health().ready and "no bank is loaded" in str(waiting.health().reason)


def test_health_names_the_versions(sequence: UserSequence) -> None:
    health = sequence.health()
    assert (health.ready, health.bank_version, health.model_version) == (True, "a", "m-a")


def test_a_remote_lookup_gives_the_same_answer(shared: Published, sequence: UserSequence) -> None:
    states, asked = watcher_of(shared.root).current.bank.states, []

    def lookup(version: str, delta: int, rows: npt.NDArray[np.int64]) -> Gathered:
        asked.append((version, rows))
        return Gathered({name: state[rows] for name, state in states.items()}, Moment())

    remote = UserSequence(watcher_of(shared.root), lookup=lookup).rank(request(candidates=AUTHOR_IDS.tolist()))
    assert remote.candidates == sequence.rank(request(candidates=AUTHOR_IDS.tolist())).candidates
    assert not remote.degraded
    assert [version for version, _ in asked] == ["a"] and len(np.unique(asked[0][1])) == len(asked[0][1])


@pytest.mark.parametrize("answer", [None, {}, {"sarm": np.zeros((1, 2, 3), np.float32)}])
def test_a_lookup_that_fails_is_answered_cold_start_and_says_so(shared: Published, answer: States | None) -> None:
    def cold(version: str, delta: int, rows: npt.NDArray[np.int64]) -> Gathered:
        cold_start = watcher.current.bank.cold_start
        return Gathered({name: np.repeat(row[None], len(rows), axis=0) for name, row in cold_start.items()}, Moment())

    watcher = watcher_of(shared.root)
    found = None if answer is None else Gathered(answer, Moment())
    response = UserSequence(watcher, lookup=lambda version, delta, rows: found).rank(request())
    assert response.degraded
    assert response.candidates == UserSequence(watcher, lookup=cold).rank(request()).candidates


def test_no_answer_mixes_versions_while_banks_are_swapped(published: Published) -> None:
    """Four readers while versions change: each answer equals the reference of the version that it names."""
    versions = ["a", "b", "c"]
    for seed, version in enumerate(versions[1:], start=1):
        published.publish(version, seed=seed, point=False)
    asked = request(candidates=AUTHOR_IDS.tolist())
    watcher = watcher_of(published.root)
    sequence, wanted = UserSequence(watcher), {}
    for version in versions:
        published.point(version)
        watcher.poll()
        wanted[version] = probabilities(sequence.rank(asked), AUTHOR_IDS.tolist())
    answers: list[RankResponse] = []
    stop = threading.Event()

    def read() -> None:
        while not stop.is_set():
            answers.append(sequence.rank(asked))

    readers = [threading.Thread(target=read) for _ in range(4)]
    for reader in readers:
        reader.start()
    for version in itertools.islice(itertools.cycle(versions), 12):
        published.point(version)
        watcher.poll()
    stop.set()
    for reader in readers:
        reader.join(60)
    assert len(answers) > 20 and {a.bank_version for a in answers} == set(versions)
    for answer in answers:
        assert answer.model_version == f"m-{answer.bank_version}"
        found = probabilities(answer, AUTHOR_IDS.tolist())
        np.testing.assert_allclose(found, wanted[answer.bank_version], atol=1e-6)


@settings(max_examples=20)
@given(st.integers(0, 2**20))
def test_candidates_that_are_not_known_keep_their_order_wherever_they_stand(sequence: UserSequence, seed: int) -> None:
    rng = np.random.default_rng(seed)
    unknown = (10_000_000 + rng.permutation(150)).tolist()
    candidates = rng.permutation(AUTHOR_IDS[:20].tolist() + unknown).tolist()
    answer = sequence.rank(request(candidates=candidates)).candidates
    assert [c.author_id for c in answer if not c.known] == [each for each in candidates if each in set(unknown)]
    assert len({(c.score, c.click, c.gift) for c in answer if not c.known}) == 1


def test_many_requests_are_answered_as_one_by_one(sequence: UserSequence) -> None:
    asked = [request(user_id=int(user), candidates=AUTHOR_IDS[: 3 + user % 9].tolist()) for user in USER_IDS]
    for one, together in zip(map(sequence.rank, asked), sequence.rank_many(asked), strict=True):
        order = [c.author_id for c in one.candidates]
        assert [c.author_id for c in together.candidates] == order
        np.testing.assert_allclose(probabilities(together, order), probabilities(one, order), atol=1e-6)
        assert (together.user_known, together.history_used) == (one.user_known, one.history_used)


def test_warming_up_needs_no_bank_and_changes_no_answer(tmp_path: Path, sequence: UserSequence) -> None:
    UserSequence(watcher_of(tmp_path / "nothing")).warm_up()
    before = sequence.rank(request())
    sequence.warm_up()
    after = sequence.rank(request())
    assert after.model_copy(update={"bank_age_s": 0}) == before.model_copy(update={"bank_age_s": 0})
