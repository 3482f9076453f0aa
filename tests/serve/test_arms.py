"""Requests answered by the arm that their user, or they themselves, choose."""

from __future__ import annotations

import time
from functools import partial
from typing import Any

import pytest

from models.artifacts import arms as published
from models.artifacts.arms import Arm, Arms
from models.artifacts.store import ArtifactStore
from serve.args import WatchConfig
from serve.arms import ArmRankings, UnknownArmError
from serve.loading import load_snapshot
from serve.observe import NoMeter
from serve.schema import Context, RankRequest
from serve.user_sequence import UserSequence
from serve.watcher import SnapshotWatcher
from tests.serve.conftest import AUTHOR_IDS, NOW_MS, Published, fill_with_nan
from tests.serve.test_observe import Kept


class Endpoint:
    """A store with two banks, of which "a" is CURRENT, and the rankings over it."""

    def __init__(self, made: Published) -> None:
        self.made, self.meter = made, Kept()
        self.store = store = ArtifactStore.open(str(made.root))
        load, config = partial(load_snapshot, store), WatchConfig(poll_s=0.05)
        main = SnapshotWatcher(store, load, config)
        main.poll()
        self.arms = ArmRankings(
            store,
            UserSequence(main),
            watcher=lambda which: SnapshotWatcher(store, load, config, which=which),
            ranking=UserSequence,
            config=config,
            meter=self.meter,
        )

    def split(self, salt: str = "", **by_name: Arm) -> None:
        published.write(self.store, Arms(by_name=by_name, salt=salt))
        self.arms.poll()


@pytest.fixture
def endpoint(published: Published) -> Any:
    published.publish("b", seed=5, point=False)
    made = Endpoint(published)
    yield made
    made.arms.stop()


def request(user: int, model: str | None = None, count: int = 6) -> RankRequest:
    candidates = AUTHOR_IDS[:count].tolist()
    return RankRequest(user_id=user, candidates=candidates, context=Context(ts_ms=NOW_MS), model=model)


def test_without_arms_current_answers_all(endpoint: Endpoint) -> None:
    answer = endpoint.arms.rank(request(3))
    assert (answer.model, answer.bank_version) == ("current", "a")
    assert endpoint.arms.rank(request(3, "current")).bank_version == "a"
    (model,) = endpoint.arms.models()
    assert (model.name, model.ready, model.share, model.bank_version) == ("current", True, 1.0, "a")


def test_an_arm_answers_who_names_it_and_its_share_of_users(endpoint: Endpoint) -> None:
    endpoint.split(b=Arm(bank="b", share=0.5))
    named = endpoint.arms.rank(request(3, "b"))
    alone = Endpoint(endpoint.made)
    endpoint.made.point("b")
    of_b = UserSequence(alone.arms._make_watcher(lambda: "b"))
    of_b._watcher.poll()
    assert [(row.author_id, row.click) for row in named.candidates] == [
        (row.author_id, row.click) for row in of_b.rank(request(3)).candidates
    ]
    assert (named.model, named.bank_version, named.model_version) == ("b", "b", "m-b")
    answers = {user: endpoint.arms.rank(request(user)).model for user in range(200)}
    assert 60 < sum(model == "b" for model in answers.values()) < 140
    assert answers == {user: endpoint.arms.rank(request(user)).model for user in range(200)}
    assert [(m.name, m.share) for m in endpoint.arms.models()] == [("current", 0.5), ("b", 0.5)]


def test_a_batch_is_answered_in_its_order_by_each_ones_arm(endpoint: Endpoint) -> None:
    endpoint.split(b=Arm(bank="b", share=0.5))
    requests = [request(user) for user in range(20)] + [request(1, "b"), request(2, "current")]
    together = endpoint.arms.rank_many(requests)
    one_by_one = [endpoint.arms.rank(each) for each in requests]
    assert [answer.model for answer in together] == [answer.model for answer in one_by_one]
    for answer, alone in zip(together, one_by_one, strict=True):
        assert [row.author_id for row in answer.candidates] == [row.author_id for row in alone.candidates]


