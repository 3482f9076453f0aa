"""The HTTP face, without Ray: answers, and what becomes of bad requests."""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from hypothesis import given, settings
from hypothesis import strategies as st

from models.artifacts.bank import source_file
from models.artifacts.store import ArtifactStore
from serve.admission import Line
from serve.api import create_api
from serve.args import AdmissionConfig, WatchConfig
from serve.auth import Tokens
from serve.author_cache import AuthorCache
from serve.explain import Reason
from serve.loading import load_bank
from serve.schema import MAX_CANDIDATES, MAX_HISTORY, AuthorResponse, BankResponse, RankRequest, SimilarResponse
from serve.user_sequence import UserSequence
from serve.watcher import SnapshotWatcher
from tests.serve.conftest import AUTHOR_IDS, NOW_MS, UNANCHORED, USER_IDS, Published, watcher_of

TOKEN = "a-token-of-some-length"
OPEN, ASKED = Tokens(), Tokens.read("ASK", environment={"ASK": TOKEN})
JSON = {"content-type": "application/json"}
AUTHOR = "/authors/{author_id}"
LOCKED = {"/rank", "/rank/batch", AUTHOR, f"{AUTHOR}/similar", "/bank", "/stats", "/explain"}


class AuthorsHere:
    """The author cache in this process."""

    def __init__(self, cache: AuthorCache) -> None:
        self._cache = cache

    async def author(self, author_id: int) -> AuthorResponse:
        return self._cache.author(author_id)

    async def similar(self, author_id: int, k: int) -> SimilarResponse:
        return self._cache.similar(author_id, k)

    async def status(self) -> BankResponse:
        return self._cache.status()

    async def reasons(self, author_ids: Sequence[int], history: Sequence[int]) -> list[Reason]:
        return self._cache.reasons(author_ids, history)


def client_over(published: Published, *, tokens: Tokens = OPEN, **config: Any) -> TestClient:
    store = ArtifactStore.open(str(published.root))
    banks = SnapshotWatcher(store, partial(load_bank, store), WatchConfig())
    banks.poll()
    ranking, authors = UserSequence(watcher_of(published.root)), AuthorsHere(AuthorCache(banks))
    # Errors are raised in the tests: a bad request must never reach the server's own handler for them.
    admission = AdmissionConfig(**config)
    return TestClient(create_api(ranking, authors, Line(admission), admission, tokens))


@pytest.fixture(scope="module")
def client(shared: Published) -> Iterator[TestClient]:
    with client_over(shared) as client:
        yield client


def body(**fields: Any) -> dict[str, Any]:
    return {"user_id": int(USER_IDS[0]), "candidates": AUTHOR_IDS[:3].tolist()} | fields


def test_rank_answers_what_the_ranker_says(client: TestClient, sequence: UserSequence) -> None:
    asked = body(context={"ts_ms": NOW_MS})
    answer = client.post("/rank", json=asked)
    wanted = json.loads(sequence.rank(RankRequest.model_validate(asked)).model_dump_json())
    assert answer.status_code == 200 and answer.headers["content-type"] == "application/json"
    assert answer.json() | {"bank_age_s": 0} == wanted | {"bank_age_s": 0}


def test_the_most_that_is_allowed_is_answered(client: TestClient) -> None:
    history = [{"author_id": 2**63 - 1 - i, "ts_ms": NOW_MS - i, "watch_time_s": 1e7} for i in range(MAX_HISTORY)]
    asked = body(candidates=[-(2**63) + i for i in range(MAX_CANDIDATES)], history=history)
    answer = client.post("/rank", json=asked)
    assert answer.status_code == 200 and answer.json()["misses"]["candidates"] == MAX_CANDIDATES


