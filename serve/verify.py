"""What the files of a bank and of its ranker must be like before a process of this node uses them.

Every byte and row is read once, and nothing is ranked: so it needs none of torch, which takes several times as long to
import as a bank takes to read.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from models.artifacts import bank as bank_files
from models.artifacts import probe as probe_files
from models.artifacts.manifest import ArtifactError, Manifest
from models.artifacts.store import ArtifactStore

_WEIGHTS = "model.safetensors"
_SAME = {"model_weights": _WEIGHTS}
"""Key of a bank's lineage -> the file of its model of which it is the hash."""
_PINNED = ("tokenizer",)
"""Keys of lineage that a bank and its model must agree on, where both have them."""


def verify(store: ArtifactStore, version: str, *, with_states: bool = True) -> None:
    """Looks at hashes, rows, lineage and weights of the bank `version` and its model. Raises ArtifactError.

    Without states only row 0 of each is looked at: the others are then asked of the author cache.
    """
    folder, manifest = store.verified("bank", version, None if with_states else bank_files.SOURCE)
    elsewhere = None if with_states else lambda name, count: store.read_part("bank", version, name, count)
    stored, asked = bank_files.read(folder, elsewhere), probe_files.read(folder)
    _check_lineage(version, manifest, (*stored.files, *asked.files))
    model_folder, of_model = store.verified(manifest.made_from["ranker"], manifest.made_from["model"])
    _check_pair(f"bank {version}", manifest, of_model)
    _check_weights(f"{of_model.kind} {of_model.run_id}", model_folder / _WEIGHTS)


def equal(subject: str, what: str, got: Any, wanted: Any) -> None:
    """Raises ArtifactError with both values where they differ."""
    if got != wanted:
        raise ArtifactError(f"{subject}: {what}: got {got}, wanted {wanted}; publish a bank and its model together")


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
        equal(subject, f"made_from.{key} ({file} {of})", bank.made_from[key], model.files.get(file))
    for key in _PINNED:
        if key in model.made_from:
            equal(subject, f"made_from.{key} (that {of})", bank.made_from.get(key), model.made_from[key])


def _check_weights(subject: str, path: Path) -> None:
    """Raises ArtifactError for weights that are no numbers, a tensor at a time."""
    try:
        with safe_open(path, framework="np") as weights:
            broken = [name for name in weights.keys() if not np.isfinite(weights.get_tensor(name)).all()]  # noqa: SIM118
    except (SafetensorError, TypeError) as error:
        raise ArtifactError(f"{subject}: {path.name} cannot be read ({error}); publish it again") from error
    if broken:
        raise ArtifactError(f"{subject}: weights {broken[:5]} hold NaN or infinity; train again")
