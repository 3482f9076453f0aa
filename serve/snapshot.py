"""One published bank and the model it was made with, loaded, checked and immutable.

The bank's CURRENT alone decides the pair: its manifest names the model version. Whatever does not fit is refused with
both values, so that the previous pair keeps answering.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

from models.artifacts import bank as bank_files
from models.artifacts.bank import COLD_START_ROW, NO_ANCHOR, Array, Histories, anchor_date
from models.artifacts.manifest import ArtifactError
from models.artifacts.store import ArtifactStore
from models.catalog import Catalog
from models.composed import ComposedRanker
from serve.neighbours import Neighbours

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Bank:
    """What is known of the authors in one version, mapped from disk; processes of a node share the pages."""

    version: str
    """Run id of the bank."""
    model_version: str
    """Run id of the model that made it."""
    made_from: dict[str, str]
    """What the manifest says about its inputs."""
    published_ts_ms: int
    """When it was stored."""
    states: Mapping[str, Array]
    """By source of the ranker: [N+1, ...], row 0 for unknown authors; [0, ...] where the states are elsewhere."""
    cold_start: Mapping[str, Array]
    """By source: a copy of row 0."""
    anchor_day: Array
    """[N+1] int32, days since 1970, NO_ANCHOR where there is none."""
    catalog: Catalog
    """Who has which row."""
    vectors: Mapping[str, Array] = field(default_factory=dict)
    """Views [N+1, D] of the states by which authors may be compared, by the names that sources give them."""
    neighbours: Neighbours | None = None
    """Who is alike by the first of `vectors`; None outside the author cache, and where there are none."""

    @property
    def num_authors(self) -> int:
        """N."""
        return self.catalog.num_authors

    def age_s(self, now_ms: int) -> float:
        """Seconds since the bank was published."""
        return max(0.0, (now_ms - self.published_ts_ms) / 1000.0)

    def anchor_date(self, row: int) -> date | None:
        """Day of an author's anchor, None where there is none."""
        return anchor_date(self.anchor_day[row])


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Snapshot:
    """Everything a request reads, of one version."""

    bank: Bank
    """States and catalog."""
    model: ComposedRanker
    """In evaluation mode; nothing is encoded here."""
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
        vectors = {n: v for name, source in model.items() for n, v in source.vectors(bank.states[name]).items()}
        return cls(bank=replace(bank, vectors=vectors), model=model, histories=histories)


def load_bank(store: ArtifactStore, version: str) -> Bank:
    """The bank alone, for a process that ranks nothing. Raises as `Snapshot.load`.

    The model is checked all the same and let go: author cache and ranker then refuse the same versions.
    """
    bank = Snapshot.load(store, version).bank
    compared = next(iter(bank.vectors.values()), None)
    if compared is None:
        return bank
    anchored = bank.anchor_day != NO_ANCHOR
    anchored[COLD_START_ROW] = False
    return replace(bank, neighbours=Neighbours(compared, anchored))


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
    )
    return bank, stored.histories, model_folder


def _check_model(model: ComposedRanker, bank: Bank) -> None:
    subject = f"bank {bank.version} with model {bank.model_version}"
    _equal(subject, "sources", sorted(bank.states), sorted(model.sources))
    _equal(subject, "sizes of the catalog", bank.catalog.sizes, model.sizes)
    for name, source in model.items():
        rows = bank.states[name] if len(bank.states[name]) else bank.cold_start[name][None]
        try:
            source.check_table(rows)
        except ValueError as error:
            raise ArtifactError(f"{subject}, source {name}: {error}; publish a bank and its model together") from error
    broken = [name for name, tensor in model.state_dict().items() if not bool(tensor.isfinite().all())]
    if broken:
        raise ArtifactError(f"{subject}: weights {broken[:5]} hold NaN or infinity; train again")


def _equal(subject: str, what: str, got: Any, wanted: Any) -> None:
    if got != wanted:
        raise ArtifactError(f"{subject}: {what}: got {got}, wanted {wanted}; publish a bank and its model together")
