"""The guard in front of the application, as plain ASGI: a bearer token.

It runs in the replica, which is reachable without the proxy when HAProxy is on.
"""

import hmac
import json
import os
from collections.abc import Awaitable, Callable, Collection, Mapping, MutableMapping
from typing import Any

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

OPEN_PATHS = ("/", "/healthz", "/docs", "/openapi.json")
"""Paths that are answered without a token: they hold no data of users or authors."""

_MIN_TOKEN = 16


def token_from(variable: str | None, environment: Mapping[str, str] = os.environ) -> str | None:
    """The token that requests must bring, or None where the config asks for none.

    Raises ValueError if the config names a variable that is not set, or holds a token that is too short to be one.
    """
    if variable is None:
        return None
    token = environment.get(variable, "").strip()
    if len(token) < _MIN_TOKEN:
        raise ValueError(
            f"the environment variable {variable} must hold a token of at least {_MIN_TOKEN} characters, got "
            f"{len(token)}; set it on every node before Ray starts, or set token_env to null to serve without a token"
        )
    return token


class RequireToken:
    """Answers 401 unless the request brings `Authorization: Bearer <token>`."""

    def __init__(self, app: App, token: str, open_paths: Collection[str] = OPEN_PATHS) -> None:
        self._app, self._token, self._open_paths = app, token.encode(), frozenset(open_paths)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http" or scope["path"] in self._open_paths or self._is_allowed(scope):
            await self._app(scope, receive, send)
            return
        await refuse(send, 401, "wanted the header Authorization: Bearer TOKEN", {b"www-authenticate": b"Bearer"})

    def _is_allowed(self, scope: Scope) -> bool:
        given = [value for name, value in scope["headers"] if name == b"authorization"]
        if len(given) != 1:
            return False
        scheme, _, token = given[0].partition(b" ")
        return scheme.lower() == b"bearer" and hmac.compare_digest(token.strip(), self._token)


async def refuse(send: Send, status: int, detail: str, headers: Mapping[bytes, bytes]) -> None:
    """Answers with an error of the application's kind: see ErrorResponse."""
    body = json.dumps({"detail": detail}).encode()
    fixed = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": [*fixed, *headers.items()]})
    await send({"type": "http.response.body", "body": body})
