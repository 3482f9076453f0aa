"""The HTTP face: routes, errors and the page. Knows neither Ray nor artifacts."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor
from functools import partial
from typing import Annotated, Any, Protocol

from fastapi import APIRouter, Depends, FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.security import HTTPBearer
from fastapi_offline import FastAPIOffline
from starlette.exceptions import HTTPException as StarletteHTTPException

from serve.admission import Line, OverloadedError, ReadBody
from serve.args import AdmissionConfig, TelemetryConfig
from serve.arms import ArmRankings, UnknownArmError
from serve.auth import OPEN_PATHS, RequireToken, Tokens
from serve.author_cache import NoAnchorError, NoVectorsError
from serve.cards import CardShelf, add_cards
from serve.event_routes import add_event_routes
from serve.events import EventSink
from serve.explain import Reason, add_explain
from serve.observe import LastMinute, Mark, Meter, NoMeter, Observe, Stages, unmarked
from serve.online import NoCandidatesError, NothingOnAirError
from serve.page import add_page
from serve.ranked_figures import tell_ranked
from serve.retrieval import NoIndexError, Retrieval
from serve.retrieve_routes import add_retrieve
from serve.schema import (
    MAX_CANDIDATES,
    MAX_SIMILAR,
    ArmResponse,
    AuthorResponse,
    BankResponse,
    BatchRequest,
    BatchResponse,
    ErrorResponse,
    HealthResponse,
    MinuteResponse,
    PathId,
    RankRequest,
    RankResponse,
    SimilarResponse,
    StatsResponse,
)
from serve.tracing import Trace, provider_to
from serve.user_sequence import DamagedError, DuplicateCandidatesError
from serve.watcher import NotReadyError

_MAX_ERRORS = 10
_ON_AIR = 500
"""Candidates that a request without any is taken for, before it is known who is on air."""
NOBODY_ASKED, UNMEASURED, NOT_TOLD = Tokens(), NoMeter(), TelemetryConfig()
_RETRY_AFTER = {"Retry-After": "1"}
_DOCS = "/static-offline-docs"
_DOCS_FILES = tuple(f"{_DOCS}/{name}" for name in ("swagger-ui-bundle.js", "swagger-ui.css", "favicon.png"))
_BEARER = HTTPBearer(auto_error=False, description="One of the tokens that the server was told.")
"""Tells /docs to ask for the token. It refuses nothing: RequireToken does, before a body is read."""


class Authors(Protocol):
    """The author cache, wherever it runs."""

    async def author(self, author_id: int) -> AuthorResponse:
        """See AuthorCache.author."""

    async def similar(self, author_id: int, k: int) -> SimilarResponse:
        """See AuthorCache.similar."""

    async def status(self) -> BankResponse:
        """See AuthorCache.status."""

    async def reasons(self, author_ids: Sequence[int], history: Sequence[int]) -> list[Reason]:
        """See AuthorCache.reasons."""


class Ranking(Protocol):
    """The ranker of this process."""

    def rank_many(self, requests: Sequence[RankRequest], mark: Mark = unmarked) -> list[RankResponse]:
        """See UserSequence.rank_many."""

    def history_of(self, request: RankRequest) -> list[int]:
        """See UserSequence.history_of."""

    def health(self) -> HealthResponse:
        """See UserSequence.health."""


def create_api(
    ranking: Ranking,
    authors: Authors,
    line: Line,
    admission: AdmissionConfig,
    tokens: Tokens = NOBODY_ASKED,
    *,
    shelf: CardShelf | None = None,
    arms: ArmRankings | None = None,
    told: tuple[EventSink, Executor] | None = None,
    retrieval: Retrieval | None = None,
    meter: Meter = UNMEASURED,
    telemetry: TelemetryConfig = NOT_TOLD,
) -> FastAPI:
    """The application. Requests take their turn at ranking in `line`; without `tokens` it is open to all.

    Without a `shelf` it shows no cards; `arms` say which models answer; `told` takes events and lives in, in an
    executor of its own, None where there is no online store; `retrieval` finds lives. What is measured goes to `meter`.
    """
    minute = LastMinute()
    api: FastAPI = FastAPIOffline(
        title="Live-stream ranking from semantic anchors",
        description="Ranks authors for a user with SARM, from a published bank of author vectors.",
        version="1",
        redoc_url=None,
        static_url=_DOCS,
        responses={503: {"model": ErrorResponse, "description": "No bank is loaded yet, or too many requests wait."}},
    )
    guarded = APIRouter(dependencies=[Depends(_BEARER)] if tokens.digests else [])
    _add_errors(api)
    _add_ranking(guarded, ranking, line, meter)
    _add_authors(guarded, authors)
    add_explain(guarded, ranking, authors, line)
    _add_stats(guarded, minute, None if told is None else told[0])
    if shelf is not None:
        add_cards(guarded, shelf)
    if arms is not None:
        _add_models(guarded, arms)
    if retrieval is not None:
        add_retrieve(guarded, retrieval, line, meter)
    if told is not None:
        add_event_routes(api, guarded, *told, meter)
    api.include_router(guarded)
    _add_open(api, ranking)
    api.add_middleware(ReadBody, config=admission, line=line)
    if tokens.digests:
        api.add_middleware(RequireToken, tokens=tokens, open_paths=(*OPEN_PATHS, *_DOCS_FILES))
    if telemetry.otlp is not None:
        api.add_middleware(Trace, provider=provider_to(telemetry.otlp))
    api.add_middleware(Observe, meter=meter, minute=minute, log=telemetry.access_log)
    return api


def _add_ranking(api: APIRouter, ranking: Ranking, line: Line, meter: Meter) -> None:
    responses: dict[int | str, dict[str, Any]] = {
        404: {"model": ErrorResponse, "description": "No live that could be ranked is on air."},
        408: {"model": ErrorResponse, "description": "The body did not come in time."},
        413: {"model": ErrorResponse, "description": "The body is too large."},
        422: {"model": ErrorResponse, "description": "The request cannot be used; the answer says why."},
    }

    def answers(requests: Sequence[RankRequest], stages: Stages) -> list[str]:
        stages.mark("wait")
        ranked = ranking.rank_many(requests, stages.mark)
        bodies = [answer.model_dump_json() for answer in ranked]
        stages.mark("serialise")
        tell_ranked(meter, ranked, stages)
        return bodies

    @api.post("/rank", response_model=RankResponse, responses=responses)
    async def rank(request: RankRequest) -> Response:
        """Rank candidates for a user, best first."""
        (body,) = await line.turn(partial(answers, [request], Stages()), _size([request]))
        return Response(body, media_type="application/json")

    @api.post("/rank/batch", response_model=BatchResponse, responses=responses)
    async def rank_batch(batch: BatchRequest) -> Response:
        """Rank for several users at once; answers stand in the order of the requests."""
        bodies: list[str] = []
        for part in _parts(batch.requests):
            bodies += await line.turn(partial(answers, part, Stages()), _size(part))
        return Response(f'{{"answers":[{",".join(bodies)}]}}', media_type="application/json")


def _size(requests: Sequence[RankRequest]) -> int:
    """How much work they are: a request is about as much as what is done for 50 of its candidates."""
    return sum(50 + (len(request.candidates or request.lives or ()) or _ON_AIR) for request in requests)


def _parts(requests: Sequence[RankRequest]) -> Iterator[Sequence[RankRequest]]:
    """Consecutive requests that are one turn together, no more work than the largest that stands alone."""
    start = 0
    for end in range(1, len(requests) + 1):
        if end == len(requests) or _size(requests[start : end + 1]) > MAX_CANDIDATES:
            yield requests[start:end]
            start = end


def _add_authors(api: APIRouter, authors: Authors) -> None:
    no_anchor: dict[int | str, dict[str, Any]] = {
        404: {"model": ErrorResponse, "description": "Not known, or without an anchor; or the bank holds no vectors."}
    }

    @api.get("/authors/{author_id}")
    async def author(author_id: PathId) -> AuthorResponse:
        """What the bank holds about an author. One that is not known is described by the cold-start row."""
        return await authors.author(author_id)

    @api.get("/authors/{author_id}/similar", responses=no_anchor)
    async def similar(author_id: PathId, k: Annotated[int, Query(ge=1, le=MAX_SIMILAR)] = 10) -> SimilarResponse:
        """The nearest authors by cosine of their whitened [CLS] vectors."""
        return await authors.similar(author_id, k)

    @api.get("/bank")
    async def bank() -> BankResponse:
        """The bank in use."""
        return await authors.status()


def _add_open(api: FastAPI, ranking: Ranking) -> None:
    """Routes that never ask for a token: OPEN_PATHS of serve/auth.py."""

    @api.head("/healthz", include_in_schema=False)
    @api.get("/healthz", responses={503: {"model": HealthResponse}})
    async def healthz(response: Response) -> HealthResponse:
        """200 when requests can be ranked, else 503 with the reason."""
        health = ranking.health()
        response.status_code = 200 if health.ready else 503
        return health

    add_page(api)


def _add_models(api: APIRouter, arms: ArmRankings) -> None:
    @api.get("/models")
    async def models() -> list[ArmResponse]:
        """Which banks and models answer here, and whom. The job split chooses them."""
        return arms.models()


def _add_stats(api: APIRouter, minute: LastMinute, sink: EventSink | None) -> None:
    @api.get("/stats")
    async def stats() -> StatsResponse:
        """What this replica answered in the last minute, and how fresh the events are that it has taken."""
        age_s = None if sink is None else sink.age_s
        return StatsResponse(minute=MinuteResponse.model_validate(minute.figures()), store_age_s=age_s)


def _add_errors(api: FastAPI) -> None:
    @api.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> Response:
        # What was sent is not sent back: it may hold NaN or broken surrogates, which no JSON answer can carry.
        items = [
            {"loc": list(item["loc"]), "msg": item["msg"], "type": item["type"]}
            for item in error.errors()[:_MAX_ERRORS]
        ]
        return _json(422, items)

    answers: dict[type[Exception], tuple[int, dict[str, str]]] = {
        DuplicateCandidatesError: (422, {}),
        UnknownArmError: (422, {}),
        NoCandidatesError: (422, {}),
        NothingOnAirError: (404, {}),
        NoIndexError: (404, {}),
        NoAnchorError: (404, {}),
        NoVectorsError: (404, {}),
        NotReadyError: (503, _RETRY_AFTER),
        OverloadedError: (503, _RETRY_AFTER),
        DamagedError: (503, _RETRY_AFTER),
    }

    def handler(status: int, headers: dict[str, str]) -> Callable[[Request, Exception], Response]:
        return lambda _, error: _json(status, str(error), headers)

    for kind, (status, headers) in answers.items():
        api.add_exception_handler(kind, handler(status, headers))
    api.add_exception_handler(StarletteHTTPException, _http_error)


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, StarletteHTTPException)
    detail = {404: f"nothing is at {request.url.path}; see /docs", 405: f"not by {request.method}; see /docs"}
    return _json(error.status_code, detail.get(error.status_code, str(error.detail)), dict(error.headers or {}))


def _json(status: int, detail: Any, headers: dict[str, str] | None = None) -> Response:
    body = json.dumps({"detail": detail}, allow_nan=False)
    return Response(body, status_code=status, headers=headers, media_type="application/json")
