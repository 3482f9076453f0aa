"""The artifact "screen.<table>": codes of what came on screen of late, which go beside those of the bank in use."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from models import ON_SCREEN
from models.artifacts.manifest import ArtifactError
from models.artifacts.screens import CODES, Screen, check

FORMAT = 1
"""Version of the files' layout; a screen of another one is refused."""

_HEAD, _SEGMENTS = "screen.json", "segments.safetensors"
_AGAIN = "run the job screens again"
_TYPES = {
    "author_ids": np.dtype(np.int64),
    "live_ids": np.dtype(np.int64),
    "end_ts_ms": np.dtype(np.int64),
    "codes": np.dtype(CODES),
}


def kind_of(table: str) -> str:
    """The kind of artifact of a table of codes."""
    return f"screen.{table}"


KINDS = {kind_of(table): table for table in ON_SCREEN}
"""Of the artifacts, with their table of codes."""


def save(screen: Screen, until_ts_ms: int, folder: Path) -> None:
    """Writes screen.json and segments.safetensors; all that was known by `until_ts_ms` is in them.

    Raises ArtifactError for what nobody could be told of.
    """
    check(f"screen of {screen.codebook}", screen, until_ts_ms, _AGAIN)
    head = {
        "format": FORMAT,
        "codebook": screen.codebook,
        "clusters": list(screen.clusters),
        "delay_ms": screen.delay_ms,
        "until_ts_ms": until_ts_ms,
    }
    (folder / _HEAD).write_text(json.dumps(head, indent=1) + "\n", encoding="utf-8")
    save_file({name: np.ascontiguousarray(getattr(screen, name)) for name in _TYPES}, folder / _SEGMENTS)


def load(folder: Path) -> Screen:
    """What `save` wrote, of which every row is looked at. Raises ArtifactError where it does not fit."""
    subject = f"screen {folder}"
    try:
        head: dict[str, Any] = json.loads((folder / _HEAD).read_text(encoding="utf-8"))
        found, until_ts_ms, codebook = head["format"], int(head["until_ts_ms"]), str(head["codebook"])
        clusters, delay_ms = tuple(int(size) for size in head["clusters"]), int(head["delay_ms"])
        segments = load_file(folder / _SEGMENTS)
        arrays = {name: segments[name] for name in _TYPES}
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise ArtifactError(f"{subject}: cannot be read ({error!r}); {_AGAIN}") from error
    if found != FORMAT or not clusters or min(*clusters, delay_ms + 1) < 1:
        raise ArtifactError(
            f"{subject}: wanted format {FORMAT}, levels of 1 code or more and a delay of 0 or more, got {found}, "
            f"{list(clusters)} and {delay_ms}; {_AGAIN}"
        )
    size = len(arrays["author_ids"])
    for name, dtype in _TYPES.items():
        wanted = (size, len(clusters)) if name == "codes" else (size,)
        if (arrays[name].dtype, arrays[name].shape) != (dtype, wanted):
            got = f"{arrays[name].dtype} {arrays[name].shape}"
            raise ArtifactError(f"{subject}, {name}: wanted {dtype} {wanted}, got {got}; {_AGAIN}")
    screen = Screen(codebook=codebook, clusters=clusters, delay_ms=delay_ms, **arrays)
    check(subject, screen, until_ts_ms, _AGAIN)
    return screen
