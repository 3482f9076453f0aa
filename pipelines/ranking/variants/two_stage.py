"""Two-stage sources (SARM appendix A.1): tags, semantic ids, frozen embeddings, as fixed tables that move in time."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from models.quantize import ResidualQuantizer
from models.sources import Inputs
from models.sources import Source as Module
from models.two_stage import (
    CodeFacts,
    Codes,
    EmbeddingFacts,
    HistoryEmbeddings,
    SemanticIds,
    SemanticIdsConfig,
    TargetEmbedding,
)
from pipelines.ranking.variants.source import Context, Source, State
from pipelines.tables.contract import ContractError
from pipelines.tables.days import day_of
from pipelines.tables.storage import Storage

_EMBEDDINGS = "anchor_embeddings"
_TAGS, _CENTROIDS = "tags.json", "semantic_ids.safetensors"


class TagCodes(State):
    """The tags that the platform's own table gives authors; those of the newest row before the day."""

    def __init__(self, context: Context) -> None:
        """A tag that is first seen after the training days has no vector and counts as none."""
        self._storage, self._catalog = context.storage, context.catalog
        if context.learnt is not None:
            self._names: list[str] = json.loads((context.learnt / _TAGS).read_text(encoding="utf-8"))
        else:
            days = [day for day in context.storage.days("authors") if day < context.days[-1]]
            known = context.storage.read_days("authors", days, ["tags"])
            self._names = sorted({tag for tags in known["tags"].to_pylist() for tag in tags or ()})
        self._code = {name: index for index, name in enumerate(self._names, 1)}
        self.facts = CodeFacts(num_codes=len(self._names) + 1)

    def advance(self, before: str) -> Inputs:
        """Codes [N+1, J] int64, 0 = none, of the authors' rows of all days before."""
        days = [day for day in self._storage.days("authors") if day < day_of(before)]
        newest = self._storage.latest("authors", days[-1]) if days else self._storage.read_days("authors", [])
        codes = [[self._code[t] for t in tags or () if t in self._code] for tags in newest["tags"].to_pylist()]
        table = np.zeros((self._catalog.num_authors + 1, max([1, *map(len, codes)])), dtype=np.int64)
        rows = self._catalog.author_rows(newest["author_id"].to_numpy())
        for row, of_author in zip(rows.tolist(), codes, strict=True):
            if row:
                table[row, : len(of_author)] = of_author
        return (torch.from_numpy(table),)

    def save(self, folder: Path) -> None:
        """The names of the codes."""
        (folder / _TAGS).write_text(json.dumps(self._names, ensure_ascii=False), encoding="utf-8")


class FrozenEmbeddings(State):
    """The frozen embedding of the newest anchor before the day."""

    def __init__(self, context: Context) -> None:
        """Raises ContractError where a day of anchors before the last training day has no embeddings."""
        storage = context.storage
        missing = [d for d in storage.days("anchors") if d < context.days[-1] and d not in storage.days(_EMBEDDINGS)]
        if missing:
            raise ContractError(f"table {_EMBEDDINGS}: wanted day {missing[0]}, got none; run the job embed first")
        self._storage, self._catalog = storage, context.catalog
        self._read: list[str] = []
        self._table = torch.zeros(context.catalog.num_authors + 1, _width(storage))
        self.facts = EmbeddingFacts(embedding_dim=self._table.shape[1])

    def advance(self, before: str) -> Inputs:
        """Embeddings [N+1, E] float32, zeros = none; takes in the days before that were not read yet."""
        for day in self._storage.days(_EMBEDDINGS):
            if day < day_of(before) and day not in self._read:
                self._place(day)
                self._read.append(day)
        return (self._table,)

    def _place(self, day: str) -> None:
        made = self._storage.read(_EMBEDDINGS, day, ["author_id", "embedding"])
        rows = self._catalog.author_rows(made["author_id"].to_numpy())
        vectors = made["embedding"].combine_chunks().flatten().to_numpy().reshape(len(rows), self._table.shape[1])
        known = rows > 0
        self._table[torch.from_numpy(rows[known])] = torch.from_numpy(vectors[known])


