"""Published models, as evaluation and publishing read them."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from models.artifacts.manifest import ArtifactError, Manifest
from models.batch import collate
from models.catalog import Catalog
from models.ranker import Ranker
from models.sarm.live_tokenizer.tokenizer import LiveStreamingTokenizer
from models.sarm.model import SARM
from models.two_stage import TwoStageRanker
from pipelines.ranking.anchor_table import AnchorTable
from pipelines.ranking.loop import CATALOG, CATEGORIES, Model
from pipelines.ranking.train import KINDS
from pipelines.ranking.variants.two_stage import READS
from pipelines.samples.batches import take
from pipelines.semantics import vocabulary
from pipelines.tables.artifacts import Artifacts
from pipelines.tables.columns import Columns
from pipelines.tables.storage import Storage

_SCORED_TOGETHER = 4096


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Trained:
    """A published variant, in evaluation mode."""

    variant: str
    manifest: Manifest
    model: Model
    catalog: Catalog
    categories: list[str]
    """Author category of value c is categories[c - 1]."""

    @property
    def days(self) -> list[str]:
        """Days it was trained on."""
        return sorted(key.removeprefix("examples/") for key in self.manifest.made_from if key.startswith("examples/"))


def variants(artifacts: Artifacts) -> list[str]:
    """What is published, in the order of KINDS. Raises ArtifactError where nothing is."""
    found = [variant for variant, kind in KINDS.items() if artifacts.current(kind)]
    if not found:
        raise ArtifactError("no ranker is published below storage.root; run the job train first")
    return found


def load_model(folder: Path, variant: str) -> Model:
    """A variant's model from the folder of a checkpoint or an artifact, in evaluation mode."""
    if variant in READS:
        return TwoStageRanker.load(folder)
    return SARM.load(folder) if variant == "sarm" else Ranker.load(folder)


def load(artifacts: Artifacts, variant: str, run_id: str | None = None) -> Trained:
    """The variant's version `run_id` (default: CURRENT). Raises ArtifactError where nothing is published."""
    folder = artifacts.fetch(KINDS[variant], run_id)
    return Trained(
        variant=variant,
        manifest=Manifest.verify(folder),
        model=load_model(folder, variant),
        catalog=Catalog.load(Path(folder) / CATALOG),
        categories=json.loads((Path(folder) / CATEGORIES).read_text(encoding="utf-8")),
    )


def tokenizer_of(artifacts: Artifacts, trained: Trained) -> LiveStreamingTokenizer:
    """The tokenizer that the model was trained with. Raises ArtifactError where its sizes differ from the model's."""
    run_id = trained.manifest.made_from["tokenizer"]
    tokenizer = LiveStreamingTokenizer.load(artifacts.fetch(vocabulary.KIND, run_id))
    assert isinstance(trained.model, SARM)
    rows = tokenizer.live_rows if trained.model.config.tokens == "live" else tokenizer.rows
    if rows != trained.model.rows:
        raise ArtifactError(f"tokenizer {run_id} has {rows}, the model wants {trained.model.rows}")
    return tokenizer


def anchor_table(
    storage: Storage, artifacts: Artifacts, trained: Trained, *, before: str | None = None, until: str | None = None
) -> AnchorTable:
    """The anchors in force of every author that the model knows."""
    assert isinstance(trained.model, SARM)
    tokens = trained.model.config.tokens
    table = AnchorTable(storage, trained.catalog, tokenizer_of(artifacts, trained), tokens=tokens)
    return table.advance(before=before, until=until)


@torch.no_grad()
def score(
    model: Model,
    catalog: Catalog,
    columns: Columns,
    *,
    bank: npt.NDArray[np.float32] | None = None,
    content: Tensor | None = None,
) -> npt.NDArray[np.float32]:
    """Probabilities [n, K] of examples, on the device of the model.

    SARM reads targets and histories from `bank` [N+1, 2, D], as serving does; a two-stage ranker reads `content`.
    """
    parts: list[Tensor] = []
    device = next(model.parameters()).device
    vectors = None if bank is None else torch.from_numpy(bank).to(device)
    content = None if content is None else content.to(device)
    for start in range(0, len(columns["user_id"]), _SCORED_TOGETHER):
        batch = collate(take(columns, slice(start, start + _SCORED_TOGETHER)), catalog).to(device)
        if isinstance(model, SARM):
            assert vectors is not None
            cls, tar = vectors[batch.author].unbind(dim=1)
            logits = model(batch, cls, tar, vectors[:, model.history_part][batch.history]).logits
        elif isinstance(model, TwoStageRanker):
            logits = model(batch, content)
        else:
            logits = model(batch)
        parts.append(torch.sigmoid(logits).cpu())
    return torch.cat(parts).numpy()
