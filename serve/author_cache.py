"""The author cache: owns the bank's versions and answers questions about authors."""

from __future__ import annotations

import time
from datetime import UTC, datetime

import numpy as np
import numpy.typing as npt

from serve.schema import MAX_SIMILAR, AuthorResponse, BankResponse, Neighbour, SimilarResponse
from serve.snapshot import Bank
from serve.watcher import SnapshotWatcher

_SAMPLES = 5


class NoAnchorError(LookupError):
    """The author is unknown or has no anchor, so nothing can be compared with it."""


class AuthorCache:
    """Reads one bank per call. A plain class: serve/app.py makes it a deployment, tests use it as it is."""

    def __init__(self, watcher: SnapshotWatcher[Bank]) -> None:
        self._watcher = watcher

    def author(self, author_id: int) -> AuthorResponse:
        """What the bank holds about an author; one that is not known is described by the cold-start row."""
        bank = self._watcher.current
        row = int(bank.catalog.author_rows(author_id))
        day = bank.anchor_date(row) if row else None
        cls, tar = np.linalg.norm(bank.vectors[row], axis=-1)
        return AuthorResponse(
            author_id=author_id,
            known=row > 0,
            anchor_day=day.isoformat() if day else None,
            anchor_age_days=(datetime.now(UTC).date() - day).days if day else None,
            cls_norm=float(cls),
            tar_norm=float(tar),
            bank_version=bank.version,
            model_version=bank.model_version,
        )

    def similar(self, author_id: int, k: int = 10) -> SimilarResponse:
        """The k nearest authors by cosine of whitened h_CLS, itself and authors without an anchor left out; exact.

        Equal cosines are ordered by row. Raises ValueError for k outside 1..MAX_SIMILAR, NoAnchorError where the author
        has no anchor.
        """
        if not 1 <= k <= MAX_SIMILAR:
            raise ValueError(f"k must be within 1..{MAX_SIMILAR}, got {k}")
        bank = self._watcher.current
        row = int(bank.catalog.author_rows(author_id))
        if not row or bank.anchor_day[row] < 0:
            raise NoAnchorError(f"author {author_id} has no anchor in bank {bank.version}")
        assert bank.neighbours is not None  # load_bank makes them
        others, cosines = bank.neighbours.nearest(row, k)
        return SimilarResponse(
            author_id=author_id,
            similar=[
                Neighbour(author_id=int(bank.catalog.author_ids[other - 1]), cosine=float(cosine))
                for other, cosine in zip(others, cosines, strict=True)
            ],
            bank_version=bank.version,
            model_version=bank.model_version,
        )

    def status(self) -> BankResponse:
        """The bank in use, and how following it goes."""
        bank = self._watcher.current
        anchored = np.flatnonzero(bank.anchor_day[1:] >= 0)
        return BankResponse(
            bank_version=bank.version,
            model_version=bank.model_version,
            rows=bank.num_authors + 1,
            dim=bank.dim,
            authors_with_anchor=len(anchored),
            age_s=bank.age_s(time.time_ns() // 1_000_000),
            made_from=bank.made_from,
            load_failures=self._watcher.failures,
            last_failure=self._watcher.last_failure,
            sample_author_ids=bank.catalog.author_ids[anchored[:_SAMPLES]].tolist(),
            sample_user_ids=bank.catalog.user_ids[:_SAMPLES].tolist(),
        )

    def vectors(self, version: str, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.float32] | None:
        """Bank rows of one version, [n, 2, D]; None where this cache does not hold that version (yet)."""
        for bank in self._watcher.loaded:
            if bank.version == version:
                return np.ascontiguousarray(bank.vectors[rows])
        self._watcher.wake()
        return None
