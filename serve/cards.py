"""What the page shows of authors beside their scores: anchors and frames, from published cards where there are any."""

from __future__ import annotations

import logging
import threading
import time
from typing import Any

from fastapi import APIRouter, HTTPException, Response
from pydantic import BaseModel, ConfigDict, Field

from models.artifacts.cards import KIND, Cards
from models.artifacts.store import ArtifactStore
from serve.schema import ErrorResponse, PathId

log = logging.getLogger(__name__)
_LOOK_EVERY_S = 10.0
_KEEP_S = 3600


class WordResponse(BaseModel):
    """A word of an anchor."""

    model_config = ConfigDict(extra="forbid")
    word: str
    importance: float | None = Field(description="Share of what the ranker reads in the anchor; null = not known.")


class CardResponse(BaseModel):
    """An author's anchor, and how many frames there are of the day that it was written on."""

    model_config = ConfigDict(extra="forbid")
    author_id: int
    day: str
    fields: list[tuple[str, list[WordResponse]]]
    frames: int


class CardShelf:
    """The newest published cards. Looks for newer ones when asked, every ten seconds at most.

    Cards that cannot be read are told in the log, and those before them stay: nothing that ranks depends on them.
    """

    def __init__(self, store: ArtifactStore) -> None:
        self._store, self._lock = store, threading.Lock()
        self._looked_at, self._version = float("-inf"), ""
        self._cards: Cards | None = None

    def card(self, author_id: int) -> dict[str, Any] | None:
        """See Cards.card; None where there are no cards."""
        cards = self._newest()
        return None if cards is None else cards.card(author_id)

    def frame(self, author_id: int, number: int) -> bytes | None:
        """See Cards.frame; None where there are no cards."""
        cards = self._newest()
        return None if cards is None else cards.frame(author_id, number)

    def _newest(self) -> Cards | None:
        with self._lock:
            if time.monotonic() - self._looked_at >= _LOOK_EVERY_S:
                self._look()
                self._looked_at = time.monotonic()
            return self._cards

    def _look(self) -> None:
        try:
            version = self._store.current(KIND)
            if version is not None and version != self._version:
                self._cards = Cards(self._store.fetch(KIND, version))
                self._version = version
        except (OSError, ValueError) as error:
            log.error("no newer cards: %s", error)


def add_cards(api: APIRouter, shelf: CardShelf) -> None:
    """The routes that show cards."""
    missing: dict[int | str, dict[str, Any]] = {404: {"model": ErrorResponse, "description": "There is none."}}

    @api.get("/authors/{author_id}/card", responses=missing)
    def card(author_id: PathId) -> CardResponse:
        """An author's newest anchor, word by word. Publish them with the job cards."""
        found = shelf.card(author_id)
        if found is None:
            raise HTTPException(404, f"there is no card of author {author_id}; the job cards publishes them")
        return CardResponse.model_validate(found)

    @api.get(
        "/authors/{author_id}/frames/{number}",
        responses=missing | {200: {"content": {"image/jpeg": {}}}},
        response_class=Response,
    )
    def frame(author_id: PathId, number: int) -> Response:
        """A frame of an author's live, 0 the first."""
        found = shelf.frame(author_id, number)
        if found is None:
            raise HTTPException(404, f"there is no frame {number} of author {author_id}")
        return Response(found, media_type="image/jpeg", headers={"cache-control": f"private, max-age={_KEEP_S}"})