class SemanticIdCodes(State):
    """Residual k-means codes of the embeddings (LARM), learnt from those that were current when training ended."""

    def __init__(self, config: SemanticIdsConfig, context: Context) -> None:
        self._embeddings = FrozenEmbeddings(context)
        if context.learnt is not None:
            self._quantizer = ResidualQuantizer(centroids=load_file(context.learnt / _CENTROIDS)["centroids"])
        else:
            (known,) = FrozenEmbeddings(context).advance(before=context.days[-1])
            self._quantizer = ResidualQuantizer.fit(known[_present(known)], config.codes)
        levels, clusters, _ = self._quantizer.centroids.shape
        self._first_of_level = 1 + torch.arange(levels) * clusters
        self._table = torch.zeros(context.catalog.num_authors + 1, levels, dtype=torch.int64)
        self.facts = CodeFacts(num_codes=1 + levels * clusters)

    def advance(self, before: str) -> Inputs:
        """Codes [N+1, levels] int64, 0 = none; every level has codes of its own."""
        (embeddings,) = self._embeddings.advance(before)
        present = _present(embeddings)
        self._table[present] = self._quantizer.codes(embeddings[present]) + self._first_of_level
        return (self._table,)

    def save(self, folder: Path) -> None:
        """The centroids."""
        save_file({"centroids": self._quantizer.centroids}, folder / _CENTROIDS)


def _width(storage: Storage) -> int:
    """E, from the first row of the table. Raises ContractError where it has none."""
    for day in storage.days(_EMBEDDINGS):
        first = storage.read(_EMBEDDINGS, day, ["embedding"])["embedding"]
        if len(first):
            return len(first[0])
    raise ContractError(f"table {_EMBEDDINGS}: wanted at least one row, got none; run the job embed first")


def _present(embeddings: Tensor) -> Tensor:
    return (embeddings != 0).any(dim=1)


class TagSource(Source):
    """Reads `authors`."""

    name = "tags"
    label = "tags"
    reads: tuple[str, ...] = ("authors",)
    module = Codes

    def depends_on(self, storage: Storage, before: str) -> dict[str, str]:
        """Every day of authors before."""
        days = [day for day in storage.days("authors") if day < day_of(before)]
        return {f"authors/{day}": storage.fingerprint("authors", day) for day in days}

    def open(self, config: Any, context: Context) -> TagCodes:
        """See TagCodes."""
        return TagCodes(context)


class EmbeddingSource(Source):
    """Reads `anchor_embeddings`."""

    reads: tuple[str, ...] = (_EMBEDDINGS,)

    def __init__(self, name: str, label: str, module: type[Module]) -> None:
        self.name, self.label, self.module = name, label, module

    def depends_on(self, storage: Storage, before: str) -> dict[str, str]:
        """Every day of embeddings before."""
        known = [day for day in storage.days(_EMBEDDINGS) if day < day_of(before)]
        return {f"{_EMBEDDINGS}/{day}": storage.fingerprint(_EMBEDDINGS, day) for day in known}

    def open(self, config: Any, context: Context) -> State:
        """See FrozenEmbeddings."""
        return FrozenEmbeddings(context)


class SemanticIdSource(EmbeddingSource):
    """Reads `anchor_embeddings` as codes."""

    def open(self, config: SemanticIdsConfig, context: Context) -> SemanticIdCodes:
        """See SemanticIdCodes."""
        return SemanticIdCodes(config, context)


SOURCES = (
    TagSource(),
    SemanticIdSource("sids", "semantic ids", SemanticIds),
    EmbeddingSource("mllm_target", "MLLM embedding of the target", TargetEmbedding),
    EmbeddingSource("mllm_history", "MLLM embeddings of the history", HistoryEmbeddings),
)
