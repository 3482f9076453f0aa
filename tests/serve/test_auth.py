"""The guards in front of the application."""

from __future__ import annotations

import asyncio
from collections.abc import MutableMapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from serve.auth import ADMIN_PATHS, App, RequireToken, Role, Tokens, needs_admin

TOKEN, ADMIN = "a-token-of-some-length", "an-admins-token-of-some-length"
OF_TOKEN = Tokens.read("ASK", environment={"ASK": TOKEN})
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
    method: str = "POST",
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

    asyncio.run(app({"type": "http", "method": method, "path": path, "headers": list(headers)}, receive, send))
    return next((message["status"] for message in sent if message["type"] == "http.response.start"), None)


def bearer(value: bytes) -> list[tuple[bytes, bytes]]:
    return [(b"authorization", value)]


@pytest.mark.parametrize("scheme", [b"Bearer", b"bearer", b"BEARER"])
def test_the_right_token_passes(scheme: bytes) -> None:
    guarded = RequireToken(Echo(), OF_TOKEN)
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
    assert status_of(RequireToken(app, OF_TOKEN), headers=headers) == 401
    assert app.bodies == []


@pytest.mark.parametrize("path", ["/", "/healthz", "/docs", "/openapi.json"])
def test_the_page_and_health_are_open(path: str) -> None:
    assert status_of(RequireToken(Echo(), OF_TOKEN), path=path) == 200


@pytest.mark.parametrize("path", ["/rank", "/authors/1", "/bank", "/healthz/", "//", "/docs/x"])
def test_all_other_paths_are_not(path: str) -> None:
    assert status_of(RequireToken(Echo(), OF_TOKEN), path=path) == 401


def test_an_admin_may_send_events_and_who_asks_may_not() -> None:
    tokens = Tokens.read("ASK", "CHANGE", environment={"ASK": TOKEN, "CHANGE": ADMIN})
    for path in ADMIN_PATHS:
        for below in (path, f"{path}/1"):
            answers = [
                status_of(RequireToken(Echo(), tokens), path=below, method=method, headers=bearer(b"Bearer " + token))
                for method in ("POST", "PUT", "DELETE", "GET")
                for token in (TOKEN.encode(), ADMIN.encode())
            ]
            assert answers == [403, 200] * 3 + [200, 200]
    assert status_of(RequireToken(Echo(), tokens), headers=bearer(b"Bearer " + ADMIN.encode())) == 200
    # The name of another path may begin alike.
    assert not needs_admin("POST", "/eventsource")


def test_what_an_admin_does_nobody_may_where_no_admin_is_named() -> None:
    answer = status_of(RequireToken(Echo(), OF_TOKEN), path="/events", headers=bearer(b"Bearer " + TOKEN.encode()))
    assert answer == 403


def test_no_token_is_asked_for_unless_named() -> None:
    assert Tokens.read(environment={"SERVE_TOKEN": TOKEN}) == Tokens()


def test_tokens_come_from_variables_as_they_are_or_as_digests() -> None:
    environment = {"ASK": f" {TOKEN}\nsha256:{sha256(b'another-token-of-some-length').hexdigest()} ", "CHANGE": ADMIN}
    tokens = Tokens.read("ASK", "CHANGE", environment=environment)
    given = (TOKEN, "another-token-of-some-length", ADMIN, "another", f"sha256:{sha256(TOKEN.encode()).hexdigest()}")
    assert [tokens.role_of(token.encode()) for token in given] == [Role.RANK, Role.RANK, Role.ADMIN, None, None]
    assert TOKEN not in repr(tokens) and ADMIN not in repr(tokens)


def test_a_file_holds_digests_of_both_roles(tmp_path: Path) -> None:
    file = tmp_path / "tokens"
    lines = [
        f"{role} sha256:{sha256(token.encode()).hexdigest()}" for role, token in (("rank", TOKEN), ("admin", ADMIN))
    ]
    file.write_text("# who asks\n" + "\n\n".join(lines))
    tokens = Tokens.read(tokens_file=str(file))
    assert [tokens.role_of(token.encode()) for token in (TOKEN, ADMIN, "x")] == [Role.RANK, Role.ADMIN, None]


@pytest.mark.parametrize("line", [TOKEN, f"rank {TOKEN}", f"root sha256:{'0' * 64}", f"rank sha256:{'0' * 63}", "rank"])
def test_another_line_is_refused_and_not_shown(tmp_path: Path, line: str) -> None:
    (tmp_path / "tokens").write_text(f"# comment\n{line}\n")
    with pytest.raises(ValueError, match="line 2: wanted ROLE sha256:HEX") as caught:
        Tokens.read(tokens_file=str(tmp_path / "tokens"))
    assert TOKEN not in str(caught.value)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="tokens_file .*/none: wanted a text file on every node"):
        Tokens.read(tokens_file=str(tmp_path / "none"))


@pytest.mark.parametrize("value", ["", "  ", "short", f"{TOKEN} short"])
def test_a_missing_or_short_token_is_an_error(value: str) -> None:
    with pytest.raises(ValueError, match="CHANGE must hold a token of at least 16"):
        Tokens.read("ASK", "CHANGE", environment={"ASK": TOKEN, "CHANGE": value})
    with pytest.raises(ValueError, match="ASK must hold a token of at least 16"):
        Tokens.read("ASK", environment={})
