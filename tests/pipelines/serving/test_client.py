"""The typed client, against a real HTTP server that answers what the test says."""

import socket
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from models.online.config import StoreConfig
from models.online.embedded import EmbeddedStore
from pipelines.serving.client import Click, Client, EndpointError, Event, Found, Question, Ranked, Taken
from serve.admission import Line
from serve.api import create_api
from serve.args import AdmissionConfig
from serve.events import EventSink
from serve.online import Online
from serve.retrieval import Retrieval
from serve.user_sequence import UserSequence
from tests.pipelines.serving.endpoint import Endpoint
from tests.serve.conftest import AUTHOR_IDS, HOUR_MS, NOW_MS, USER_IDS, Published, watcher_of
from tests.serve.searched import publish
from tests.serve.test_page import served
from tests.serve.test_retrieval import asked, item, searches

ANSWER = {
    "candidates": [
        {"author_id": 2, "score": 1.5, "click": 0.25, "gift": 0.5, "known": True, "ended": False},
        {"author_id": 1, "score": 1.25, "click": 0.125, "gift": 0.0, "known": False, "ended": False},
    ],
    "user_known": True,
    "history_used": 1,
    "bank_version": "b1",
    "model_version": "m1",
    "degraded": False,
    "bank_delta": 7,
}


def test_a_ranking_is_typed_and_keeps_what_it_does_not_name(endpoint: Endpoint):
    endpoint.answer = lambda path, body: (200, ANSWER)
    with Client(endpoint.url, "secret") as client:
        own = [Click(5, 1_000, 2.5)]
        ranking = client.rank(Question(user_id=17, candidates=[1, 2], history=own, ts_ms=9_000, model="b"))
        client.rank(Question(user_id=17, candidates=(1, 2), history=[]))
        client.rank(Question(user_id=17, lives=(7,)))
        client.rank(Question(user_id=17))
    assert ranking.candidates == [
        Ranked(2, 1.5, {"click": 0.25, "gift": 0.5}, True),
        Ranked(1, 1.25, {"click": 0.125, "gift": 0.0}, False),
    ]
    assert (ranking.bank_version, ranking.model_version, ranking.history_used) == ("b1", "m1", 1)
    assert (ranking.user_known, ranking.degraded, ranking.answer["bank_delta"]) == (True, False, 7)
    history = [{"author_id": 5, "ts_ms": 1_000, "watch_time_s": 2.5}]
    assert [body for _, _, body in endpoint.asked] == [
        {"user_id": 17, "candidates": [1, 2], "history": history, "context": {"ts_ms": 9_000}, "model": "b"},
        {"user_id": 17, "candidates": [1, 2], "history": []},
        {"user_id": 17, "lives": [7]},
        {"user_id": 17},
    ]
    assert {headers["authorization"] for headers in endpoint.headers} == {"Bearer secret"}
    assert endpoint.connections == 1


def test_many_are_ranked_at_once_in_their_order(endpoint: Endpoint):
    endpoint.answer = lambda path, body: (200, {"answers": [ANSWER | {"bank_version": "b2"}, ANSWER]})
    with Client(endpoint.url) as client:
        answers = client.rank_many([Question(user_id=1, candidates=[2]), Question(user_id=3)])
    assert [answer.bank_version for answer in answers] == ["b2", "b1"]
    assert endpoint.asked == [
        ("POST", "/rank/batch", {"requests": [{"user_id": 1, "candidates": [2]}, {"user_id": 3}]})
    ]


