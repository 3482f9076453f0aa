"""The artifact "towers": the retrieval model, the ids that it knows, and what its inputs must have been made by."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from models.artifacts.manifest import ArtifactError
from models.catalog import Catalog
from models.history import HistoryRule
from models.larm.two_tower import TwoTower

FORMAT = 1
"""Version of the files' layout; towers of another one are refused."""
_HEAD, _CATALOG = "towers.json", "catalog.safetensors"


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Towers:
    """What makes vectors of lives and of users, whose product is the score (LARM 2.2)."""

    model: TwoTower
    catalog: Catalog
    """Ids by row of the model's tables."""
    embeddings: str
    """The model whose segment embeddings it was trained on; it says nothing of another one's."""
    rule: HistoryRule
    """The histories that it was trained on."""
    codebook: str | None = None
    """The codebook of the codes in its histories; None = a model without codes."""
    mean_days: int = 7
    """Newest days over which an author's embeddings are averaged, the segment's own among them."""

    def save(self, folder: Path) -> None:
        """Write towers.json, catalog.safetensors and the model's two files."""
        said = {name: getattr(self, name) for name in ("embeddings", "codebook", "mean_days")}
        head = {"format": FORMAT, "rule": asdict(self.rule), **said}
        (folder / _HEAD).write_text(json.dumps(head, indent=1) + "\n", encoding="utf-8")
        self.catalog.save(folder / _CATALOG)
        self.model.save(folder)

    @classmethod
    def load(cls, folder: Path, *, mapped: bool = False) -> Towers:
        """Read what `save` wrote. Raises ArtifactError for another format, and where the files do not fit.

        `mapped` leaves the weights on disk, as `SavedModel.load` says.
        """
        try:
            head = json.loads((folder / _HEAD).read_text(encoding="utf-8"))
            if head["format"] != FORMAT:
                raise ValueError(f"format: got {head['format']!r}, wanted {FORMAT}")
            catalog, model = Catalog.load(folder / _CATALOG), TwoTower.load(folder, mapped=mapped)
            if not model.sizes.cover(catalog.sizes):
                raise ValueError(f"the model has tables for {model.sizes}, wanted {catalog.sizes}, as the catalog is")
            rule, embeddings = HistoryRule(**head["rule"]), str(head["embeddings"])
            codebook, mean_days = head["codebook"], int(head["mean_days"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ArtifactError(f"towers {folder}: cannot be read ({error}); run the job towers again") from error
        return cls(
            model=model, catalog=catalog, embeddings=embeddings, rule=rule, codebook=codebook, mean_days=mean_days
        )
