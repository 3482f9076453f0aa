"""Published rankers, as evaluation, analysis and publishing read them."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from models.artifacts.manifest import ArtifactError, Manifest
from models.batch import collate
from models.catalog import Catalog
from models.composed import ComposedRanker
from models.sources import Inputs
from pipelines.ranking.checkpoint import CATALOG, CATEGORIES
from pipelines.ranking.variants import BASE, SOURCES, sources_of
from pipelines.ranking.variants.source import Context, State
from pipelines.samples.batches import take
from pipelines.tables.artifacts import Artifacts
from pipelines.tables.columns import Columns
from pipelines.tables.storage import Storage

_SCORED_TOGETHER = 4096


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class PublishedRanker:
    """A ranker as training left it, in evaluation mode."""

    name: str
    """Artifact kind, made of the names of its sources."""
    manifest: Manifest
    folder: Path
    model: ComposedRanker
    catalog: Catalog
    categories: list[str]
    """Author category of value c is categories[c - 1]."""

    @property
    def sources(self) -> tuple[str, ...]:
        """Names of its sources, in order."""
        return tuple(spec.name for spec in self.model.described.specs)

    @property
    def tasks(self) -> tuple[str, ...]:
        """Its tasks, in the order of its scores."""
        return tuple(self.model.config.tasks)

    @property
    def days(self) -> list[str]:
        """Days it was trained on."""
        return sorted(key.removeprefix("examples/") for key in self.manifest.made_from if key.startswith("examples/"))

    def states(self, storage: Storage, artifacts: Artifacts) -> dict[str, State]:
        """The states of its sources, which know nothing yet. Raises ArtifactError where they do not fit the model."""
        context = Context(
            storage=storage,
            artifacts=artifacts,
            catalog=self.catalog,
            days=tuple(self.days),
            made_from=self.manifest.made_from,
            learnt=self.folder,
        )
        states = {}
        for spec in self.model.described.specs:
            state = states[spec.name] = SOURCES[spec.name].open(spec.typed_config(), context)
            if state.facts != spec.typed_facts():
                raise ArtifactError(
                    f"ranker {self.name} {self.manifest.run_id}: its source {spec.name} was trained with "
                    f"{spec.typed_facts()}, the tables have {state.facts}; train it again"
                )
        return states


def published_rankers(artifacts: Artifacts) -> list[str]:
    """Names of the rankers that are published, those with sources first. Raises ArtifactError where there is none."""
    rankers = [kind for kind in artifacts.kinds() if is_ranker(kind) and artifacts.current(kind)]
    if not rankers:
        raise ArtifactError("no ranker is published below storage.root; run the job train first")
    return sorted(rankers, key=lambda name: (name == BASE, name))


def is_ranker(kind: str) -> bool:
    """Whether an artifact kind is that of a ranker."""
    try:
        sources_of(kind)
    except ValueError:
        return False
    return True


def chosen_ranker(name: str | None, artifacts: Artifacts) -> str:
    """The ranker `name`, or the only one with sources that is published. Raises ArtifactError where that is not one."""
    rankers = [ranker for ranker in published_rankers(artifacts) if ranker != BASE or name == BASE]
    if name is not None and name in rankers:
        return name
    if name is None and len(rankers) == 1:
        return rankers[0]
    wanted = f"ranker {name}" if name else "one ranker with sources"
    raise ArtifactError(
        f"wanted {wanted}, published are {', '.join(rankers) or 'none'}; run the job train, or name one of these"
    )


def load(artifacts: Artifacts, name: str, run_id: str | None = None) -> PublishedRanker:
    """A ranker's version `run_id` (default: CURRENT). Raises ArtifactError where nothing is published."""
    return load_folder(artifacts.fetch(name, run_id), name)


def load_folder(folder: Path, name: str) -> PublishedRanker:
    """A ranker from the folder of its artifact."""
    return PublishedRanker(
        name=name,
        manifest=Manifest.verify(folder),
        folder=folder,
        model=ComposedRanker.load(folder),
        catalog=Catalog.load(folder / CATALOG),
        categories=json.loads((folder / CATEGORIES).read_text(encoding="utf-8")),
    )


def advance(states: Mapping[str, State], before: str) -> dict[str, Inputs]:
    """The inputs of all sources as of a time key."""
    return {name: state.advance(before) for name, state in states.items()}


def score(
    model: ComposedRanker, catalog: Catalog, columns: Columns, tables: Mapping[str, npt.NDArray[Any]]
) -> npt.NDArray[np.float32]:
    """Probabilities [n, K] of examples, on the device of the model.

    Targets and histories are read from `tables` [N+1, ...], as serving does.
    """
    device = next(model.parameters()).device
    rows = {name: torch.from_numpy(table).to(device) for name, table in tables.items()}
    parts = []
    for start in range(0, len(columns["user_id"]), _SCORED_TOGETHER):
        batch = collate(take(columns, slice(start, start + _SCORED_TOGETHER)), catalog).to(device)
        parts.append(model.score_rows(batch, rows).cpu())
    return torch.cat(parts).numpy()
