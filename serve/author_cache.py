"""The author cache: owns the bank's versions and answers questions about authors."""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import UTC, datetime

import numpy as np

from models.artifacts.bank import NO_ANCHOR
from serve.explain import Reason, reasons_of
from serve.overlay import Rows
from serve.schema import MAX_SIMILAR, AuthorResponse, BankResponse, Neighbour, SimilarResponse
from serve.snapshot import Bank, Gathered
from serve.watcher import NotReadyError, SnapshotWatcher

_SAMPLES = 5


class NoAnchorError(LookupError):
    """The author is unknown or has no anchor, so nothing can be compared with it."""


class NoVectorsError(LookupError):
    """The bank's ranker has no vectors of authors, so nothing can be compared."""


class AuthorCache:
    """Reads one bank per call. A plain class: serve/app.py makes it a deployment, tests use it as it is."""

    def __init__(self, watcher: SnapshotWatcher[Bank]) -> None:
        self._watcher = watcher

    def author(self, author_id: int) -> AuthorResponse:
        """What the bank holds about an author; one that is not known is described by the cold-start row."""
        bank = self._watcher.current
        row = int(bank.catalog.author_rows(author_id))
        day = bank.anchor_date(row) if row else None
        vectors = bank.vectors(bank.gather(np.array([row])))
        norms = {name: float(np.linalg.norm(vector[0])) for name, vector in vectors.items()}
        return AuthorResponse(
            author_id=author_id,
            known=row > 0,
            anchor_day=day.isoformat() if day else None,
            anchor_age_days=(datetime.now(UTC).date() - day).days if day else None,
            cls_norm=norms.get("cls"),
            tar_norm=norms.get("tar"),
            bank_version=bank.version,
            bank_delta=bank.moment.delta,
            model_version=bank.model_version,
        )

    def similar(self, author_id: int, k: int = 10) -> SimilarResponse:
        """The k nearest authors by cosine of whitened h_CLS, itself and authors without an anchor left out.

        Equal cosines are ordered by row. In the first minute of a large bank the one before it answers, as the answer
        says. Raises ValueError for k outside 1..MAX_SIMILAR, NoVectorsError where the bank holds none, NoAnchorError
        where the author has no anchor, NotReadyError where authors cannot be compared yet.
        """
        if not 1 <= k <= MAX_SIMILAR:
            raise ValueError(f"k must be within 1..{MAX_SIMILAR}, got {k}")
        bank = self._watcher.current
        if bank.neighbours is None:
            raise NoVectorsError(
                f"bank {bank.version} holds no vectors to compare, only {', '.join(bank.states) or 'nothing'}: "
                "its ranker has no source with such vectors"
            )
        bank = self._comparing()
        assert bank.neighbours is not None
        row = int(bank.catalog.author_rows(author_id))
        if not row or bank.anchor_day[row] == NO_ANCHOR:
            raise NoAnchorError(f"author {author_id} has no anchor in bank {bank.version}")
        others, cosines = bank.neighbours.nearest(row, k)
        return SimilarResponse(
            author_id=author_id,
            similar=[
                Neighbour(author_id=int(bank.catalog.author_ids[other - 1]), cosine=float(cosine))
                for other, cosine in zip(others, cosines, strict=True)
            ],
            bank_version=bank.version,
            bank_delta=bank.moment.delta,
            model_version=bank.model_version,
        )

    def reasons(self, author_ids: Sequence[int], history: Sequence[int]) -> list[Reason]:
        """See reasons_of."""
        return reasons_of(self._watcher.current, author_ids, history)

    def _comparing(self) -> Bank:
        """The newest bank whose authors can be compared by now. Raises NotReadyError where there is none."""
        for bank in self._watcher.loaded:
            if bank.neighbours is not None and bank.neighbours.is_ready:
                return bank
        raise NotReadyError(f"the authors of bank {self._watcher.current.version} are being compared; try again")

    def status(self) -> BankResponse:
        """The bank in use, and how following it goes."""
        bank, now_ms = self._watcher.current, time.time_ns() // 1_000_000
        anchored = np.flatnonzero(bank.anchor_day[1:] != NO_ANCHOR)
        return BankResponse(
            bank_version=bank.version,
            bank_delta=bank.moment.delta,
            bank_until=bank.moment.until,
            bank_until_age_s=bank.moment.age_s(now_ms),
            rows_of_deltas=0 if bank.overlay is None else len(bank.overlay.rows()),
            model_version=bank.model_version,
            rows=bank.num_authors + 1,
            states={name: list(row.shape) for name, row in bank.cold_start.items()},
            authors_with_anchor=len(anchored),
            age_s=bank.age_s(now_ms),
            made_from=bank.made_from,
            load_failures=self._watcher.failures,
            last_failure=self._watcher.last_failure,
            stale=self._watcher.is_stale,
            sample_author_ids=bank.catalog.author_ids[anchored[:_SAMPLES]].tolist(),
            sample_user_ids=bank.catalog.user_ids[:_SAMPLES].tolist(),
        )

    def states(self, version: str, delta: int, rows: Rows) -> Gathered | None:
        """Bank rows of one version, with all of its deltas that are here; None where it does not hold that version yet.

        Where the asker knows a newer `delta`, or another version, this cache looks for it now.
        """
        bank = next((bank for bank in self._watcher.loaded if bank.version == version), None)
        if bank is None or bank.moment.delta < delta:
            self._watcher.wake()
        return None if bank is None else Gathered(bank.gather(rows), bank.moment)
