"""POST /events and POST /lives: what is taken, what is a duplicate, and what is rejected and why."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from models.online.config import StoreConfig
from models.online.embedded import EmbeddedStore
from models.online.errors import StoreDownError
from serve.admission import Line
from serve.api import create_api
from serve.args import AdmissionConfig
from serve.auth import Tokens
from serve.events import MAX_EVENTS, EventSink, EventsRequest
from serve.online import Online
from serve.user_sequence import UserSequence
from tests.serve.conftest import AUTHOR_IDS, NOW_MS, Published, watcher_of
from tests.serve.test_observe import Kept

ADMISSION = AdmissionConfig()
USER, OPEN = 77, Tokens()
JSON = {"content-type": "application/json"}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedStore]:
    folder = tmp_path_factory.mktemp("events")
    store = EmbeddedStore(StoreConfig(backend="embedded", path=str(folder), map_gib=0.25))
    yield store
    store.close()


def client_over(published: Published, store: Any, tokens: Tokens = OPEN) -> TestClient:
    ranking = UserSequence(watcher_of(published.root), online=Online(store))
    told = EventSink(store, clock_ms=lambda: NOW_MS), ThreadPoolExecutor(2)
    authors: Any = None
    return TestClient(create_api(ranking, authors, Line(ADMISSION), ADMISSION, tokens, told=told))


@pytest.fixture(scope="module")
def client(shared: Published, store: EmbeddedStore) -> Iterator[TestClient]:
    with client_over(shared, store) as client:
        yield client


def event(event_id: str, kind: str = "exposure", **fields: Any) -> dict[str, Any]:
    author = int(AUTHOR_IDS[0])
    base = {"event_id": event_id, "kind": kind, "user_id": USER, "author_id": author, "live_id": 5, "ts_ms": NOW_MS}
    return base | fields


def sent(client: TestClient, *events: Any, path: str = "/events") -> Any:
    answer = client.post(path, json={path[1:]: list(events)})
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_an_event_is_in_the_next_answer_and_its_repeat_is_a_duplicate(client: TestClient) -> None:
    asked = {"user_id": USER, "candidates": AUTHOR_IDS[:3].tolist(), "context": {"ts_ms": NOW_MS + 1_000}}
    assert client.post("/rank", json=asked).json()["history_source"] == "none"
    told = [event("a-1"), event("a-2", "click", ts_ms=NOW_MS + 500), event("a-3", "gift", ts_ms=NOW_MS + 600)]
    assert sent(client, *told) == {"accepted": 3, "duplicate": 0, "rejected": 0, "rejections": []}
    answer = client.post("/rank", json=asked).json()
    assert (answer["history_source"], answer["history_used"], answer["store_age_s"]) == ("store", 1, 0.5)
    again = sent(client, *told, event("a-4", "exit", ts_ms=NOW_MS + 700, watch_time_s=0.5))
    assert (again["accepted"], again["duplicate"]) == (1, 3)


BAD: list[tuple[Any, str, str]] = [
    ({"kind": "view"}, "kind", "'exposure', 'click', 'exit', 'follow', 'like', 'comment' or 'gift'"),
    ({"event_id": ""}, "event_id", "at least 1 character"),
    ({"event_id": "x" * 129}, "event_id", "at most 128 characters"),
    ({"event_id": 5}, "event_id", "valid string"),
    ({"event_id": "\ud800"}, "event_id", "valid string"),
    ({"user_id": "5"}, "user_id", "valid integer"),
    ({"user_id": True}, "user_id", "valid integer"),
    ({"live_id": 2**63}, "live_id", "less than or equal"),
    ({"author_id": None}, "author_id", "valid integer"),
    ({"ts_ms": -1}, "ts_ms", "greater than or equal to 0"),
    ({"ts_ms": NOW_MS + 60_001}, "ts_ms", "at most 60 s ahead of now"),
    ({"ts_ms": NOW_MS * 1000}, "ts_ms", "less than or equal"),
    ({"watch_time_s": 5.0}, "", "wanted watch_time_s with kind exit alone"),
    ({"kind": "exit", "watch_time_s": -1}, "watch_time_s", "greater than or equal to 0"),
    ({"kind": "exit", "watch_time_s": "3"}, "watch_time_s", "valid number"),
    ({"kind": "exit", "watch_time_s": False}, "watch_time_s", "valid number"),
    ({"kind": "exit", "watch_time_s": 1e300}, "watch_time_s", "less than or equal"),
    ({"more": 1}, "more", "Extra inputs are not permitted"),
]


def test_a_bad_event_is_rejected_by_its_index_and_the_others_are_taken(client: TestClient) -> None:
    told: list[Any] = [event(f"bad-{number}") | fields for number, (fields, _, _) in enumerate(BAD)]
    told = [event("good-1"), *told, None, [], 7, "x", {}, event("good-2", ts_ms=NOW_MS + 60_000)]
    # As bytes: what is sent may be no JSON that this client would write.
    answer = client.post("/events", content=_json({"events": told}), headers=JSON)
    assert answer.status_code == 200
    found = answer.json()
    assert (found["accepted"], found["duplicate"], found["rejected"]) == (2, 0, len(told) - 2)
    assert [each["index"] for each in found["rejections"]] == list(range(1, len(told) - 1))
    for rejection, (_, field, message) in zip(found["rejections"], BAD, strict=False):
        assert rejection["field"] == field and message in rejection["message"]


def _json(body: Any) -> bytes:
    return json.dumps(body).encode()


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "required"),
        (b"{", "JSON"),
        (b"[]", "valid dictionary"),
        (b'{"events": 5}', "valid list"),
        (b'{"events": [], "more": 1}', "Extra inputs"),
        (_json({"events": [event("x")] * (MAX_EVENTS + 1)}), f"at most {MAX_EVENTS}"),
    ],
)
def test_a_request_that_is_none_is_422(client: TestClient, body: bytes, message: str) -> None:
    answer = client.post("/events", content=body, headers=JSON)
    assert answer.status_code == 422 and message in answer.text


def test_the_most_that_is_allowed_is_taken_in_one_request(client: TestClient) -> None:
    told = [event("x" * 119 + f"{n:09d}", user_id=2**63 - 1 - n, live_id=-(2**63) + n) for n in range(MAX_EVENTS)]
    assert sent(client, *told)["accepted"] == MAX_EVENTS
    assert sent(client)["accepted"] == 0


def test_lives_are_told_in_any_order_and_ranked(client: TestClient) -> None:
    one, two = int(AUTHOR_IDS[7]), int(AUTHOR_IDS[8])
    told = [
        {"live_id": 91, "author_id": one, "end_ms": NOW_MS + 90_000},
        {"live_id": 91, "author_id": one, "start_ms": NOW_MS + 70_000, "segment": 1},
        {"live_id": 92, "author_id": two, "start_ms": NOW_MS + 90_000},
        {"live_id": 93, "author_id": two, "start_ms": 5, "end_ms": 4},
        {"live_id": 94, "author_id": two, "segment": -1},
    ]
    answer = sent(client, *told, path="/lives")
    assert (answer["accepted"], [each["index"] for each in answer["rejections"]]) == (3, [3, 4])
    assert "wanted end_ms >= start_ms" in answer["rejections"][0]["message"]

    def authors(ts_ms: int) -> Any:
        ranked = client.post("/rank", json={"user_id": USER, "lives": [91, 92], "context": {"ts_ms": ts_ms}})
        return ranked.status_code, sorted(c["author_id"] for c in ranked.json().get("candidates", []))

    moments = (NOW_MS + 69_999, NOW_MS + 70_000, NOW_MS + 89_999, NOW_MS + 90_000)
    assert [authors(ts_ms) for ts_ms in moments] == [(404, []), (200, [one]), (200, [one]), (200, [two])]


def test_a_store_that_does_not_answer_acknowledges_nothing(shared: Published) -> None:
    class Gone:
        def apply(self, *_: Any) -> Any:
            raise StoreDownError("redis does not answer")

        tell = lives = views = apply

    with client_over(shared, Gone()) as client:
        for path, item in (("/events", event("x")), ("/lives", {"live_id": 1, "author_id": 1})):
            answer = client.post(path, json={path[1:]: [item]})
            assert answer.status_code == 503 and answer.headers["retry-after"] == "1"
            assert "nothing of the request is acknowledged" in answer.json()["detail"]
        assert client.post("/rank", json={"user_id": 1, "lives": [1]}).status_code == 503


def test_with_a_token_events_need_it(shared: Published, store: EmbeddedStore) -> None:
    tokens = Tokens.read(
        "ASK", "CHANGE", environment={"ASK": "a-token-of-some-length", "CHANGE": "one-of-an-admin-it-is"}
    )
    with client_over(shared, store, tokens) as client:
        for path, body in (("/events", {"events": []}), ("/lives", {"lives": []})):
            for token, status in ((None, 401), ("a-token-of-some-length", 403), ("one-of-an-admin-it-is", 200)):
                headers = {} if token is None else {"authorization": f"Bearer {token}"}
                assert client.post(path, json=body, headers=headers).status_code == status


def test_whatever_is_sent_is_answered(client: TestClient) -> None:
    rng = random.Random(3)
    odd = [None, True, -1, 2**70, 1e308, "", "\0", [], {}, "click", NOW_MS, [[]], {"kind": []}]
    for _ in range(60):
        items = [
            {name: rng.choice(odd) for name in rng.sample(sorted(event("x")), rng.randrange(1, 7))} | {"event_id": "z"}
            for _ in range(rng.randrange(5))
        ]
        answer = client.post("/events", content=_json({"events": items}), headers=JSON)
        assert answer.status_code == 200


def test_totals_say_what_became_of_events(tmp_path: Path) -> None:
    store = EmbeddedStore(StoreConfig(backend="embedded", path=str(tmp_path), map_gib=0.25))
    sink = EventSink(store, clock_ms=lambda: NOW_MS)
    for _ in range(2):
        sink.take(EventsRequest.model_validate({"events": [event("a"), event("b", ts_ms=NOW_MS + 5), {}]}))
    assert sink.totals == {"accepted": 2, "duplicate": 2, "rejected": 2} and sink.newest_ms == NOW_MS + 5
    store.close()


def test_events_are_counted_by_what_became_of_them(shared: Published, store: EmbeddedStore) -> None:
    meter, sink = Kept(), EventSink(store, clock_ms=lambda: NOW_MS + 7_000)
    ranking: Any = UserSequence(watcher_of(shared.root), online=Online(store))
    authors: Any = None
    told = sink, ThreadPoolExecutor(2)
    assert sink.age_s is None
    with TestClient(create_api(ranking, authors, Line(ADMISSION), ADMISSION, told=told, meter=meter)) as client:
        again = event("counted")
        client.post("/events", json={"events": [again, again, event("other") | {"kind": "sneeze"}]})
        assert client.get("/stats").json()["store_age_s"] == sink.age_s == (NOW_MS + 7_000 - again["ts_ms"]) / 1000
    counted = [(tags["outcome"], value) for name, value, tags in meter.counted if name == "events"]
    assert counted == [("accepted", 1), ("duplicate", 1), ("rejected", 1)]
