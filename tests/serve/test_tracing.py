"""Spans of requests."""

from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from serve.tracing import Trace, provider_of, provider_to
from tests.serve.test_observe import answering, asked

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


def test_a_request_is_a_span_of_the_clients_trace() -> None:
    exporter = InMemorySpanExporter()
    provider = provider_of(exporter)
    headers = [(b"traceparent", f"00-{TRACE}-{PARENT}-01".encode()), (b"x-request-id", b"r1")]
    asked(Trace(answering(200), provider), "/authors/7/similar", headers)
    asked(Trace(answering(503), provider))
    provider.force_flush()
    first, second = exporter.get_finished_spans()
    assert (first.name, first.kind) == ("POST /authors", SpanKind.SERVER)
    assert f"{first.context.trace_id:032x}" == TRACE and first.parent is not None
    assert f"{first.parent.span_id:016x}" == PARENT
    assert dict(first.attributes or {}) == {
        "http.request.method": "POST",
        "http.route": "/authors",
        "http.response.status_code": 200,
        "request.id": "r1",
    }
    assert (second.parent, second.status.status_code) == (None, StatusCode.ERROR)
    provider.shutdown()


def test_spans_reach_a_collector() -> None:
    got: list[tuple[str, bytes]] = []

    class Collector(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            got.append((self.path, self.rfile.read(int(self.headers["content-length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Tests are quiet."""

    server = HTTPServer(("127.0.0.1", 0), Collector)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    provider = provider_to(f"http://127.0.0.1:{server.server_port}/")
    asked(Trace(answering(200), provider))
    assert provider.force_flush()
    provider.shutdown()
    server.shutdown()
    thread.join()
    server.server_close()
    (path, body), *_ = got
    assert path == "/v1/traces" and b"live-anchors" in body and b"POST /rank" in body
