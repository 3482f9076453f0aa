"""Spans of requests, to a collector of OpenTelemetry where the config names one."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from opentelemetry.propagate import extract
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from serve.observe import REQUEST_ID, route_of

Message = MutableMapping[str, Any]
App = Callable[..., Awaitable[None]]
_SERVICE = "live-anchors"
_PARENT = (b"traceparent", b"tracestate")


def provider_to(endpoint: str) -> TracerProvider:
    """Spans go to a collector, such as http://collector:4318, in the background; one that is away costs them alone."""
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

    return provider_of(OTLPSpanExporter(endpoint=f"{endpoint.rstrip('/')}/v1/traces"))


def provider_of(exporter: SpanExporter) -> TracerProvider:
    """Spans go to an exporter, in batches."""
    provider = TracerProvider(resource=Resource.create({"service.name": _SERVICE}))
    provider.add_span_processor(BatchSpanProcessor(exporter))
    return provider


class Trace:
    """One span for each request, child of the client's where it names one. Plain ASGI, inside Observe."""

    def __init__(self, app: App, provider: TracerProvider) -> None:
        self._app, self._tracer = app, provider.get_tracer(_SERVICE)

    async def __call__(self, scope: Message, receive: Any, send: Any) -> None:
        """One request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        parent = {name.decode(): value.decode("latin-1") for name, value in scope["headers"] if name in _PARENT}
        route = route_of(scope["path"])
        attributes = {"http.request.method": scope["method"], "http.route": route}
        with self._tracer.start_as_current_span(
            f"{scope['method']} {route}", context=extract(parent), kind=SpanKind.SERVER, attributes=attributes
        ) as span:

            async def told(message: Message) -> None:
                if message["type"] == "http.response.start":
                    span.set_attribute("http.response.status_code", message["status"])
                    if message["status"] >= 500:
                        span.set_status(StatusCode.ERROR)
                await send(message)

            for name, value in scope["headers"]:
                if name == REQUEST_ID:
                    span.set_attribute("request.id", value.decode("latin-1"))
            await self._app(scope, receive, told)