def test_lives_are_retrieved_nearest_first_and_what_is_not_named_is_kept(endpoint: Endpoint):
    answer = {
        "live_ids": [70, 30], "author_ids": [7, 3], "scores": [0.75, -0.5], "on_air": 9, "user_known": True,
        "history_used": 1, "history_source": "request", "index_version": "i1", "towers_version": "t1",
        "degraded": False,
    }  # fmt: skip
    endpoint.answer = lambda path, body: (200, answer)
    with Client(endpoint.url, "secret") as client:
        found = client.retrieve(17, 2, history=[Click(5, 1_000, 2.5)], ts_ms=9_000)
        client.retrieve(17)
        client.retrieve(17, history=[])
    assert found.lives == [Found(70, 7, 0.75), Found(30, 3, -0.5)]
    assert (found.on_air, found.user_known, found.history_used, found.degraded) == (9, True, 1, False)
    assert (found.index_version, found.towers_version, found.answer["history_source"]) == ("i1", "t1", "request")
    history = [{"author_id": 5, "ts_ms": 1_000, "watch_time_s": 2.5}]
    assert endpoint.asked == [
        ("POST", "/retrieve", {"user_id": 17, "k": 2, "history": history, "context": {"ts_ms": 9_000}}),
        ("POST", "/retrieve", {"user_id": 17, "k": 1_000}),
        ("POST", "/retrieve", {"user_id": 17, "k": 1_000, "history": []}),
    ]


def test_without_an_index_the_endpoint_s_words_are_raised(endpoint: Endpoint):
    endpoint.answer = lambda path, body: (404, {"detail": "no index is published"})
    with Client(endpoint.url) as client, pytest.raises(EndpointError, match="/retrieve: .* 404: .*no index") as seen:
        client.retrieve(17)
    assert seen.value.status == 404 and len(endpoint.asked) == 1


def test_events_are_told(endpoint: Endpoint):
    rejections = [{"index": 1, "field": "kind", "message": "wanted a kind"}]
    answer = {"accepted": 1, "duplicate": 0, "rejected": 1, "rejections": rejections}
    endpoint.answer = lambda path, body: (200, answer)
    click = Event(event_id="e1", kind="click", user_id=1, author_id=2, live_id=3, ts_ms=4)
    exit = Event(event_id="e2", kind="exit", user_id=1, author_id=2, live_id=3, ts_ms=9, watch_time_s=0.0)
    with Client(endpoint.url) as client:
        assert client.tell([click, exit]) == Taken(1, 0, 1, rejections)
    own = {"user_id": 1, "author_id": 2, "live_id": 3}
    ((_, path, body),) = endpoint.asked
    assert path == "/events" and body["events"] == [
        {"event_id": "e1", "kind": "click", "ts_ms": 4, **own},
        {"event_id": "e2", "kind": "exit", "ts_ms": 9, "watch_time_s": 0.0, **own},
    ]


def test_neighbours_and_health(endpoint: Endpoint):
    answers = {
        "/authors/4/similar?k=2": {"similar": [{"author_id": 9, "cosine": 0.5}]},
        "/healthz": {"ready": True},
    }
    endpoint.answer = lambda path, body: (200, answers[path])
    with Client(endpoint.url) as client:
        assert client.similar(4, k=2) == [(9, 0.5)]
        assert client.health() == {"ready": True}
    assert "authorization" not in endpoint.headers[0]


@pytest.mark.parametrize("status", [201, 401, 422, 500, 503])
def test_any_other_status_is_raised_with_its_text(endpoint: Endpoint, status: int):
    endpoint.answer = lambda path, body: (status, {"detail": "the bank is not there yet"})
    with Client(endpoint.url) as client:
        with pytest.raises(
            EndpointError, match=f"GET /bank: wanted status 200, got {status}: .*the bank is not"
        ) as seen:
            client.get("/bank")
        assert (seen.value.status, seen.value.retry_after_s) == (status, None)
        with pytest.raises(EndpointError, match=f"POST /rank: wanted status 200, got {status}"):
            client.rank(Question(user_id=1, candidates=[2]))
        endpoint.answer = lambda path, body: (200, {"fine": True})
        assert client.get("/bank") == {"fine": True}, "the connection is still of use"
    assert endpoint.connections == 1
    assert len(endpoint.asked) == 3


@pytest.mark.parametrize("status", [429, 503])
def test_a_busy_endpoint_is_asked_once_more_when_it_says_so(endpoint: Endpoint, status: int):
    answers = [(status, {}), (200, {"n": 2}), (status, {}), (status, {}), (status, {})]
    endpoint.answer, endpoint.headers_sent = lambda path, body: answers.pop(0), {"retry-after": "0"}
    with Client(endpoint.url) as client:
        assert client.get("/bank") == {"n": 2}
        with pytest.raises(EndpointError) as seen:
            client.get("/bank")
        assert seen.value.retry_after_s == 0.0
        assert len(endpoint.asked) == 4
    with Client(endpoint.url, attempts=1) as client, pytest.raises(EndpointError):
        client.get("/bank")


