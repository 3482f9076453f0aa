"""Why someone is ranked where they are, as far as histories say it: whom of the user's history a candidate is like."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Annotated, Any, Protocol

import numpy as np
from fastapi import APIRouter
from pydantic import Field

from models.artifacts.bank import NO_ANCHOR
from serve.admission import Line
from serve.schema import ErrorResponse, Id, Message, Neighbour, RankRequest
from serve.snapshot import Bank

MAX_EXPLAINED = 50
"""Candidates of one request."""
_NEAREST = 3
_SIZE = 20
"""How much work a history is, in candidates."""


class ExplainRequest(RankRequest):
    """A ranking request, of which a few candidates are explained."""

    candidates: Annotated[list[Id], Field(min_length=1, max_length=MAX_EXPLAINED)]


class Reason(Message):
    """Whom of the history a candidate is like."""

    author_id: int
    nearest: list[Neighbour] = Field(description="Cosines of whitened [CLS] vectors; empty where nobody has an anchor.")


class ExplainResponse(Message):
    """A reason for each candidate, in their order."""

    history_author_ids: list[int] = Field(description="Different authors of the history that counts, newest first.")
    reasons: list[Reason]


class Histories(Protocol):
    """The ranker of this process."""

    def history_of(self, request: RankRequest) -> list[int]:
        """See UserSequence.history_of."""


class Reasons(Protocol):
    """The author cache, wherever it runs."""

    async def reasons(self, author_ids: Sequence[int], history: Sequence[int]) -> list[Reason]:
        """See reasons_of."""


def reasons_of(bank: Bank, author_ids: Sequence[int], history: Sequence[int]) -> list[Reason]:
    """The authors of a history that each of some authors is most like, the most alike first; itself, if it is there.

    Those without an anchor are compared with nobody, and nobody is where the bank holds no vectors, or in the first
    minute of a large one.
    """
    nearest: list[list[Neighbour]] = [[] for _ in author_ids]
    rows, others = (bank.catalog.author_rows(np.array(ids, np.int64)) for ids in (author_ids, history))
    can, may = ((part > 0) & (bank.anchor_day[part] != NO_ANCHOR) for part in (rows, others))
    if bank.neighbours is not None and bank.neighbours.is_ready and can.any() and may.any():
        known = [author_id for author_id, is_known in zip(history, may.tolist(), strict=True) if is_known]
        cosines = bank.neighbours.between(rows[can], others[may])
        for place, found in zip(np.flatnonzero(can).tolist(), cosines, strict=True):
            best = np.argsort(-found, kind="stable")[:_NEAREST].tolist()
            nearest[place] = [Neighbour(author_id=known[other], cosine=float(found[other])) for other in best]
    return [Reason(author_id=author, nearest=near) for author, near in zip(author_ids, nearest, strict=True)]


def add_explain(api: APIRouter, ranking: Histories, authors: Reasons, line: Line) -> None:
    """The route that explains."""
    refused: dict[int | str, dict[str, Any]] = {
        422: {"model": ErrorResponse, "description": "The request cannot be used; the answer says why."}
    }

    @api.post("/explain", responses=refused)
    async def explain(request: ExplainRequest) -> ExplainResponse:
        """Whom of the user's history candidates are like."""
        history = await line.turn(partial(ranking.history_of, request), _SIZE)
        reasons = await authors.reasons(request.candidates, history)
        return ExplainResponse(history_author_ids=history, reasons=reasons)
