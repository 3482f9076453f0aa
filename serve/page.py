"""The page at `/`: three files, without anything from elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from fastapi import FastAPI, Response

PAGE_PATHS = ("/", "/page.css", "/page.js")
"""Routes of the page. They hold no data, so they are answered without a token; what they ask for is not."""
_FOLDER = Path(__file__).parent / "web"
_FILES = {
    "/": ("index.html", "text/html"),
    "/page.css": ("page.css", "text/css"),
    "/page.js": ("page.js", "text/javascript"),
}
_HEADERS = {
    # Frames come as blobs, because an <img> brings no token; shades are set as properties of styles.
    "content-security-policy": "default-src 'self'; img-src 'self' blob: data:; style-src 'self' 'unsafe-inline'; "
    "frame-ancestors 'none'; base-uri 'none'; form-action 'self'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-cache",
}


def add_page(api: FastAPI) -> None:
    """The routes of the page, for GET and HEAD."""
    for path, (name, media_type) in _FILES.items():
        content = (_FOLDER / name).read_text(encoding="utf-8")
        api.add_api_route(path, _answering(content, media_type), methods=["GET", "HEAD"], include_in_schema=False)


def _answering(content: str, media_type: str) -> Callable[[], Response]:
    def answer() -> Response:
        return Response(content, media_type=media_type, headers=_HEADERS)

    return answer
