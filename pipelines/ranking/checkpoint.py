"""What a checkpoint of training holds: the model as it is published, and what is needed to go on."""

import errno
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from models.artifacts.manifest import MANIFEST

CATALOG, CATEGORIES = "catalog.safetensors", "categories.json"
OPTIMIZER, PROGRESS = "optimizer.pt", "progress.json"
SEEN = "seen.safetensors"
"""On which day each user and author was seen last, where a ranker follows its days."""
SAID = "said.safetensors"
"""Labels and scores of the impressions of a key that is learnt by windows, up to a checkpoint within it."""
BEST = "best.pt"
"""Weights, optimizer and banks of the best epoch so far, where there is a validation."""

_FULL = 2**20
"""A disk on which fewer bytes are left is full."""


@dataclass(kw_only=True, slots=True)
class Progress:
    """How far a run has come; kept in its checkpoints."""

    step: int = 0
    examples: int = 0
    encoded: int = 0
    done: list[str] = field(default_factory=list)
    """Time keys that were trained on, in order, epoch after epoch."""
    stretches: int = 0
    """Stretches of the key after those that were trained on too; by windows, spans."""
    until_ms: int = 0
    """By windows: the moment up to which what was reported is learnt."""
    bank: str = ""
    """The published bank whose deltas this run has sent."""
    deltas: int = 0
    """Number of the newest of them."""
    scores: list[float] = field(default_factory=list)
    """GAUC on the validation keys after each epoch; empty without a validation."""
    epochs_end: int | None = None
    """Length of `done` when the last epoch had ended; what follows are the validation keys. None before."""
    seconds: float = 0.0
    """Seconds in training steps, by the clock on the wall."""
    waited_s: float = 0.0
    """Seconds between them in which this worker waited for examples."""
    cpu_seconds: float = 0.0
    """The same in CPU seconds of this process, all its threads together."""
    judged: list[dict[str, Any]] = field(default_factory=list)
    """{key, examples, and auc, gauc, normalised_entropy, calibration by task}: each key before it was learnt."""
    curve: list[dict[str, float]] = field(default_factory=list)
    """{step, loss, main_loss, aux_loss, the loss of each task, examples_per_s}, means since the entry before."""

    @property
    def best_epoch(self) -> int:
        """The epoch with the best score, from 1; 0 where none was scored."""
        return 1 + self.scores.index(max(self.scores)) if self.scores else 0


def bank_file(source: str) -> str:
    """Where the memory bank of a source is kept."""
    return f"bank-{source}.safetensors"


def state_kind(ranker: str) -> str:
    """Artifact kind of what a ranker that follows goes on from: its last checkpoint."""
    return f"{ranker}.state"


def folder_after(progress: Progress) -> str:
    """Name of the checkpoint that is left when the last of the keys `done` is, or so many stretches of the next one."""
    within = f"-and-{progress.stretches}" if progress.stretches else ""
    return f"after-{len(progress.done)}-{progress.done[-1] if progress.done else 'none'}{within}"


def published_files(checkpoint: Path) -> list[Path]:
    """Files that make up a ranker's artifact: all but those that only training needs."""
    return sorted(
        path
        for path in checkpoint.iterdir()
        if path.name not in (OPTIMIZER, PROGRESS, BEST, SEEN, SAID, MANIFEST) and not path.match(bank_file("*"))
    )


@contextmanager
def full_disk_told(folder: Path) -> Iterator[None]:
    """While a checkpoint is written: raises OSError where it fails on a full disk.

    What torch and safetensors raise then does not say so, or says it in its text alone.
    """
    try:
        yield
    except (RuntimeError, SafetensorError) as error:
        if shutil.disk_usage(folder.parent).free >= _FULL:
            raise
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder)) from error


def read_progress(folder: Path) -> Progress:
    """The progress in a checkpoint's folder."""
    return Progress(**json.loads((folder / PROGRESS).read_text()))
