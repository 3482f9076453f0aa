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
from pipelines.tables import newest
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
            self._names = _tags_of(context.storage, context.days)
        self._code = {name: index for index, name in enumerate(self._names, 1)}
        self.facts = CodeFacts(num_codes=len(self._names) + 1)

    def advance(self, before: str) -> Inputs:
        """Codes [N+1, J] int64, 0 = none, of every author's newest row before the day."""
        people = newest.read(self._storage, "authors", before=day_of(before), columns=["author_id", "tags"])
        codes = [[self._code[t] for t in tags or () if t in self._code] for tags in people["tags"].to_pylist()]
        table = np.zeros((self._catalog.num_authors + 1, max([1, *map(len, codes)])), dtype=np.int64)
        rows = self._catalog.author_rows(people["author_id"].to_numpy())
        for row, author_codes in zip(rows.tolist(), codes, strict=True):
            if row:
                table[row, : len(author_codes)] = author_codes
        return (torch.from_numpy(table),)

    def save(self, folder: Path) -> None:
        """The names of the codes."""
        (folder / _TAGS).write_text(json.dumps(self._names, ensure_ascii=False), encoding="utf-8")


class FrozenEmbeddings(State):
    """The frozen embedding of the newest anchor before the day."""

    def __init__(self, context: Context) -> None:
        """Raises ContractError where a day of anchors before the last training day has no embeddings."""
        storage = context.storage
        embedded = set(storage.days(_EMBEDDINGS))
        missing = [d for d in storage.days("anchors") if d < context.days[-1] and d not in embedded]
        if missing:
            raise ContractError(f"table {_EMBEDDINGS}: wanted day {missing[0]}, got none; run the job embed first")
        self._storage, self._catalog = storage, context.catalog
        self._table = torch.zeros(context.catalog.num_authors + 1, _width(storage))
        self.facts = EmbeddingFacts(embedding_dim=self._table.shape[1])

    def advance(self, before: str) -> Inputs:
        """Embeddings [N+1, E] float32, zeros = none: the newest of every author before the day."""
        embeddings = newest.read(self._storage, _EMBEDDINGS, before=day_of(before), columns=["author_id", "embedding"])
        rows = self._catalog.author_rows(embeddings["author_id"].to_numpy())
        vectors = embeddings["embedding"].combine_chunks().flatten().to_numpy().reshape(len(rows), self._table.shape[1])
        is_known = rows > 0
        self._table[torch.from_numpy(rows[is_known])] = torch.from_numpy(vectors[is_known])
        return (self._table,)


class SemanticIdCodes(State):
    """Residual k-means codes of the embeddings (LARM), learnt from those that were current when training ended."""

    def __init__(self, config: SemanticIdsConfig, context: Context) -> None:
        self._embeddings = FrozenEmbeddings(context)
        if context.learnt is not None:
            self._quantizer = ResidualQuantizer(centroids=load_file(context.learnt / _CENTROIDS)["centroids"])
        else:
            (current,) = FrozenEmbeddings(context).advance(before=context.days[-1])
            self._quantizer = ResidualQuantizer.fit(current[_present(current)], config.codes)
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


def _tags_of(storage: Storage, days: tuple[str, ...]) -> list[str]:
    """All tags that authors had while training on `days` of examples, sorted."""
    tables = [newest.read(storage, "authors", before=days[0], columns=["tags"])]
    tables += [storage.read("authors", day, ["tags"]) for day in storage.days("authors") if days[0] <= day < days[-1]]
    return sorted({tag for rows in tables for tags in rows["tags"].to_pylist() for tag in tags or ()})


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
        return {f"{self.name}/authors": newest.fingerprint(storage, "authors", before=day_of(before))}

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
        return {f"{self.name}/{_EMBEDDINGS}": newest.fingerprint(storage, _EMBEDDINGS, before=day_of(before))}

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
