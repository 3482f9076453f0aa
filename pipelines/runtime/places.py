"""Where a job writes, looked at before it starts: hours of work should not end at a folder that cannot be written."""

import os
from collections.abc import Mapping
from pathlib import Path

from models.artifacts.roots import open_root
from pipelines.runtime.config import ConfigError

SUBMITTED = "RAY_JOB_CONFIG_JSON_ENV_VAR"
"""Set, by Ray, in the environment of a job that was submitted."""


def is_submitted() -> bool:
    """True in a job of `ray job submit`, which runs in a copy of the folder that was uploaded."""
    return SUBMITTED in os.environ


def check(places: Mapping[str, str]) -> None:
    """`places` are the folders and URLs that a job writes to, by the key that names them. Raises ConfigError."""
    for key, place in places.items():
        if is_submitted() and "://" not in place and not os.path.isabs(place):
            raise ConfigError(
                f"{key} {place}: wanted an absolute path or a URL that all nodes see: a submitted job runs in a copy "
                f"of its folder, where results are lost; for example --set {key}=/shared/{Path(place).name}"
            )
        if "://" in place:
            if key == "run_dir":
                raise ConfigError(
                    f"run_dir {place}: wanted a folder on this machine, got a URL; storage.root may be one"
                )
            if key == "storage.root":
                continue  # opened with the run
            open_root(place, key)
        else:
            _check_folder(key, Path(place).absolute())


def _check_folder(key: str, folder: Path) -> None:
    """A folder that is there can be written, one that is not can be made."""
    there = next(parent for parent in (folder, *folder.parents) if os.path.lexists(parent))
    if not there.is_dir():
        raise ConfigError(f"{key} {folder}: wanted a folder, but {there} is none; name another place")
    if not os.access(there, os.W_OK | os.X_OK):
        raise ConfigError(f"{key} {folder}: {there} cannot be written by this user; name a place that can")
    if key == "run_dir":
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"{key} {folder}: cannot be made ({error.strerror}); name another place") from error
