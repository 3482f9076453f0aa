"""Checkpoints for tests: copies of the shipped student with something changed in their files."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pipelines.semantics.checkpoint import STUDENT

Change = Callable[[dict[str, Any]], object]


def copied(to: Path) -> Path:
    """The student without its manifest, which would notice every change."""
    shutil.copytree(STUDENT, to)
    (to / "MANIFEST.json").unlink()
    return to


def changed(folder: Path, name: str, change: Change) -> None:
    """One JSON file of a checkpoint, changed in place."""
    content = json.loads((folder / name).read_text())
    change(content)
    (folder / name).write_text(json.dumps(content))


def published_images(folder: Path) -> None:
    """The image settings of a published Qwen2-VL: blocks of 28 pixels, up to 12.8 M pixels a picture."""
    size = {"shortest_edge": 3136, "longest_edge": 12845056}
    changed(folder, "processor_config.json", lambda c: c["image_processor"].update(patch_size=14, size=size))
