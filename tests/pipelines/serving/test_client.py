"""The client of the endpoint, against a real HTTP server that answers what the test says."""

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.serving import client as served
from pipelines.tables.contract import TASKS_COLUMNS

Answer = Callable[[str, Any], tuple[int, Any]]


class Endpoint(ThreadingHTTPServer):
    """Answers with what `answer` gives for path and body, and keeps what it was asked."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.answer: Answer = lambda path, body: (200, {})
        self.asked: list[tuple[str, str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.connections = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Endpoint

    def setup(self) -> None:
        self.server.connections += 1
        super().setup()

    def do_GET(self) -> None:
        self.reply(None)

    def do_POST(self) -> None:
        self.reply(json.loads(self.rfile.read(int(self.headers["content-length"]))))

    def reply(self, body: Any) -> None:
        self.server.asked.append((self.command, self.path, body))
        self.server.headers.append({name.lower(): value for name, value in self.headers.items()})
        status, content = self.server.answer(self.path, body)
        text = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("content-length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_: Any) -> None:
        """Tests are quiet."""


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    server = Endpoint()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def columns(count: int = 3) -> dict[str, np.ndarray]:
    """Rows of `examples`: user 100+i, author 10+i, one click 1.5 s and one 2 s before."""
    return {
        "user_id": np.arange(count) + 100,
        "author_id": np.arange(count) + 10,
        "ts_ms": np.full(count, 1_767_225_600_000),
        "history_author_ids": np.tile([-1, 7, 8], (count, 1)),
        "history_age_s": np.tile(np.array([0, 2, 1.5], np.float32), (count, 1)),
        "history_watch_s": np.tile(np.array([0, 0.25, 1.5], np.float32), (count, 1)),
    }


def test_a_row_becomes_a_request():
    assert served.example_request(columns(), 1, [5, 6]) == {
        "user_id": 101,
        "candidates": [5, 6],
        "history": [
            {"author_id": 7, "ts_ms": 1_767_225_598_000, "watch_time_s": 0.25},
            {"author_id": 8, "ts_ms": 1_767_225_598_500, "watch_time_s": 1.5},
        ],
        "context": {"ts_ms": 1_767_225_600_000},
    }
    json.dumps(served.example_request(columns(), 1, [5, 6]))


@given(st.lists(st.integers(1, 10 * 86_400_000), min_size=1, max_size=20), st.integers(1, 2**41))
def test_ages_survive_the_way_through_times(ages_ms: list[int], ts_ms: int):
    """What the endpoint computes from the times is, to the last bit of float32, the age the model was trained on."""
    age_s = (np.array(ages_ms) / 1000).astype(np.float32)
    row = {
        "user_id": [1],
        "ts_ms": [ts_ms],
        "history_author_ids": [[1] * len(age_s)],
        "history_age_s": [age_s],
        "history_watch_s": [[0.0] * len(age_s)],
    }
    times = np.array([h["ts_ms"] for h in served.example_request(row, 0, [2])["history"]])
    assert (((ts_ms - times) / 1000).astype(np.float32) == age_s).all()
    short = np.array(ages_ms) < 2**13 * 1000  # float32 tells milliseconds apart
    assert (times[short] == ts_ms - np.array(ages_ms)[short]).all()


def test_the_largest_difference_is_found(endpoint: Endpoint):
    offline = np.random.default_rng(0).random((3, 4))
    shown = offline.copy()
    shown[0, 2] += 0.001
    shown[2, 3] -= 0.25
    shown[1] += 0.5  # not asked for

    def answer(path: str, body: Any) -> tuple[int, Any]:
        row = body["user_id"] - 100
        assert path == "/rank" and body["candidates"] == [row + 10]
        return 200, {"candidates": [dict(zip(TASKS_COLUMNS, shown[row].tolist(), strict=True))]}

    endpoint.answer = answer
    assert served.compare(endpoint.url, columns(), offline, [0], TASKS_COLUMNS) == pytest.approx(0.001)
    assert served.compare(endpoint.url, columns(), offline, [0, 2], TASKS_COLUMNS) == pytest.approx(0.25)
    assert served.compare(endpoint.url, columns(), shown, [0, 1, 2], TASKS_COLUMNS) == 0
    assert [body for _, _, body in endpoint.asked[:2]] == [
        served.example_request(columns(), row, [row + 10]) for row in (0, 0)
    ]


@pytest.mark.parametrize("status", [201, 401, 422, 503])
def test_any_other_status_is_raised_with_its_text(endpoint: Endpoint, status: int):
    endpoint.answer = lambda path, body: (status, {"detail": "the bank is not there yet"})
    with served.Client(endpoint.url) as client:
        with pytest.raises(RuntimeError, match=f"GET /bank: wanted status 200, got {status}: .*the bank is not there"):
            client.get("/bank")
        with pytest.raises(RuntimeError, match=f"POST /rank: wanted status 200, got {status}"):
            client.rank({})
        endpoint.answer = lambda path, body: (200, {"fine": True})
        assert client.get("/bank") == {"fine": True}, "the connection is still of use"
    assert endpoint.connections == 1


@pytest.mark.parametrize(("token", "wanted"), [("secret", "Bearer secret"), (None, None)])
def test_a_token_is_sent_where_there_is_one(endpoint: Endpoint, token: str | None, wanted: str | None):
    with served.Client(endpoint.url, token) as client:
        client.rank({"user_id": 1})
    assert endpoint.headers[0].get("authorization") == wanted
    assert endpoint.asked == [("POST", "/rank", {"user_id": 1})]


def test_load_goes_through_all_requests_on_one_connection_a_client(endpoint: Endpoint):
    figures = served.load(endpoint.url, [{"n": n} for n in range(5)], clients=2, seconds=0.4)
    assert figures["requests"] == len(endpoint.asked) > 10
    assert endpoint.connections == 2
    assert {body["n"] for _, _, body in endpoint.asked} == set(range(5))
    assert 0 < figures["rank_p50_ms"] <= figures["rank_p99_ms"] < 400
    assert figures["qps"] == pytest.approx(figures["requests"] / 0.4, abs=0.1)


def test_an_error_under_load_is_raised(endpoint: Endpoint):
    endpoint.answer = lambda path, body: (500, "broken")
    with pytest.raises(RuntimeError, match="got 500"):
        served.load(endpoint.url, [{}], clients=2, seconds=0.2)
