"""A ranker and its sources as one model: what is trained, published and served."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from models.artifacts.checkpoint import SavedModel
from models.batch import RankingBatch
from models.catalog import CatalogSizes
from models.ranker import Ranker, RankerConfig
from models.sources import CodesRead, Inputs, Representations, Source, SourceSpec

Table = npt.NDArray[Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Sources:
    """The sources of a saved ranker, in order."""

    specs: tuple[SourceSpec, ...] = ()


class ComposedRanker(SavedModel):
    """The base ranker plus sources: `forward(batch, representations)` gives logits [B, K]. Without any it is Base.

    What sources say of the author stands before what they say of the user, each in the order of the sources: eq. 11 of
    SARM for a ranker with the one source SARM.

    Example:
        >>> from models.two_stage import CodeFacts, Codes, TwoStageConfig
        >>> sizes = CatalogSizes(num_users=2, num_authors=3, profile_cardinalities=(2,), num_categories=2)
        >>> spec = SourceSpec.of("tags", Codes, TwoStageConfig(width=4), CodeFacts(num_codes=5))
        >>> model = ComposedRanker(RankerConfig(), sizes, Sources(specs=(spec,)))
        >>> list(model.sources), model.ranker.config.extra_author_dim
        (['tags'], 4)
        >>> model.tables({"tags": (torch.tensor([[0], [3], [1], [4]]),)})["tags"].shape
        (4, 1)
    """

    version = 1
    parts = {"config": RankerConfig, "sizes": CatalogSizes, "described": Sources}

    def __init__(self, config: RankerConfig, sizes: CatalogSizes, described: Sources | None = None) -> None:
        super().__init__()
        self.config, self.sizes, self.described = config, sizes, described or Sources()
        if config.extra_dim:
            raise ValueError(f"sources set the ranker's extra widths themselves; leave them at 0, got {config}")
        specs = self.described.specs
        if len({spec.name for spec in specs}) < len(specs):
            raise ValueError(f"wanted each source once, got {[spec.name for spec in specs]}")
        dims = [spec.source.dims(spec.typed_config()) for spec in specs]
        author_dim, user_dim = (sum(widths) for widths in zip((0, 0), *dims, strict=True))
        self.ranker = Ranker(replace(config, extra_author_dim=author_dim, extra_user_dim=user_dim), sizes)
        self.sources = nn.ModuleDict({spec.name: spec.build(config) for spec in specs})

    def source(self, name: str) -> Source:
        """A source by its name. Raises ValueError where the ranker has none of that name."""
        if name not in self.sources:
            raise ValueError(f"the ranker has sources {', '.join(self.sources) or 'none'}, wanted {name}")
        return cast(Source, self.sources[name])

    def items(self) -> list[tuple[str, Source]]:
        """Names and sources, in order."""
        return [(name, self.source(name)) for name in self.sources]

    @property
    def screens(self) -> dict[str, CodesRead]:
        """By table of codes, what its sources read of what was on screen; empty where none does."""
        return {table: read for _, source in self.items() for table, read in source.screens().items()}

    def forward(self, batch: RankingBatch, representations: Sequence[Representations] = ()) -> Tensor:
        """`representations` has one item per source, in order -> logits [B, K]."""
        said = [part for item in representations for part in item.author]
        said += [part for item in representations for part in item.user]
        logits: Tensor = self.ranker(batch, torch.cat(said, dim=-1) if said else None)
        return logits

    def read(
        self, batch: RankingBatch, targets: Mapping[str, Tensor], histories: Mapping[str, Tensor | None]
    ) -> list[Representations]:
        """What every source says, from table rows of the targets [B, ...] and histories [B or 1, L, ...] by name."""
        return [source.read(batch, targets[name], histories[name]) for name, source in self.items()]

    @torch.no_grad()
    def score(
        self, batch: RankingBatch, targets: Mapping[str, Tensor], histories: Mapping[str, Tensor | None]
    ) -> Tensor:
        """Probabilities [B, K] from table rows, as `read` wants them. Raises ValueError in training mode."""
        if self.training:
            raise ValueError("score wants model.eval(): in training mode the batch would change the scores")
        return torch.sigmoid(self(batch, self.read(batch, targets, histories)))

    def score_rows(self, batch: RankingBatch, tables: Mapping[str, Tensor]) -> Tensor:
        """`score` where whole tables [N+1, ...] are at hand. Raises ValueError for tables of other author rows."""
        return self.score(batch, *self.look_up(batch, tables))

    def look_up(
        self, batch: RankingBatch, tables: Mapping[str, Tensor]
    ) -> tuple[dict[str, Tensor], dict[str, Tensor | None]]:
        """The rows of the targets and of the histories, as `read` wants them, of whole tables [N+1, ...].

        Raises ValueError for tables of other author rows.
        """
        self.check_inputs({name: (table,) for name, table in tables.items()})
        targets = {name: tables[name][batch.author] for name in self.sources}
        read = {name: source.of_history(tables[name]) for name, source in self.items()}
        return targets, {name: None if part is None else part[batch.history] for name, part in read.items()}

    def check_inputs(self, inputs: Mapping[str, Inputs]) -> None:
        """Raises ValueError unless every source has inputs, those of all N + 1 author rows."""
        rows, wanted = self.sizes.num_authors + 1, list(self.sources)
        if set(inputs) != set(wanted):
            raise ValueError(f"wanted inputs of the sources {wanted}, got those of {list(inputs)}")
        for name, given in inputs.items():
            if any(len(part) != rows for part in given):
                raise ValueError(f"source {name}: wanted inputs of {rows} author rows, got {[len(p) for p in given]}")

    @torch.no_grad()
    def tables(self, inputs: Mapping[str, Inputs]) -> dict[str, Table]:
        """The table of every source as of the moment of `inputs`, [N+1, ...] each: what a bank holds.

        Raises ValueError where `check_inputs` does.
        """
        self.check_inputs(inputs)
        tables = {name: source.table(inputs[name], self.ranker.authors) for name, source in self.items()}
        return {name: np.ascontiguousarray(table.cpu().numpy()) for name, table in tables.items()}