BAD_FIELDS: list[tuple[dict[str, Any], str]] = [
    ({"candidates": []}, "at least 1"),
    ({"candidates": list(range(10_000))}, "at most 2000"),
    ({"candidates": [5, 5]}, "author 5 twice"),
    ({"candidates": None}, "no online store"),
    ({"lives": [5]}, "candidates or lives, got both"),
    ({"candidates": ["5"]}, "valid integer"),
    ({"candidates": [1.5]}, "valid integer"),
    ({"candidates": [5.0]}, "valid integer"),
    ({"candidates": [True]}, "valid integer"),
    ({"candidates": [2**63]}, "less than or equal"),
    ({"candidates": [10**300]}, "less than or equal"),
    ({"candidates": [None]}, "valid integer"),
    ({"candidates": ["\0"]}, "valid integer"),
    ({"candidates": {"a": 1}}, "valid list"),
    ({"user_id": None}, "valid integer"),
    ({"user_id": "\U0001f600"}, "valid integer"),
    ({"user_id": -(2**63) - 1}, "greater than or equal"),
    ({"user_id": [1]}, "valid integer"),
    ({"history": [{"author_id": 5, "ts_ms": 1}] * 10_000}, "at most 200"),
    ({"history": [{"author_id": 5}]}, "Field required"),
    ({"history": [{"author_id": 5, "ts_ms": -1}]}, "greater than or equal to 0"),
    ({"history": [{"author_id": 5, "ts_ms": 10**18}]}, "less than or equal"),
    ({"history": [{"author_id": 5, "ts_ms": 1, "watch_time_s": -1}]}, "greater than or equal to 0"),
    ({"history": [{"author_id": 5, "ts_ms": 1, "watch_time_s": 1e300}]}, "less than or equal"),
    ({"history": [{"author_id": 5, "ts_ms": 1, "watch_time_s": False}]}, "valid number"),
    ({"history": [{"author_id": 5, "ts_ms": 1, "watch_time_s": "3"}]}, "valid number"),
    ({"history": [{"author_id": 5, "ts_ms": 1, "watched": 1}]}, "Extra inputs"),
    ({"history": 5}, "valid list"),
    ({"context": {"ts_ms": "now"}}, "valid integer"),
    ({"context": []}, "valid dictionary"),
    ({"more": 1}, "Extra inputs"),
]


@pytest.mark.parametrize(("fields", "message"), BAD_FIELDS)
def test_bad_fields_are_422_and_say_why(client: TestClient, fields: dict[str, Any], message: str) -> None:
    answer = client.post("/rank", json=body(**fields))
    assert answer.status_code == 422 and message in answer.text


def test_an_answer_lists_a_few_errors_only(client: TestClient) -> None:
    answer = client.post("/rank", json=body(candidates=["x"] * 1000))
    assert answer.status_code == 422 and len(answer.json()["detail"]) == 10


BAD_BODIES = [
    b"",
    b"null",
    b"[]",
    b'"text"',
    b'{"user_id": 1',
    b'{"user_id": 1, "candidates": [1,]}',
    b'{"user_id": NaN, "candidates": [1]}',
    b'{"user_id": Infinity, "candidates": [1]}',
    b'{"user_id": 1e400, "candidates": [1]}',
    b'{"user_id": 1, "candidates": [1], "history": [{"author_id": 1, "ts_ms": 1, "watch_time_s": NaN}]}',
    b'{"user_id": 1, "candidates": [1], "history": [{"author_id": 1, "ts_ms": 1, "watch_time_s": 1e999}]}',
    b'{"user_id": ' + b"9" * 100_000 + b', "candidates": [1]}',
    b'{"user_id": 1, "candidates": [1], "\\ud800": 1}',
    b'{"user_id": "\\ud800", "candidates": [1]}',
    b'{"user_id": 1, "candidates": [1], "\xff\xfe": 1}',
    b"\xff\xfe\xfd",
    b"\x00" * 100,
    b"[" * 100_000,
    b'{"a":' * 100_000,
    b'{"user_id": 1, "candidates": [' + b"[" * 5_000 + b"]" * 5_000 + b"]}",
    struct.pack("<100d", *[float("nan")] * 100),
]


@pytest.mark.parametrize("content", BAD_BODIES)
def test_bad_bodies_are_4xx(client: TestClient, content: bytes) -> None:
    answer = client.post("/rank", content=content, headers=JSON)
    assert answer.status_code in (400, 422) and "detail" in answer.json()


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""])
def test_another_content_type_is_422(client: TestClient, kind: str) -> None:
    answer = client.post("/rank", content=json.dumps(body()).encode(), headers={"content-type": kind})
    assert answer.status_code == 422


