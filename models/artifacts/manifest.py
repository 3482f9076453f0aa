"""MANIFEST.json: what an artifact folder holds and what it was made from, so that readers can refuse a mismatch.

Plain standard library, used by the jobs that publish and by the deployments that serve.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

MANIFEST = "MANIFEST.json"
CURRENT = "CURRENT"


class ArtifactError(ValueError):
    """An artifact is missing, damaged, or does not fit what reads it; the message gives both values."""


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """Contents and lineage of one artifact version."""

    kind: str
    run_id: str
    files: Mapping[str, str]
    """File name -> sha256."""
    made_from: Mapping[str, str] = field(default_factory=dict)
    """Fingerprints and versions of the inputs."""
    published_ts_ms: int = 0
    """When it was published, ms since 1970, by the publisher's clock; 0 where it says nothing of that."""

    @classmethod
    def create(
        cls, folder: Path, *, kind: str, run_id: str, made_from: Mapping[str, str], published_ts_ms: int = 0
    ) -> "Manifest":
        """Hashes every file of `folder` and writes MANIFEST.json beside them. Raises ArtifactError for sub-folders."""
        nested = sorted(p.name for p in folder.iterdir() if p.is_dir())
        if nested:
            raise ArtifactError(
                f"artifact {folder}: wanted files only, got folder(s) {', '.join(nested)}; move them out"
            )
        files = {p.name: _sha256(p) for p in sorted(folder.iterdir()) if p.is_file() and p.name != MANIFEST}
        manifest = cls(
            kind=kind, run_id=run_id, files=files, made_from=dict(made_from), published_ts_ms=published_ts_ms
        )
        (folder / MANIFEST).write_text(json.dumps(asdict(manifest), indent=1, sort_keys=True))
        return manifest

    @classmethod
    def parse(cls, content: bytes, folder: str) -> "Manifest":
        """A manifest from its JSON; `folder` is for messages. Raises ArtifactError where it is damaged."""
        try:
            manifest = cls(**json.loads(content))
            if any(Path(name).name != name for name in dict(manifest.files)):
                raise ValueError(f"wanted plain file names, got {sorted(manifest.files)}")
            if not manifest.files:
                raise ValueError("wanted files with their hashes, got none")
            if type(manifest.published_ts_ms) is not int or manifest.published_ts_ms < 0:
                raise ValueError(f"wanted published_ts_ms >= 0, got {manifest.published_ts_ms!r}")
        except (ValueError, TypeError) as error:
            raise ArtifactError(f"artifact {folder}: {MANIFEST} is damaged ({error}); publish it again") from error
        return manifest

    @classmethod
    def of(cls, folder: Path) -> "Manifest":
        """The folder's manifest, without a look at the files. Raises ArtifactError for none, and a damaged one."""
        path = folder / MANIFEST
        if not path.is_file():
            raise ArtifactError(f"artifact {folder}: wanted {MANIFEST}, got none; publish it again")
        return cls.parse(path.read_bytes(), str(folder))

    @classmethod
    def verify(cls, folder: Path, without: str | None = None) -> "Manifest":
        """The folder's manifest, after every file's hash was checked. Raises ArtifactError.

        Files whose names begin with `without` are not looked at.
        """
        manifest = cls.of(folder)
        manifest.check(folder, lambda name: _sha256(folder / name) if (folder / name).is_file() else None, without)
        return manifest

    def check(self, where: Path | str, sha256: Callable[[str], str | None], without: str | None = None) -> None:
        """Compares every file's hash with what `sha256` says of its name, None for no file. Raises ArtifactError."""
        for name in self.names(without):
            wanted, got = self.files[name], sha256(name)
            if got != wanted:
                raise ArtifactError(
                    f"artifact {where}: {name} wanted sha256 {wanted}, got {got or 'no file'}; publish it again"
                )

    def names(self, without: str | None = None) -> list[str]:
        """The files, but for those whose names begin with `without`."""
        return [name for name in self.files if without is None or not name.startswith(without)]


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
