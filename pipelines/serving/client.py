"""A typed client of the running endpoint, for programs in Python.

with Client("http://127.0.0.1:8000", os.environ.get("SERVE_TOKEN")) as client:
    best = client.rank(Question(user_id=17, candidates=[101, 102, 103])).candidates[0]
    print(best.author_id, best.score, best.probabilities["click"])
"""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self
from urllib.parse import urlsplit

_NO_TASKS = ("author_id", "score", "known")
_MOST_PATIENCE_S = 2.0
_BUSY = (429, 503)


class EndpointError(RuntimeError):
    """The endpoint answered, and not with 200."""

    def __init__(self, message: str, status: int, retry_after_s: float | None) -> None:
        super().__init__(message)
        self.status = status
        """Of HTTP."""
        self.retry_after_s = retry_after_s
        """Seconds after which the endpoint wants to be asked again, None where it says none."""


@dataclass(frozen=True, slots=True)
class Click:
    """One item of a history that a request brings."""

    author_id: int
    ts_ms: int
    """Milliseconds since 1970."""
    watch_time_s: float = 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Question:
    """Whom to rank for a user."""

    user_id: int
    candidates: Sequence[int] | None = None
    """Authors; None = those of `lives`, or without these all who are on air."""
    lives: Sequence[int] | None = None
    history: Sequence[Click] | None = None
    """None = what the endpoint knows."""
    ts_ms: int | None = None
    """The moment, None = now."""
    model: str | None = None
    """Who answers, None = as users are split."""

    def body(self) -> dict[str, Any]:
        """The request as JSON."""
        lists = {"candidates": self.candidates, "lives": self.lives}
        body: dict[str, Any] = {name: list(ids) for name, ids in lists.items() if ids is not None}
        body |= {} if self.model is None else {"model": self.model}
        return body | _of_user(self.user_id, self.history, self.ts_ms)


def _of_user(user_id: int, history: Sequence[Click] | None, ts_ms: int | None) -> dict[str, Any]:
    """Who is asked for, with what is known and when, as JSON."""
    body: dict[str, Any] = {"user_id": user_id}
    body |= {} if history is None else {"history": [asdict(click) for click in history]}
    return body | ({} if ts_ms is None else {"context": {"ts_ms": ts_ms}})


@dataclass(frozen=True, kw_only=True, slots=True)
class Event:
    """What a user did, for the online store."""

    event_id: str
    """The same id again changes nothing."""
    kind: str
    """exposure, click, exit, follow, like, comment or gift."""
    user_id: int
    author_id: int
    live_id: int
    ts_ms: int
    watch_time_s: float | None = None
    """Of an exit."""


@dataclass(frozen=True, slots=True)
class Taken:
    """What became of events."""

    accepted: int
    duplicate: int
    rejected: int
    rejections: list[Mapping[str, Any]]
    """Of each that was rejected: its index, the field, and why."""


@dataclass(frozen=True, slots=True)
class Ranked:
    """One candidate of an answer."""

    author_id: int
    score: float
    """Orders the answer."""
    probabilities: Mapping[str, float]
    """By task of the ranker."""
    known: bool
    """False: not in the bank, scored as any new author."""


@dataclass(frozen=True, slots=True)
class Ranking:
    """The answer to a request."""

    candidates: list[Ranked]
    """Best first."""
    bank_version: str
    model_version: str
    user_known: bool
    history_used: int
    """Clicks that the ranker read."""
    degraded: bool
    """True where something that the ranker reads could not be had in time."""
    answer: Mapping[str, Any]
    """All of it, as /docs describes it."""

    @classmethod
    def of(cls, answer: Mapping[str, Any]) -> Ranking:
        """From the JSON of an answer."""
        named = {name: answer[name] for name in cls.__annotations__ if name not in ("candidates", "answer")}
        return cls(candidates=[_ranked(item) for item in answer["candidates"]], answer=answer, **named)


@dataclass(frozen=True, slots=True)
class Found:
    """One live that was retrieved."""

    live_id: int
    author_id: int
    score: float
    """Inner product of the user's vector and the live's."""