def test_a_large_body_is_413(client: TestClient) -> None:
    assert client.post("/rank", content=b" " * (2 << 20), headers=JSON).status_code == 413


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/rank", 405),
        ("POST", "/bank", 405),
        ("GET", "/nothing", 404),
        ("GET", "/authors/../../etc/passwd", 404),
        ("GET", "/authors/%2e%2e%2fetc", 404),
        ("GET", "/authors/abc", 422),
        ("GET", "/authors/%00", 422),
        ("GET", "/authors/1.5", 422),
        ("GET", "/authors/" + "9" * 5000, 422),
        ("GET", f"/authors/{2**63}", 422),
        ("GET", "/authors/5/similar?k=0", 422),
        ("GET", "/authors/5/similar?k=101", 422),
        ("GET", "/authors/5/similar?k=ten", 422),
        ("GET", f"/authors/{UNANCHORED[0]}/similar", 404),
        ("GET", "/authors/-1/similar", 404),
        ("GET", "/authors/-1", 200),
    ],
)
def test_paths(client: TestClient, method: str, path: str, status: int) -> None:
    assert client.request(method, path).status_code == status


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)
KEYS = st.sampled_from(["user_id", "candidates", "history", "context"]) | st.text(max_size=4)


@settings(max_examples=300)
@given(st.dictionaries(KEYS, JSON_VALUES | st.lists(st.integers(), max_size=4), max_size=5))
def test_no_json_breaks_the_server(client: TestClient, value: dict[str, Any]) -> None:
    answer = client.post("/rank", content=json.dumps(value).encode(), headers=JSON)
    assert answer.status_code in (200, 422)


@settings(max_examples=200)
@given(st.binary(max_size=200))
def test_no_bytes_break_the_server(client: TestClient, content: bytes) -> None:
    assert client.post("/rank", content=content, headers=JSON).status_code in (400, 422)


def test_authors(client: TestClient) -> None:
    answer = client.get(f"/authors/{AUTHOR_IDS[0]}")
    assert answer.status_code == 200 and answer.json()["known"]
    similar = client.get(f"/authors/{AUTHOR_IDS[0]}/similar", params={"k": 4}).json()["similar"]
    assert len(similar) == 4 and {"author_id", "cosine"} == set(similar[0])


def test_bank_and_health(client: TestClient) -> None:
    assert client.get("/bank").json()["bank_version"] == "a"
    health = client.get("/healthz")
    assert health.status_code == 200 and health.json()["ready"]


def test_files_that_are_written_to_while_in_use_are_503_and_never_null(published: Published) -> None:
    with client_over(published) as client:
        assert client.post("/rank", json=body()).status_code == 200
        np.lib.format.open_memmap(published.folder("bank", "a") / source_file("sarm"), mode="r+")[1:] = np.nan
        answer = client.post("/rank", json=body())
    assert answer.status_code == 503 and answer.headers["retry-after"] == "1"
    assert "scores of bank a are not numbers" in answer.json()["detail"]


def test_nothing_published_is_503_and_asks_to_try_again(shared: Published) -> None:
    with client_over(Published(shared.root / "elsewhere")) as client:
        for answer in (client.post("/rank", json=body()), client.get("/bank"), client.get("/authors/1")):
            assert answer.status_code == 503 and "no bank is published" in answer.json()["detail"]
            assert answer.headers["retry-after"] == "1"
        health = client.get("/healthz")
        assert health.status_code == 503 and "no bank is loaded" in health.json()["reason"]


def test_the_api_is_documented(client: TestClient) -> None:
    described = client.get("/openapi.json").json()
    assert {*LOCKED, "/healthz"} == set(described["paths"])
    request = described["components"]["schemas"]["RankRequest"]
    for example in request["examples"]:
        assert client.post("/rank", json=example).status_code == 200
    assert request["properties"]["candidates"]["anyOf"][0]["maxItems"] == MAX_CANDIDATES


