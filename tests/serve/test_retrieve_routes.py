"""POST /retrieve and GET /index over HTTP, without Ray: answers, bad requests, tokens, metrics."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from models.online.errors import StoreDownError
from serve.admission import Line
from serve.api import create_api
from serve.args import AdmissionConfig
from serve.auth import Tokens
from serve.observe import METRICS, NoMeter
from serve.online import Online
from serve.retrieval import Retrieval
from serve.schema import MAX_CANDIDATES, MAX_HISTORY, RetrieveRequest
from serve.user_sequence import UserSequence
from tests.serve.conftest import AUTHOR_IDS, NOW_MS, USER_IDS, Published, watcher_of
from tests.serve.searched import publish
from tests.serve.test_online import Gone
from tests.serve.test_retrieval import asked, searches

TOKEN = "a-token-of-some-length"
BODY = {"user_id": int(USER_IDS[1]), "k": 4, "context": {"ts_ms": NOW_MS}}


class Counts(NoMeter):
    """Keeps what is counted and observed, by name and tags."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, dict[str, str]]] = []

    def count(self, name: str, value: float = 1.0, **tags: str) -> None:
        self.seen.append((name, tags))

    def observe(self, name: str, value: float, **tags: str) -> None:
        self.seen.append((name, tags))


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("routes")
    publish(made)
    return made


def client_over(root: Path, shared: Published, online: Any = None, meter: Any = None, **given: Any) -> TestClient:
    admission = AdmissionConfig()
    authors: Any = None
    retrieval = Retrieval(searches(root), online=Online(online))
    meter = meter or NoMeter()
    ranking, line = UserSequence(watcher_of(shared.root)), Line(admission)
    return TestClient(create_api(ranking, authors, line, admission, retrieval=retrieval, meter=meter, **given))


@pytest.fixture(scope="module")
def client(root: Path, shared: Published) -> Iterator[TestClient]:
    with client_over(root, shared) as client:
        yield client


def test_the_answer_is_what_retrieval_says_as_lists(client: TestClient, root: Path) -> None:
    answer = client.post("/retrieve", json=BODY)
    wanted = json.loads(Retrieval(searches(root)).retrieve(asked(k=4)).model_dump_json())
    assert answer.status_code == 200 and answer.json() == wanted
    assert answer.headers["content-type"] == "application/json"
    assert len(wanted["live_ids"]) == 4 and wanted["scores"] == sorted(wanted["scores"], reverse=True)
    assert client.get("/index").json() | {"index_until_age_s": 0} == {
        "index_version": "i1",
        "index_until_age_s": 0,
        "towers_version": "t1",
        "lives": 60,
        "width": 8,
        "load_failures": 0,
        "last_failure": None,
    }


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"k": 0}, "greater than or equal to 1"),
        ({"k": MAX_CANDIDATES + 1}, "less than or equal to 2000"),
        ({"k": "5"}, "valid integer"),
        ({"k": True}, "valid integer"),
        ({"k": None}, "valid integer"),
        ({"user_id": None}, "valid integer"),
        ({"candidates": [5]}, "Extra inputs"),
        ({"history": [{"author_id": 5, "ts_ms": 1}] * (MAX_HISTORY + 1)}, "at most 200"),
        ({"context": {"ts_ms": -1}}, "greater than or equal to 0"),
    ],
)
def test_bad_fields_are_422_and_say_why(client: TestClient, fields: dict[str, Any], message: str) -> None:
    answer = client.post("/retrieve", json=BODY | fields)
    assert answer.status_code == 422 and message in answer.text


def test_bounds(client: TestClient) -> None:
    most = [
        {"author_id": int(AUTHOR_IDS[0]), "ts_ms": NOW_MS - 1 - at, "watch_time_s": 1e7} for at in range(MAX_HISTORY)
    ]
    answer = client.post("/retrieve", json=BODY | {"k": MAX_CANDIDATES, "history": most, "user_id": -(2**63)})
    assert answer.status_code == 200 and not answer.json()["user_known"] and answer.json()["history_used"] == 8
    json_type = {"content-type": "application/json"}
    assert client.post("/retrieve", content=b" " * (2 << 20), headers=json_type).status_code == 413
    nothing = client.post("/retrieve", json=BODY | {"context": {"ts_ms": 1}})
    assert nothing.status_code == 404 and "run the job index again" in nothing.json()["detail"]


def test_without_an_index_it_is_404_and_ranking_goes_on(tmp_path: Path, shared: Published) -> None:
    with client_over(tmp_path, shared) as client:
        for answer in (client.post("/retrieve", json=BODY), client.get("/index")):
            assert answer.status_code == 404
            assert answer.json()["detail"].endswith("run the jobs towers, item_vectors and index")
        ranked = client.post("/rank", json={"user_id": 1, "candidates": [5]})
        assert ranked.status_code == 200 and client.get("/healthz").json()["ready"]
    publish(tmp_path)
    (tmp_path / "artifacts" / "towers" / "v=t1" / "towers.json").write_text("{}")
    with client_over(tmp_path, shared) as client:
        damaged = client.post("/retrieve", json=BODY)
        assert damaged.status_code == 503 and damaged.headers["retry-after"] == "1"
        assert "towers.json wanted sha256" in damaged.json()["detail"]


def test_it_needs_a_token_and_is_documented(root: Path, shared: Published) -> None:
    tokens = Tokens.read("ASK", environment={"ASK": TOKEN})
    with client_over(root, shared, tokens=tokens) as client:
        assert client.post("/retrieve", json=BODY).status_code == client.get("/index").status_code == 401
        allowed = {"authorization": f"Bearer {TOKEN}"}
        assert client.post("/retrieve", json=BODY, headers=allowed).status_code == 200
        described = client.get("/openapi.json").json()
        assert (
            "security" in described["paths"]["/retrieve"]["post"] and "security" in described["paths"]["/index"]["get"]
        )
        for example in described["components"]["schemas"]["RetrieveRequest"]["examples"]:
            RetrieveRequest.model_validate(example)


def test_what_is_measured(root: Path, shared: Published) -> None:
    meter = Counts()
    with client_over(root, shared, Gone(StoreDownError("away")), meter) as client:
        assert client.post("/retrieve", json=BODY).json()["degraded"]
    names = {name for name, _ in meter.seen}
    assert names <= set(METRICS)
    assert ("retrieve_answers", {"towers": "t1"}) in meter.seen and ("retrieve_degraded", {}) in meter.seen
    stages = {tags["stage"] for name, tags in meter.seen if name == "retrieve_stage_seconds"}
    assert stages == {"wait", "history", "forward", "search", "serialise"}
    assert ("endpoint_requests", {"route": "/retrieve", "status": "200"}) in meter.seen