@dataclass(frozen=True, slots=True)
class Retrieval:
    """Lives on air that are near to a user."""

    lives: list[Found]
    """Nearest first; fewer than were asked for where fewer are on air."""
    on_air: int
    """How many were compared: all that are on air."""
    index_version: str
    towers_version: str
    user_known: bool
    history_used: int
    """Clicks that the user tower read."""
    degraded: bool
    """True where the online store did not answer in time."""
    answer: Mapping[str, Any]
    """All of it, as /docs describes it."""

    @classmethod
    def of(cls, answer: Mapping[str, Any]) -> Retrieval:
        """From the JSON of an answer."""
        named = {name: answer[name] for name in cls.__annotations__ if name not in ("lives", "answer")}
        columns = (answer["live_ids"], answer["author_ids"], answer["scores"])
        return cls(lives=[Found(*row) for row in zip(*columns, strict=True)], answer=answer, **named)


def _ranked(item: Mapping[str, Any]) -> Ranked:
    tasks = {name: value for name, value in item.items() if name not in _NO_TASKS and type(value) is float}
    return Ranked(item["author_id"], item["score"], tasks, item["known"])


class Client:
    """One persistent connection, closed by `with`; not to be shared between threads.

    What can be asked again without harm is, once: where the connection broke, and where the endpoint is busy and says
    when to come back. Methods raise EndpointError for any status but 200, with the answer's text, and OSError where
    nobody answers.
    """

    def __init__(self, url: str, token: str | None = None, *, timeout_s: float = 30.0, attempts: int = 2) -> None:
        """Args: `attempts` in all; 1 = never ask again."""
        parts = urlsplit(url)
        kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        self._connection = kind(parts.hostname or "127.0.0.1", parts.port, timeout=timeout_s)
        self._prefix, self._attempts = parts.path.rstrip("/"), attempts
        self._headers = {"content-type": "application/json"} | ({"authorization": f"Bearer {token}"} if token else {})

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def rank(self, question: Question) -> Ranking:
        """Ranks for a user."""
        return Ranking.of(self.post("/rank", question.body()))

    def rank_many(self, questions: Sequence[Question]) -> list[Ranking]:
        """Ranks for several users at once, 64 at most; in the order of the questions."""
        answer = self.post("/rank/batch", {"requests": [question.body() for question in questions]})
        return [Ranking.of(each) for each in answer["answers"]]

    def retrieve(
        self, user_id: int, k: int = 1_000, *, history: Sequence[Click] | None = None, ts_ms: int | None = None
    ) -> Retrieval:
        """The k lives on air that are nearest to a user, 2,000 at most; `history` and `ts_ms` as of a Question, whose
        `candidates` their authors may be."""
        return Retrieval.of(self.post("/retrieve", {"k": k} | _of_user(user_id, history, ts_ms)))

    def tell(self, events: Sequence[Event]) -> Taken:
        """Tells the online store what users did, 1,000 events at most. Needs a token of the role admin."""
        items = [{name: value for name, value in asdict(event).items() if value is not None} for event in events]
        return Taken(**self.post("/events", {"events": items}))

    def similar(self, author_id: int, k: int = 10) -> list[tuple[int, float]]:
        """The nearest authors, and their cosines."""
        answer = self.get(f"/authors/{author_id}/similar?k={k}")
        return [(item["author_id"], item["cosine"]) for item in answer["similar"]]

    def health(self) -> Mapping[str, Any]:
        """What /healthz says of an endpoint that is ready."""
        found: Mapping[str, Any] = self.get("/healthz")
        return found

    def get(self, path: str) -> Any:
        """JSON of a GET, such as /bank."""
        return self._ask("GET", path, None)

    def post(self, path: str, body: Any) -> Any:
        """JSON of a POST with a body that becomes JSON."""
        return self._ask("POST", path, json.dumps(body))

    def _ask(self, method: str, path: str, body: str | None) -> Any:
        for attempt in range(1, self._attempts + 1):
            try:
                return self._once(method, path, body)
            except (http.client.HTTPException, ConnectionError):
                self._connection.close()
                if attempt == self._attempts:
                    raise
            except EndpointError as error:
                if attempt == self._attempts or error.status not in _BUSY or error.retry_after_s is None:
                    raise
                time.sleep(min(error.retry_after_s, _MOST_PATIENCE_S))
        raise AssertionError("attempts >= 1")

    def _once(self, method: str, path: str, body: str | None) -> Any:
        self._connection.request(method, self._prefix + path, body, self._headers)
        answer = self._connection.getresponse()
        text = answer.read()
        if answer.status != 200:
            after = answer.getheader("retry-after") or ""
            raise EndpointError(
                f"{method} {path}: wanted status 200, got {answer.status}: {text[:300]!r}",
                answer.status,
                float(after) if after.isdigit() else None,
            )
        return json.loads(text)