def test_with_a_token_only_the_page_and_health_are_open(shared: Published) -> None:
    with client_over(shared, tokens=ASKED) as client:
        assert client.post("/rank", json=body()).status_code == 401
        refused = client.get("/bank")
        assert refused.status_code == 401 and refused.headers["www-authenticate"] == "Bearer"
        assert client.post("/rank", content=b"{").status_code == 401
        assert client.get("/healthz").status_code == 200
        allowed = {"authorization": f"Bearer {TOKEN}"}
        assert client.post("/rank", json=body(), headers=allowed).status_code == 200
        assert client.get("/bank", headers=allowed).status_code == 200


def test_the_documentation_can_authorise_where_a_token_is_asked_for(shared: Published) -> None:
    with client_over(shared, tokens=ASKED) as client:
        described = client.get("/openapi.json").json()
    (scheme,) = described["components"]["securitySchemes"].items()
    assert (scheme[1]["type"], scheme[1]["scheme"]) == ("http", "bearer")
    locked = {path for path, methods in described["paths"].items() for m in methods.values() if "security" in m}
    assert locked == LOCKED


def test_the_documentation_asks_for_no_token_where_none_is_needed(client: TestClient) -> None:
    described = client.get("/openapi.json").json()
    assert "securitySchemes" not in described["components"] and '"security"' not in json.dumps(described)


def test_head_is_answered_where_load_balancers_ask(client: TestClient) -> None:
    for path in ("/", "/healthz"):
        answer = client.head(path)
        assert answer.status_code == 200 and answer.content == b""


@pytest.mark.parametrize(("method", "path", "status"), [("GET", "/nothing", 404), ("GET", "/rank", 405)])
def test_what_is_not_there_is_said_in_json(client: TestClient, method: str, path: str, status: int) -> None:
    answer = client.request(method, path)
    assert answer.status_code == status and "see /docs" in answer.json()["detail"]
    assert (answer.headers.get("allow") == "POST") == (status == 405)


def test_the_documentation_needs_nothing_from_elsewhere(shared: Published) -> None:
    with client_over(shared, tokens=ASKED) as client:
        page = client.get("/docs").text
        files = re.findall(r'(?:src|href)="([^"]+)"', page)
        assert len(files) == 3 and "https://" not in page
        assert [client.get(file).status_code for file in files] == [200] * 3


def test_a_batch_is_answered_request_by_request(client: TestClient, sequence: UserSequence) -> None:
    requests = [
        body(user_id=int(user), candidates=AUTHOR_IDS[: 2 + n].tolist(), context={"ts_ms": NOW_MS})
        for n, user in enumerate([*USER_IDS, 99])
    ]
    # One that fills a turn by itself.
    requests.insert(3, body(candidates=list(range(MAX_CANDIDATES)), context={"ts_ms": NOW_MS}))
    answer = client.post("/rank/batch", json={"requests": requests})
    assert answer.status_code == 200 and len(answer.json()["answers"]) == len(requests)
    for asked, found in zip(requests, answer.json()["answers"], strict=True):
        wanted = json.loads(sequence.rank(RankRequest.model_validate(asked)).model_dump_json())
        assert [c["author_id"] for c in found["candidates"]] == [c["author_id"] for c in wanted["candidates"]]
        assert found["candidates"][0]["score"] == pytest.approx(wanted["candidates"][0]["score"], abs=1e-5)


@pytest.mark.parametrize(
    ("requests", "message"),
    [
        ([], "at least 1"),
        ([body()] * 65, "at most 64"),
        ([body(), body(candidates=[5, 5])], r"requests[1].candidates holds author 5 twice"),
        ([body(), {"candidates": [5]}], "Field required"),
    ],
)
def test_a_bad_batch_is_422_and_says_why(client: TestClient, requests: list[Any], message: str) -> None:
    answer = client.post("/rank/batch", json={"requests": requests})
    assert answer.status_code == 422 and message in answer.text


def test_the_bound_on_bodies_is_configured(shared: Published) -> None:
    with client_over(shared, max_body_bytes=10) as client:
        assert client.post("/rank", json=body()).status_code == 413