def test_a_broken_connection_is_made_again(endpoint: Endpoint):
    def answer(path: str, body: Any) -> tuple[int, Any]:
        if len(endpoint.asked) == 2:
            raise ConnectionError("the server dies")
        return 200, {"n": len(endpoint.asked)}

    endpoint.answer = answer
    with Client(endpoint.url) as client:
        assert client.get("/bank") == {"n": 1}
        assert client.get("/bank") == {"n": 3}
    assert endpoint.connections == 2


def test_nobody_there_is_an_error_of_the_system():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    started = time.monotonic()
    with Client(f"http://127.0.0.1:{port}") as client, pytest.raises(ConnectionRefusedError):
        client.health()
    assert time.monotonic() - started < 10


def test_what_is_sent_is_what_the_application_takes(tmp_path: Path):
    made = Published(tmp_path / "store")
    made.publish("a")
    store = EmbeddedStore(StoreConfig(backend="embedded", path=str(tmp_path / "online"), map_gib=0.1))
    told = EventSink(store, clock_ms=lambda: NOW_MS), ThreadPoolExecutor(1)
    ranking: Any = UserSequence(watcher_of(made.root), online=Online(store))
    authors: Any = None
    config = AdmissionConfig()
    user, author = int(USER_IDS[0]), int(AUTHOR_IDS[0])
    exposure = Event(event_id="e", kind="exposure", user_id=user, author_id=author, live_id=1, ts_ms=NOW_MS - 9_000)
    click = replace(exposure, event_id="c", kind="click", ts_ms=NOW_MS - 8_000)
    question = Question(user_id=user, candidates=AUTHOR_IDS[:3].tolist(), ts_ms=NOW_MS)
    with served(create_api(ranking, authors, Line(config), config, told=told)) as url, Client(url) as client:
        published = client.rank(question).history_used
        assert client.tell([exposure, click, click]) == Taken(2, 1, 0, [])
        one, other = client.rank_many([question, replace(question, history=[Click(author, NOW_MS - 1, 0.5)] * 2)])
        assert (one.history_used, one.answer["history_source"]) == (published + 1, "store")
        assert (other.history_used, other.answer["history_source"]) == (2, "request")
        assert {ranked.author_id for ranked in one.candidates} == set(AUTHOR_IDS[:3].tolist())
        assert client.health()["ready"]
        with pytest.raises(EndpointError, match="is on air"):
            client.rank(Question(user_id=user))
    store.close()


def test_what_is_retrieved_is_what_the_application_finds_and_ranks(tmp_path: Path):
    made = Published(tmp_path / "store")
    made.publish("a")
    publish(tmp_path / "searched")
    retrieval = Retrieval(searches(tmp_path / "searched"))
    authors: Any = None
    config, user = AdmissionConfig(), int(USER_IDS[1])
    app = create_api(UserSequence(watcher_of(made.root)), authors, Line(config), config, retrieval=retrieval)
    own = [Click(int(AUTHOR_IDS[0]), NOW_MS - HOUR_MS, 30.0)]
    with served(app) as url, Client(url) as client:
        found = client.retrieve(user, 4, history=own, ts_ms=NOW_MS)
        wanted = retrieval.retrieve(asked(user_id=user, k=4, history=[item(own[0].author_id, 3_600, 30.0)]))
        assert [live.live_id for live in found.lives] == wanted.live_ids and len(found.lives) == 4
        assert [live.author_id for live in found.lives] == wanted.author_ids
        assert [live.score for live in found.lives] == wanted.scores
        assert (found.on_air, found.history_used) == (wanted.on_air, 1) and found.on_air > 4
        best = list(dict.fromkeys(live.author_id for live in found.lives))
        ranking = client.rank(Question(user_id=user, candidates=best, history=own, ts_ms=NOW_MS))
        assert {ranked.author_id for ranked in ranking.candidates} == set(best)
