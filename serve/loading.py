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
from serve import probe
from serve.likeness import Likeness
from serve.neighbours import Neighbours
from serve.snapshot import Bank, Moment, Snapshot, anchored, check_states

log = logging.getLogger(__name__)
_SAME = {"model_weights": "model.safetensors"}
"""Key of a bank's lineage -> the file of its model of which it is the hash."""
_PINNED = ("tokenizer",)
"""Keys of lineage that a bank and its model must agree on, where both have them."""


def load_snapshot(store: ArtifactStore, version: str, *, with_states: bool = True, believed: bool = False) -> Snapshot:
    """The bank `version` and its model, verified. Raises ArtifactError or ValueError on any mismatch.

    Without states only row 0 is read: the others are then asked of the author cache. `believed` is for files that this
    node has looked at before (serve/prepare.py): they are mapped, and only the probe is asked.
    """
    started = time.perf_counter()
    folder, manifest = store.verified("bank", version, None if with_states else bank_files.SOURCE, believed=believed)
    elsewhere = None if with_states else partial(store.read_part, "bank", version)
    stored = bank_files.read(folder, elsewhere, every_row=not believed)
    asked = probe_files.read(folder)
    _check_lineage(version, manifest, (*stored.files, *asked.files))
    model_folder, of_model = store.verified(
        manifest.made_from["ranker"], manifest.made_from["model"], believed=believed
    )
    _check_pair(f"bank {version}", manifest, of_model)
    bank = _bank(version, manifest, stored, Catalog.load(model_folder / "catalog.safetensors"))
    model = ComposedRanker.load(model_folder, mapped=believed)
    _check_model(model, bank, every_row=not believed)
    bank = replace(bank, sources=dict(model.items()))
    snapshot = Snapshot(bank=bank, model=model, scorer=Scorer(model), histories=stored.histories)
    probe.check(snapshot, asked)
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


def _check_lineage(version: str, manifest: Manifest, read: tuple[str, ...]) -> None:
    """Raises ArtifactError where a manifest lacks what serving believes: the model, the time, the hash of each file."""
    subject = f"bank {version}"
    for key in ("ranker", "model"):
        if not manifest.made_from.get(key):
            raise ArtifactError(
                f"{subject}: wanted made_from.{key} in its manifest, got {dict(manifest.made_from)}; publish it again"
            )
    if not manifest.published_ts_ms:
        raise ArtifactError(f"{subject}: wanted published_ts_ms in its manifest, got none; publish it again")
    if unlisted := [name for name in read if name not in manifest.files]:
        raise ArtifactError(
            f"{subject}: wanted hashes of all its files in its manifest, got none of {', '.join(unlisted)}; "
            "publish it again"
        )


def _check_pair(subject: str, bank: Manifest, model: Manifest) -> None:
    """Raises ArtifactError where the bank was made with other weights, or another tokenizer, than the model's."""
    of = f"of {model.kind} {model.run_id}"
    for key, file in _SAME.items():
        if key not in bank.made_from:
            raise ArtifactError(f"{subject}: wanted made_from.{key} in its manifest, got none; publish it again")
        _equal(subject, f"made_from.{key} ({file} {of})", bank.made_from[key], model.files.get(file))
    for key in _PINNED:
        if key in model.made_from:
            wanted = model.made_from[key]
            _equal(subject, f"made_from.{key} (that {of})", bank.made_from.get(key), wanted)


def _bank(version: str, manifest: Manifest, stored: StoredBank, catalog: Catalog) -> Bank:
    _equal(f"bank {version}", "rows (authors of its model's catalog + 1)", stored.rows, catalog.num_authors + 1)
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


def _check_model(model: ComposedRanker, bank: Bank, *, every_row: bool) -> None:
    subject = f"bank {bank.version} with model {bank.model_version}"
    _equal(subject, "sources", sorted(bank.states), sorted(model.sources))
    if not model.sizes.cover(bank.catalog.sizes):
        _equal(subject, "sizes of the catalog", bank.catalog.sizes, model.sizes)
    held = {name: state if len(state) else bank.cold_start[name][None] for name, state in bank.states.items()}
    check_states(subject, dict(model.items()), held if every_row else {name: of[:1] for name, of in held.items()})
    if not every_row:
        return
    broken = [name for name, tensor in model.state_dict().items() if not bool(tensor.isfinite().all())]
    if broken:
        raise ArtifactError(f"{subject}: weights {broken[:5]} hold NaN or infinity; train again")


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
