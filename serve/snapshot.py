"""One published bank and the model it was made with, loaded, checked and immutable.

The bank's CURRENT alone decides the pair: its manifest names the model version. Whatever does not fit is refused with
both values, so that the previous pair keeps answering.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from models.artifacts import bank as bank_files
from models.artifacts.bank import COLD_START_ROW, NO_ANCHOR, Array, Histories, anchor_date
from models.artifacts.bank_delta import UNTIL, BankDelta, BankLayout
from models.artifacts.delta_store import DeltaStore
from models.artifacts.manifest import ArtifactError
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
    """When the full bank was stored."""
    states: Mapping[str, Array]
    """By source of the ranker, of the full bank: [N+1, ...], row 0 for unknown authors; [0, ...] where the states are
    elsewhere."""
    cold_start: Mapping[str, Array]
    """By source: a copy of row 0."""
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
        return BankLayout.of(self.version, self.num_authors + 1, self.cold_start)

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
        """States [n, ...] of rows [n] by source, copied."""
        if self.overlay is not None:
            return self.overlay.gather(self.states, rows)
        return taken(self.states, rows)

    def vectors(self, states: Mapping[str, Array]) -> dict[str, Array]:
        """Views [n, D] of states [n, ...] by which authors may be compared, by the names that sources give them."""
        return {n: v for name, source in self.sources.items() for n, v in source.vectors(states[name]).items()}

    def with_delta(self, delta: BankDelta) -> Bank:
        """The bank after its next delta, sharing what that leaves alone. Raises ArtifactError for what does not fit."""
        delta.check_follows(self.moment.delta, self.moment.until_ts_ms)
        rows = delta.rows.astype(np.int64)
        cold_start, overlay = self.cold_start, self.overlay
        if delta.states:
            _check_states(delta.subject, self.sources, delta.states)
            if len(rows) and rows[0] == COLD_START_ROW:
                cold_start = {name: np.array(state[0]) for name, state in delta.states.items()}
            if not self.is_elsewhere:
                overlay = (overlay or Overlay.empty(self.states, self.num_authors + 1)).with_rows(rows, delta.states)
        anchor_day = np.array(self.anchor_day)
        anchor_day[rows] = delta.anchor_day
        neighbours = self.neighbours
        if neighbours is not None and overlay is not None:
            vectors = next(iter(self.vectors(overlay.arrays).values()))
            neighbours = neighbours.with_rows(rows, _anchored(anchor_day), overlay.slot, vectors)
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

    @classmethod
    def load(cls, store: ArtifactStore, version: str, *, with_states: bool = True) -> Snapshot:
        """The bank `version` and its model, verified. Raises ArtifactError or ValueError on any mismatch.

        Without states only row 0 is read: the others are then asked of the author cache.
        """
        started = time.perf_counter()
        bank, histories, model_folder = _load_bank(store, version, with_states=with_states)
        model = ComposedRanker.load(model_folder)
        _check_model(model, bank)
        log.info("loaded bank %s with model %s in %.1f s", version, bank.model_version, time.perf_counter() - started)
        return cls(
            bank=replace(bank, sources=dict(model.items())), model=model, scorer=Scorer(model), histories=histories
        )


def load_bank(store: ArtifactStore, version: str) -> Bank:
    """The bank alone, for a process that ranks nothing. Raises as `Snapshot.load`.

    The model is checked all the same and let go, but for its sources: author cache and ranker then refuse the same
    versions.
    """
    bank = Snapshot.load(store, version).bank
    compared = next(iter(bank.vectors(bank.states).values()), None)
    return bank if compared is None else replace(bank, neighbours=Neighbours(compared, _anchored(bank.anchor_day)))


def _anchored(anchor_day: Array) -> Array:
    """[N+1], which rows may be compared."""
    anchored: Array = anchor_day != NO_ANCHOR
    anchored[COLD_START_ROW] = False
    return anchored


def _load_bank(store: ArtifactStore, version: str, *, with_states: bool) -> tuple[Bank, Histories, Path]:
    folder, manifest = store.verified("bank", version, without=None if with_states else bank_files.SOURCE)
    stored = bank_files.read(folder, None if with_states else partial(store.read_part, "bank", version))
    missing = [key for key in ("ranker", "model") if not manifest.made_from.get(key)]
    if missing:
        raise ArtifactError(
            f"bank {version}: wanted made_from.{missing[0]} in its manifest, got {dict(manifest.made_from)}; "
            "publish it again"
        )
    model_folder = store.fetch(manifest.made_from["ranker"], manifest.made_from["model"])
    catalog = Catalog.load(model_folder / "catalog.safetensors")
    _equal(f"bank {version}", "rows (authors of its model's catalog + 1)", stored.rows, catalog.num_authors + 1)
    bank = Bank(
        version=version,
        model_version=manifest.made_from["model"],
        made_from=dict(manifest.made_from),
        published_ts_ms=store.published_ts_ms("bank", version),
        states=stored.states,
        cold_start=stored.cold_start,
        anchor_day=stored.anchor_day,
        catalog=catalog,
        moment=Moment(0, _event_time(version, manifest.made_from.get(UNTIL))),
    )
    return bank, stored.histories, model_folder


def _check_model(model: ComposedRanker, bank: Bank) -> None:
    subject = f"bank {bank.version} with model {bank.model_version}"
    _equal(subject, "sources", sorted(bank.states), sorted(model.sources))
    if not model.sizes.cover(bank.catalog.sizes):
        _equal(subject, "sizes of the catalog", bank.catalog.sizes, model.sizes)
    held = {name: state if len(state) else bank.cold_start[name][None] for name, state in bank.states.items()}
    _check_states(subject, dict(model.items()), held)
    broken = [name for name, tensor in model.state_dict().items() if not bool(tensor.isfinite().all())]
    if broken:
        raise ArtifactError(f"{subject}: weights {broken[:5]} hold NaN or infinity; train again")


def _check_states(subject: str, sources: Mapping[str, Source], states: Mapping[str, Array]) -> None:
    for name, source in sources.items():
        try:
            source.check_table(states[name])
        except ValueError as error:
            raise ArtifactError(f"{subject}, source {name}: {error}; publish a bank and its model together") from error


def _event_time(version: str, text: str | None) -> int | None:
    """Milliseconds since 1970 that a full bank's manifest may say."""
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) < 15):
        raise ArtifactError(
            f"bank {version}: wanted made_from.{UNTIL} in milliseconds since 1970, got {text!r}; publish it again"
        )
    return int(text)


def _equal(subject: str, what: str, got: Any, wanted: Any) -> None:
    if got != wanted:
        raise ArtifactError(f"{subject}: {what}: got {got}, wanted {wanted}; publish a bank and its model together")
