"""Routes by which platforms tell the online store what happens: POST /events and POST /lives."""

from __future__ import annotations

import asyncio
import json
from concurrent.futures import Executor

from fastapi import APIRouter, FastAPI, Request, Response

from models.online.errors import StoreError
from serve.events import EventSink, EventsRequest, EventsResponse, LivesRequest
from serve.observe import Meter
from serve.schema import ErrorResponse


def add_event_routes(api: FastAPI, guarded: APIRouter, sink: EventSink, executor: Executor, meter: Meter) -> None:
    """Adds the routes to `guarded`. The store is written in `executor`: requests that wait for the disk together are
    written together, so it should have several threads."""
    errors: dict[int | str, dict[str, object]] = {
        413: {"model": ErrorResponse, "description": "The body is too large."},
        422: {"model": ErrorResponse, "description": "The request as a whole cannot be used; the answer says why."},
        503: {"model": ErrorResponse, "description": "The store does not answer now: send the request again."},
    }

    @guarded.post("/events", responses=errors)
    async def events(request: EventsRequest) -> EventsResponse:
        """Take in what users did. Each event has an id: sending it again changes nothing."""
        answer = await asyncio.get_running_loop().run_in_executor(executor, sink.take, request)
        for outcome in ("accepted", "duplicate", "rejected"):
            meter.count("events", getattr(answer, outcome), outcome=outcome)
        return answer

    @guarded.post("/lives", responses=errors)
    async def lives(request: LivesRequest) -> EventsResponse:
        """Take in which lives start, end, and have new segments."""
        return await asyncio.get_running_loop().run_in_executor(executor, sink.tell, request)

    @api.exception_handler(StoreError)
    async def down(_: Request, error: Exception) -> Response:
        body = json.dumps({"detail": f"nothing of the request is acknowledged, send it again: {error}"})
        return Response(body, 503, {"Retry-After": "1"}, media_type="application/json")
