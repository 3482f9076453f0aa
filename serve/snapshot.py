"""One published bank and the model it was made with, immutable: what a request reads. serve/loading.py makes it."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime
from typing import NamedTuple

import numpy as np

from models.artifacts.bank import COLD_START_ROW, NO_ANCHOR, Array, Histories, anchor_date
from models.artifacts.bank_delta import BankDelta, BankLayout
from models.artifacts.delta_store import DeltaStore
from models.artifacts.manifest import ArtifactError
from models.artifacts.precision import as_read
from models.artifacts.screens import Screen
from models.artifacts.store import ArtifactStore
from models.catalog import Catalog
from models.composed import ComposedRanker
from models.scoring import Scorer
from models.sources import Source
from serve.neighbours import Neighbours
from serve.overlay import Overlay, Rows, taken

log = logging.getLogger(__name__)


class Moment(NamedTuple):
    """How far a bank knows: one moment for all that a request reads of it."""

    delta: int = 0
    """Number of the newest delta that is in it; 0 = the full bank alone."""
    until_ts_ms: int | None = None
    """Event time: all that happened before is in it; None where a full bank does not say."""

    @property
    def until(self) -> str | None:
        """The event time as ISO text in UTC."""
        if self.until_ts_ms is None:
            return None
        return datetime.fromtimestamp(self.until_ts_ms / 1000, UTC).isoformat(timespec="milliseconds")

    def age_s(self, now_ms: int) -> float | None:
        """Seconds of event time since then; None where it is not known."""
        return None if self.until_ts_ms is None else max(0.0, (now_ms - self.until_ts_ms) / 1000.0)


class Gathered(NamedTuple):
    """States of some rows, all of one moment of one bank."""

    states: Mapping[str, Array]
    """By source: [n, ...]."""
    moment: Moment


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Bank:
    """What is known of the authors in one version, mapped from disk; processes of a node share the pages.

    What deltas brought lies over it in memory. Read rows by `gather`, which minds both.
    """

    version: str
    """Run id of the full bank."""
    model_version: str
    """Run id of the model that made it."""
    made_from: dict[str, str]
    """What the manifest says about its inputs."""
    published_ts_ms: int
    """When the full bank was published, by its manifest."""
    states: Mapping[str, Array]
    """By source of the ranker, of the full bank: [N+1, ...], row 0 for unknown authors; [0, ...] where the states are
    elsewhere."""
    cold_start: Mapping[str, Array]
    """By source: row 0, as models read it."""
    anchor_day: Array
    """[N+1] int32, days since 1970, NO_ANCHOR where there is none."""
    catalog: Catalog
    """Who has which row."""
    sources: Mapping[str, Source] = field(default_factory=dict)
    """Those of the ranker, which know what fits their states, and which part of them can be compared."""
    neighbours: Neighbours | None = None
    """Who is alike by the first of `vectors`; None outside the author cache, and where there are none."""
    moment: Moment = Moment()
    """Its newest delta, and how far it knows."""
    overlay: Overlay | None = None
    """Rows that deltas brought; None before the first, and where the states are elsewhere."""

    @property
    def num_authors(self) -> int:
        """N."""
        return self.catalog.num_authors

    @property
    def layout(self) -> BankLayout:
        """What its deltas must fit."""
        states = {name: (state.dtype, state.shape[1:]) for name, state in self.states.items()}
        return BankLayout(run_id=self.version, rows=self.num_authors + 1, states=states)

    @property
    def is_elsewhere(self) -> bool:
        """Whether the states are asked of the author cache."""
        return any(not len(state) for state in self.states.values())

    def age_s(self, now_ms: int) -> float:
        """Seconds since the full bank was published."""
        return max(0.0, (now_ms - self.published_ts_ms) / 1000.0)

    def anchor_date(self, row: int) -> date | None:
        """Day of an author's anchor, None where there is none."""
        return anchor_date(self.anchor_day[row])

    def gather(self, rows: Rows) -> dict[str, Array]:
        """States [n, ...] of rows [n] by source, copied, as models read them: float32 where float16 is stored."""
        stored = taken(self.states, rows) if self.overlay is None else self.overlay.gather(self.states, rows)
        return {name: as_read(state) for name, state in stored.items()}

    def vectors(self, states: Mapping[str, Array]) -> dict[str, Array]:
        """Views [n, D] of states [n, ...] by which authors may be compared, by the names that sources give them."""
        return {n: v for name, source in self.sources.items() for n, v in source.vectors(states[name]).items()}

    def with_delta(self, delta: BankDelta) -> Bank:
        """The bank after its next delta, sharing what that leaves alone. Raises ArtifactError for what does not fit."""
        delta.check_follows(self.moment.delta, self.moment.until_ts_ms)
        rows = delta.rows.astype(np.int64)
        cold_start, overlay = self.cold_start, self.overlay
        if delta.states:
            check_states(delta.subject, self.sources, delta.states)
            if len(rows) and rows[0] == COLD_START_ROW:
                cold_start = {name: as_read(np.array(state[0])) for name, state in delta.states.items()}
            if not self.is_elsewhere:
                overlay = (overlay or Overlay.empty(self.states, self.num_authors + 1)).with_rows(rows, delta.states)
        anchor_day = np.array(self.anchor_day)
        anchor_day[rows] = delta.anchor_day
        neighbours = self.neighbours
        if neighbours is not None and overlay is not None:
            vectors = next(iter(self.vectors(overlay.arrays).values()))
            neighbours = neighbours.with_rows(anchored(anchor_day), overlay.slot, vectors)
        return replace(
            self,
            cold_start=cold_start,
            anchor_day=anchor_day,
            neighbours=neighbours,
            moment=Moment(delta.number, delta.until_ts_ms),
            overlay=overlay,
        )

    def after(self, store: ArtifactStore) -> Iterator[Bank]:
        """The bank after each delta that was published since, in order. Raises ArtifactError at the first bad one."""
        bank = self
        for delta in DeltaStore(store, self.layout).since(self.moment.delta, with_states=not self.is_elsewhere):
            bank = bank.with_delta(delta)
            yield bank


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Snapshot:
    """Everything a request reads, of one version."""

    bank: Bank
    """States and catalog."""
    model: ComposedRanker
    """In evaluation mode; nothing is encoded here."""
    scorer: Scorer
    """Of the model."""
    histories: Histories
    """For users whose request brings no history."""
    screens: Mapping[str, Screen] = field(default_factory=dict)
    """By table of codes that the model reads, what was on screen; empty where it reads none."""

    @property
    def version(self) -> str:
        """Run id of the bank, which decides the pair."""
        return self.bank.version

    @property
    def tasks(self) -> tuple[str, ...]:
        """What the ranker predicts, in the order of its probabilities."""
        return tuple(self.model.config.tasks)

    def after(self, store: ArtifactStore) -> Iterator[Snapshot]:
        """See Bank.after."""
        return (replace(self, bank=bank) for bank in self.bank.after(store))


def anchored(anchor_day: Array) -> Array:
    """[N+1], which rows may be compared."""
    may: Array = anchor_day != NO_ANCHOR
    may[COLD_START_ROW] = False
    return may


def check_states(subject: str, sources: Mapping[str, Source], states: Mapping[str, Array]) -> None:
    """Raises ArtifactError where states [n, ...] hold no rows of their source's table."""
    for name, source in sources.items():
        try:
            # Vectors are told by their type and shape: one row of them says it for all.
            source.check_table(as_read(states[name][:1]) if states[name].dtype.kind == "f" else states[name])
        except ValueError as error:
            raise ArtifactError(f"{subject}, source {name}: {error}; publish a bank and its model together") from error
