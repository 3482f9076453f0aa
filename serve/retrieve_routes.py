"""Routes of retrieval: POST /retrieve and GET /index."""

from __future__ import annotations

from functools import partial
from typing import Any

from fastapi import APIRouter, Response

from serve.admission import Line
from serve.observe import Meter, Stages
from serve.retrieval import Retrieval
from serve.schema import ErrorResponse, IndexResponse, RetrieveRequest, RetrieveResponse

_SIZE, _LIVES_OF_SIZE = 50, 250
"""How much work a request is, in candidates: so much, and one for so many lives that are compared."""


def add_retrieve(api: APIRouter, retrieval: Retrieval, line: Line, meter: Meter) -> None:
    """The routes. Requests take their turn in `line`, with those of ranking."""
    responses: dict[int | str, dict[str, Any]] = {
        404: {"model": ErrorResponse, "description": "No index is published, or no live of it is on air."},
        408: {"model": ErrorResponse, "description": "The body did not come in time."},
        413: {"model": ErrorResponse, "description": "The body is too large."},
        422: {"model": ErrorResponse, "description": "The request cannot be used; the answer says why."},
        503: {"model": ErrorResponse, "description": "The index cannot be loaded, or too many requests wait."},
    }

    def answer(request: RetrieveRequest, stages: Stages) -> str:
        stages.mark("wait")
        found = retrieval.retrieve(request, stages.mark)
        body = found.model_dump_json()
        stages.mark("serialise")
        for stage, seconds in stages.seconds.items():
            meter.observe("retrieve_stage_seconds", seconds, stage=stage)
        meter.count("retrieve_answers", towers=found.towers_version)
        if found.degraded:
            meter.count("retrieve_degraded")
        return body

    @api.post("/retrieve", response_model=RetrieveResponse, responses=responses)
    async def retrieve(request: RetrieveRequest) -> Response:
        """Find the lives on air that are nearest to a user, by the two towers' vectors."""
        size = _SIZE + retrieval.lives // _LIVES_OF_SIZE
        body = await line.turn(partial(answer, request, Stages()), size)
        return Response(body, media_type="application/json")

    @api.get("/index", responses={404: responses[404]})
    async def index() -> IndexResponse:
        """The index of lives in use."""
        return retrieval.status()
