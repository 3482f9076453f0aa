"""The checkpoint that writes anchors: the one that ships, and what identifies any other."""

from pathlib import Path

from models.artifacts.manifest import Manifest
from pipelines.runtime.config import ConfigError
from pipelines.tables.fingerprint import digest

STUDENT = Path(__file__).parents[1] / "world" / "student"
"""The distilled model that ships with the simulated world."""


def model_fingerprint(model: str) -> str:
    """Hash of a checkpoint: its manifest's where it has one, else of its files' names and sizes."""
    folder = Path(model)
    if not (folder / "config.json").is_file():
        raise ConfigError(
            f"anchors.model {model}: wanted a folder with a Hugging Face checkpoint (config.json), got none; "
            "run `make distil`, or give the folder of a downloaded Qwen-VL by --set anchors.model=PATH"
        )
    if (folder / "MANIFEST.json").is_file():
        return digest(dict(Manifest.verify(folder).files))
    return digest(sorted((p.name, p.stat().st_size) for p in folder.iterdir()))
