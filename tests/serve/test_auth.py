"""The guards in front of the application."""

from __future__ import annotations

import asyncio
from collections.abc import MutableMapping, Sequence
from typing import Any

import pytest

from serve.auth import App, RequireToken, token_from

TOKEN = "a-token-of-some-length"
Message = MutableMapping[str, Any]


class Echo:
    """An application that answers 200 with the length of the body it was given."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        body, more = b"", True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            body += message.get("body", b"")
            more = message.get("more_body", False)
        self.bodies.append(body)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})


def status_of(
    app: App,
    *,
    path: str = "/rank",
    headers: Sequence[tuple[bytes, bytes]] = (),
    chunks: Sequence[bytes] = (b"",),
    ends: bool = True,
) -> int | None:
    """Sends one request in chunks; None where nothing was answered. Without `ends` the client goes away at the end."""
    messages: list[Message] = [{"type": "http.request", "body": chunk, "more_body": True} for chunk in chunks]
    if ends:
        messages[-1]["more_body"] = False
    sent: list[Message] = []

    async def receive() -> Message:
        return messages.pop(0) if messages else {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        sent.append(message)

    asyncio.run(app({"type": "http", "path": path, "headers": list(headers)}, receive, send))
    return next((message["status"] for message in sent if message["type"] == "http.response.start"), None)


def bearer(value: bytes) -> list[tuple[bytes, bytes]]:
    return [(b"authorization", value)]


@pytest.mark.parametrize("scheme", [b"Bearer", b"bearer", b"BEARER"])
def test_the_right_token_passes(scheme: bytes) -> None:
    guarded = RequireToken(Echo(), TOKEN)
    assert status_of(guarded, headers=bearer(scheme + b" " + TOKEN.encode())) == 200


@pytest.mark.parametrize(
    "headers",
    [
        [],
        bearer(b""),
        bearer(b"Bearer"),
        bearer(b"Bearer "),
        bearer(b"Bearer wrong"),
        bearer(b"Bearer " + TOKEN.encode() + b"x"),
        bearer(b"Bearer " + TOKEN.encode()[:-1]),
        bearer(b"Basic " + TOKEN.encode()),
        bearer(TOKEN.encode()),
        bearer(b"Bearer \xff\xfe"),
        [*bearer(b"Bearer wrong"), *bearer(b"Bearer " + TOKEN.encode())],
    ],
)
def test_anything_else_is_401(headers: list[tuple[bytes, bytes]]) -> None:
    app = Echo()
    assert status_of(RequireToken(app, TOKEN), headers=headers) == 401
    assert app.bodies == []


@pytest.mark.parametrize("path", ["/", "/healthz", "/docs", "/openapi.json"])
def test_the_page_and_health_are_open(path: str) -> None:
    assert status_of(RequireToken(Echo(), TOKEN), path=path) == 200


@pytest.mark.parametrize("path", ["/rank", "/authors/1", "/bank", "/healthz/", "//", "/docs/x"])
def test_all_other_paths_are_not(path: str) -> None:
    assert status_of(RequireToken(Echo(), TOKEN), path=path) == 401


def test_no_token_is_asked_for_unless_named() -> None:
    assert token_from(None, {"SERVE_TOKEN": TOKEN}) is None


def test_the_token_comes_from_the_environment() -> None:
    assert token_from("SERVE_TOKEN", {"SERVE_TOKEN": f" {TOKEN}\n"}) == TOKEN


@pytest.mark.parametrize("environment", [{}, {"SERVE_TOKEN": ""}, {"SERVE_TOKEN": "short"}])
def test_a_missing_or_short_token_is_an_error(environment: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="SERVE_TOKEN must hold a token of at least 16"):
        token_from("SERVE_TOKEN", environment)
