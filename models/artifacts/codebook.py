"""The artifact "codebook": a quantiser, and the model whose vectors it reads. Codes of two codebooks never mix."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from models.artifacts.manifest import ArtifactError
from models.quantize import ResidualQuantizer

FORMAT = 1
"""Version of the files' layout; a codebook of another one is refused."""
_HEAD, _LEVELS = "codebook.json", "codebook.safetensors"


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Codebook:
    """What makes codes of vectors."""

    quantizer: ResidualQuantizer
    model: str
    """Of the vectors that it was fitted on; it says nothing of another model's."""

    def save(self, folder: Path) -> None:
        """Write codebook.json and codebook.safetensors."""
        described = {"width": self.quantizer.width, "clusters": list(self.quantizer.clusters)}
        head = {"format": FORMAT, "model": self.model, **described}
        (folder / _HEAD).write_text(json.dumps(head, indent=1) + "\n", encoding="utf-8")
        self.quantizer.save(folder / _LEVELS)

    @classmethod
    def load(cls, folder: Path) -> Codebook:
        """Read what `save` wrote. Raises ArtifactError for another format, and where the files do not fit."""
        try:
            head = json.loads((folder / _HEAD).read_text(encoding="utf-8"))
            wanted = head["format"], head["model"], head["width"], tuple(head["clusters"])
            quantizer = ResidualQuantizer.load(folder / _LEVELS)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ArtifactError(f"codebook {folder}: cannot be read ({error!r}); run the job codes again") from error
        got = FORMAT, wanted[1], quantizer.width, quantizer.clusters
        if wanted != got:
            raise ArtifactError(
                f"codebook {folder}: {_HEAD} says format, model, width and clusters {wanted}, wanted {got}, as this "
                "version reads and the centroids are; run the job codes again"
            )
        return cls(quantizer=quantizer, model=head["model"])
