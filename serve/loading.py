"""From what is published to what serves: one bank and the model it was made with, loaded, checked, and asked its probe.

The bank's CURRENT alone decides the pair: its manifest names the model version. Whatever does not fit is refused with
both values, so that the previous pair keeps answering.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

from models.artifacts import bank as bank_files
from models.artifacts import probe as probe_files
from models.artifacts.bank import Array, StoredBank
from models.artifacts.bank_delta import UNTIL
from models.artifacts.manifest import ArtifactError, Manifest
from models.artifacts.precision import as_read
from models.artifacts.store import ArtifactStore
from models.catalog import Catalog
from models.composed import ComposedRanker
from models.scoring import Scorer
from models.sources import CodesRead
from serve import probe
from serve.likeness import Likeness
from serve.neighbours import Neighbours
from serve.snapshot import Bank, Moment, Snapshot, anchored, check_states
from serve.verify import equal, verify

log = logging.getLogger(__name__)
Between = Callable[[Callable[[], Any]], Any]
"""Calls a part of the work and returns its result: at once, or between two answers (serve/admission.py)."""


def at_once(work: Callable[[], Any]) -> Any:
    """Calls it: a `Between` for who answers nobody meanwhile."""
    return work()


def load_snapshot(
    store: ArtifactStore,
    version: str,
    *,
    with_states: bool = True,
    believed: bool = False,
    between: Between = at_once,
) -> Snapshot:
    """The bank `version` and its model, verified, mapped, and asked its probe.

    Raises ArtifactError or ValueError on any mismatch.

    Without states only row 0 is read: the others are then asked of the author cache. `believed` is for files that this
    node has verified before (serve/prepare.py). What takes milliseconds is done by `between`, a part at a time.
    """
    started = time.perf_counter()
    if not believed:
        verify(store, version, with_states=with_states)
    folder, manifest = store.verified("bank", version, None if with_states else bank_files.SOURCE, believed=True)
    elsewhere = None if with_states else partial(store.read_part, "bank", version)
    stored = bank_files.read(folder, elsewhere, every_row=False)
    model_folder, _ = store.verified(manifest.made_from["ranker"], manifest.made_from["model"], believed=True)
    bank = _bank(version, manifest, stored, Catalog.load(model_folder / "catalog.safetensors"))
    model: ComposedRanker = between(lambda: ComposedRanker.load(model_folder, mapped=True))
    _check_model(model, bank, stored)
    bank = replace(bank, sources=dict(model.items()))
    scorer = between(lambda: Scorer(model))
    snapshot = Snapshot(bank=bank, model=model, scorer=scorer, histories=stored.histories, screens=stored.screens)
    for check in probe.checks(snapshot, probe_files.read(folder)):
        between(check)
    log.info("loaded bank %s with model %s in %.1f s", version, bank.model_version, time.perf_counter() - started)
    return snapshot


def load_bank(store: ArtifactStore, version: str) -> Bank:
    """The bank alone, for a process that ranks nothing, with what compares authors. Raises as `load_snapshot`."""
    bank = load_snapshot(store, version).bank
    return bank if compared_vectors(bank) is None else compared_here(bank)


def compared_here(bank: Bank) -> Bank:
    """A bank of vectors that compares its authors, by a likeness that is made now: reads all of it."""
    likeness = fit_likeness(bank)
    return compared(bank, lambda: likeness)


def fit_likeness(bank: Bank) -> Likeness:
    """By what the authors of a bank are compared. Raises ArtifactError where it holds no vectors."""
    vectors = compared_vectors(bank)
    if vectors is None:
        raise ArtifactError(f"bank {bank.version}: wanted vectors to compare authors by, got {list(bank.states)}")
    return Likeness.fit(vectors, anchored(bank.anchor_day))


def compared(bank: Bank, likeness: Callable[[], Likeness | None]) -> Bank:
    """A bank of vectors that compares its authors by a likeness, which is None until it is made."""
    vectors = compared_vectors(bank)
    assert vectors is not None, "it holds vectors"
    return replace(bank, neighbours=Neighbours(vectors, anchored(bank.anchor_day), likeness))


def compared_vectors(bank: Bank) -> Array | None:
    """[N+1, D], a view of the full bank by which authors are compared; None where it holds none."""
    return next(iter(bank.vectors(bank.states).values()), None)


def _bank(version: str, manifest: Manifest, stored: StoredBank, catalog: Catalog) -> Bank:
    equal(f"bank {version}", "rows (authors of its model's catalog + 1)", stored.rows, catalog.num_authors + 1)
    return Bank(
        version=version,
        model_version=manifest.made_from["model"],
        made_from=dict(manifest.made_from),
        published_ts_ms=manifest.published_ts_ms,
        states=stored.states,
        cold_start={name: as_read(row) for name, row in stored.cold_start.items()},
        anchor_day=stored.anchor_day,
        catalog=catalog,
        moment=Moment(0, _event_time(version, manifest.made_from.get(UNTIL))),
    )


def _check_model(model: ComposedRanker, bank: Bank, stored: StoredBank) -> None:
    subject = f"bank {bank.version} with model {bank.model_version}"
    equal(subject, "sources", sorted(bank.states), sorted(model.sources))
    if not model.sizes.cover(bank.catalog.sizes):
        equal(subject, "sizes of the catalog", bank.catalog.sizes, model.sizes)
    codes = {table: CodesRead(screen.codebook, screen.clusters) for table, screen in stored.screens.items()}
    equal(subject, "codes of what was on screen", codes, model.screens)
    held = {name: state if len(state) else bank.cold_start[name][None] for name, state in bank.states.items()}
    check_states(subject, dict(model.items()), held)


def _event_time(version: str, text: str | None) -> int | None:
    """Milliseconds since 1970 that a full bank's manifest may say."""
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) < 15):
        raise ArtifactError(
            f"bank {version}: wanted made_from.{UNTIL} in milliseconds since 1970, got {text!r}; publish it again"
        )
    return int(text)