def test_arms_come_and_go_while_it_runs(endpoint: Endpoint) -> None:
    endpoint.arms.start()
    for by_name, known in (({"b": Arm(bank="b")}, True), ({}, False)):
        published.write(endpoint.store, Arms(by_name=by_name))
        deadline = time.monotonic() + 20
        while (len(endpoint.arms.models()) == 2) != known:
            assert time.monotonic() < deadline
            time.sleep(0.02)
    with pytest.raises(UnknownArmError, match="model: wanted one of current, got b; see GET /models"):
        endpoint.arms.rank(request(1, "b"))


def test_an_arm_whose_bank_cannot_be_used_leaves_its_users_to_current(endpoint: Endpoint) -> None:
    endpoint.made.bank("broken", "m-b", point=False, change=fill_with_nan)
    endpoint.split(b=Arm(bank="broken", share=1.0))
    assert {endpoint.arms.rank(request(user)).bank_version for user in range(20)} == {"a"}
    with pytest.raises(UnknownArmError, match="wanted one of current, got b"):
        endpoint.arms.rank(request(1, "b"))
    _, arm = endpoint.arms.models()
    assert not arm.ready and arm.reason is not None and "NaN" in arm.reason


def test_an_arm_that_ends_while_it_is_asked_still_answers(endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    endpoint.split(b=Arm(bank="b"))
    main, ranks = endpoint.arms._main, endpoint.arms._main.rank_many

    def ends(*asked: Any) -> Any:
        endpoint.split()
        return ranks(*asked)

    monkeypatch.setattr(main, "rank_many", ends)
    answers = endpoint.arms.rank_many([request(1, "current"), request(1, "b")])
    assert [answer.bank_version for answer in answers] == ["a", "b"]
    assert len(endpoint.arms.models()) == 1


def test_a_damaged_pointer_leaves_the_arms_as_they_were(endpoint: Endpoint, caplog: pytest.LogCaptureFixture) -> None:
    endpoint.split(b=Arm(bank="b"))
    (endpoint.made.root / "artifacts/bank/ARMS").write_text("{")
    endpoint.arms.poll()
    assert endpoint.arms.rank(request(1, "b")).bank_version == "b"
    assert "the arms stay as they were" in caplog.text


def test_a_shadow_answers_nobody_and_is_compared(endpoint: Endpoint) -> None:
    endpoint.split(s=Arm(bank="b", share=1.0, shadow=True))
    answers = [endpoint.arms.rank(request(user)) for user in range(5)]
    assert {answer.model for answer in answers} == {"current"}
    deadline = time.monotonic() + 20
    while len([name for name, _, _ in endpoint.meter.counted if name == "shadow_first"]) < 1:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    other, main = endpoint.arms.rank(request(0, "s")), answers[0]
    by_id = {row.author_id: row for row in other.candidates}
    wanted = sum(abs(row.click - by_id[row.author_id].click) for row in main.candidates) / len(main.candidates)
    (first,) = [
        v for name, v, tags in endpoint.meter.observed if name == "shadow_difference" and tags["task"] == "click"
    ][:1]
    assert first == pytest.approx(wanted, rel=1e-4) and wanted > 0
    same = str(main.candidates[0].author_id == other.candidates[0].author_id).lower()
    assert ("shadow_first", 1.0, {"arm": "s", "same": same}) in endpoint.meter.counted


def test_a_shadow_that_fails_disturbs_nobody(endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    endpoint.split(s=Arm(bank="b", share=1.0, shadow=True))

    def broken(_: Any) -> Any:
        raise RuntimeError("broken")

    monkeypatch.setattr(endpoint.arms._in_use[1]["s"].ranking, "rank", broken)
    assert endpoint.arms.rank(request(1)).bank_version == "a"
    deadline = time.monotonic() + 20
    while ("shadow_failures", 1.0, {"arm": "s"}) not in endpoint.meter.counted:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert endpoint.arms.rank(request(1)).bank_version == "a"


def test_a_share_of_nothing_measures_nothing(endpoint: Endpoint) -> None:
    endpoint.split(s=Arm(bank="b", share=0.0, shadow=True))
    endpoint.arms.rank(request(1))
    assert isinstance(endpoint.meter, NoMeter) and endpoint.meter.observed == []
