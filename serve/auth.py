"""The guard in front of the application, as plain ASGI: bearer tokens of two roles.

It runs in the replica, which is reachable without the proxy when HAProxy is on.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import re
from collections.abc import Awaitable, Callable, Collection, Mapping, MutableMapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from serve.page import PAGE_PATHS

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

OPEN_PATHS = (*PAGE_PATHS, "/healthz", "/docs", "/openapi.json")
"""Paths that are answered without a token: they hold no data of users or authors."""
ADMIN_PATHS = ("/events", "/lives", "/models")
"""Paths, and those below them, by which a request changes what others are answered: only GET is for everyone there."""

_MIN_TOKEN = 16
_HASH = re.compile(r"sha256:([0-9a-f]{64})")
_READING = ("GET", "HEAD")


class Role(StrEnum):
    """What a token is good for."""

    RANK = "rank"
    """To ask."""
    ADMIN = "admin"
    """To ask, and to change what others are answered."""


@dataclass(frozen=True, slots=True)
class Tokens:
    """Who may ask: SHA-256 digests of tokens, and no token itself. Empty = whoever reaches the port may do all."""

    digests: Mapping[bytes, Role] = field(default_factory=dict)

    def role_of(self, token: bytes) -> Role | None:
        """What a token is good for, None for one that is not known; in the same time for all that are not."""
        given, found = hashlib.sha256(token).digest(), None
        for digest, role in self.digests.items():
            if hmac.compare_digest(given, digest):
                found = role
        return found

    @classmethod
    def read(
        cls,
        token_env: str | None = None,
        admin_token_env: str | None = None,
        tokens_file: str | None = None,
        environment: Mapping[str, str] = os.environ,
    ) -> Tokens:
        """The tokens of two environment variables and of a file, each optional.

        A variable holds one token, or several with blanks between, so that one can take over from another; each as it
        is, or as `sha256:` and its digest in hex. A line of the file is `rank sha256:...` or `admin sha256:...`, or
        begins with #. Raises ValueError, which shows no token, for a variable that is not set, a token that is too
        short to be one, and a file that is not there or holds another line.
        """
        digests: dict[bytes, Role] = {}
        if tokens_file is not None:
            digests |= _of_file(Path(tokens_file))
        for variable, role in ((token_env, Role.RANK), (admin_token_env, Role.ADMIN)):
            if variable is not None:
                digests |= dict.fromkeys(_of_variable(variable, environment), role)
        return cls(digests)


def _of_variable(variable: str, environment: Mapping[str, str]) -> list[bytes]:
    given = environment.get(variable, "").split()
    if short := [token for token in given or [""] if len(token) < _MIN_TOKEN]:
        raise ValueError(
            f"the environment variable {variable} must hold a token of at least {_MIN_TOKEN} characters, got "
            f"{len(short[0])}; set it on every node before Ray starts, or set its key to null to serve without a token"
        )
    hashes = [_HASH.fullmatch(token) for token in given]
    return [
        hashlib.sha256(token.encode()).digest() if found is None else bytes.fromhex(found[1])
        for token, found in zip(given, hashes, strict=True)
    ]


def _of_file(path: Path) -> dict[bytes, Role]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeError) as error:
        raise ValueError(f"tokens_file {path}: wanted a text file on every node, got: {error}") from error
    digests: dict[bytes, Role] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip() or line.startswith("#"):
            continue
        role, _, token = line.strip().partition(" ")
        found = _HASH.fullmatch(token.strip())
        if role not in list(Role) or found is None:
            raise ValueError(
                f"tokens_file {path}, line {number}: wanted ROLE sha256:HEX with a role of {', '.join(Role)}, got "
                "something else; make the digest with: printf %s TOKEN | sha256sum"
            )
        digests[bytes.fromhex(found[1])] = Role(role)
    return digests


class RequireToken:
    """Answers 401 unless the request brings `Authorization: Bearer TOKEN`, and 403 where that is not an admin's."""

    def __init__(self, app: App, tokens: Tokens, open_paths: Collection[str] = OPEN_PATHS) -> None:
        self._app, self._tokens, self._open_paths = app, tokens, frozenset(open_paths)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http" or scope["path"] in self._open_paths:
            await self._app(scope, receive, send)
            return
        role = self._role(scope)
        if role is None:
            await refuse(send, 401, "wanted the header Authorization: Bearer TOKEN", {b"www-authenticate": b"Bearer"})
        elif role is not Role.ADMIN and needs_admin(scope["method"], scope["path"]):
            await refuse(send, 403, "wanted a token of the role admin; see admin_token_env", {})
        else:
            await self._app(scope, receive, send)

    def _role(self, scope: Scope) -> Role | None:
        given = [value for name, value in scope["headers"] if name == b"authorization"]
        if len(given) != 1:
            return None
        scheme, _, token = given[0].partition(b" ")
        return self._tokens.role_of(token.strip()) if scheme.lower() == b"bearer" else None


def needs_admin(method: str, path: str) -> bool:
    """Whether a request may change what others are answered."""
    return method not in _READING and any(path == head or path.startswith(f"{head}/") for head in ADMIN_PATHS)


async def refuse(send: Send, status: int, detail: str, headers: Mapping[bytes, bytes]) -> None:
    """Answers with an error of the application's kind: see ErrorResponse."""
    body = json.dumps({"detail": detail}).encode()
    fixed = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": [*fixed, *headers.items()]})
    await send({"type": "http.response.body", "body": body})
