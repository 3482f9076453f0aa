"""Two-stage sources (SARM appendix A.1): tags, phrases, semantic ids, embeddings, as tables that move in time."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
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
from pipelines.tables.anchor_text import phrases_of
from pipelines.tables.contract import FIELDS, ContractError
from pipelines.tables.days import day_of
from pipelines.tables.storage import Storage

_EMBEDDINGS = "anchor_embeddings"
_TAGS, _PHRASES, _CENTROIDS = "tags.json", "phrases.json", "semantic_ids.safetensors"


class NamedCodes(State):
    """What a table names of authors, as codes: those of an author's newest row before the day.

    A name that is first seen after the training days has no vector and counts as none.
    """

    def __init__(self, context: Context, table: str, columns: Sequence[str], file: str) -> None:
        """The names come from `columns` of `table`, and are kept in `file` of a checkpoint."""
        self._storage, self._catalog = context.storage, context.catalog
        self._table, self._columns, self._file = table, tuple(columns), file
        if context.learnt is not None:
            self._names: list[str] = json.loads((context.learnt / file).read_text(encoding="utf-8"))
        else:
            self._names = sorted({name for rows in self._known(context.days) for of in self.named(rows) for name in of})
        self._code = {name: index for index, name in enumerate(self._names, 1)}
        self.facts = CodeFacts(num_codes=len(self._names) + 1)

    def named(self, rows: pa.Table) -> list[list[str]]:
        """The names in each row of `columns`."""
        raise NotImplementedError

    def _known(self, days: tuple[str, ...]) -> Iterable[pa.Table]:
        """All rows that counted while training on `days` of examples."""
        first, last = day_of(days[0]), day_of(days[-1])
        yield newest.read(self._storage, self._table, before=first, columns=self._columns)
        for day in self._storage.days(self._table):
            if first <= day < last:
                yield self._storage.read(self._table, day, list(self._columns))

    def advance(self, before: str) -> Inputs:
        """Codes [N+1, J] int64, 0 = none, of every author's newest row before the day."""
        columns = ["author_id", *self._columns]
        known = newest.read(self._storage, self._table, before=day_of(before), columns=columns)
        codes = [[self._code[name] for name in of if name in self._code] for of in self.named(known)]
        table = np.zeros((self._catalog.num_authors + 1, max([1, *map(len, codes)])), dtype=np.int64)
        rows = self._catalog.author_rows(known["author_id"].to_numpy())
        for row, author_codes in zip(rows.tolist(), codes, strict=True):
            if row:
                table[row, : len(author_codes)] = author_codes
        return (torch.from_numpy(table),)

    def save(self, folder: Path) -> None:
        """The names of the codes."""
        (folder / self._file).write_text(json.dumps(self._names, ensure_ascii=False), encoding="utf-8")


class TagCodes(NamedCodes):
    """The tags that the platform's own table gives authors."""

    def __init__(self, context: Context) -> None:
        super().__init__(context, "authors", ["tags"], _TAGS)

    def named(self, rows: pa.Table) -> list[list[str]]:
        """The tags of each author."""
        return [tags or [] for tags in rows["tags"].to_pylist()]


class PhraseCodes(NamedCodes):
    """The phrases of authors' anchors, each with the name of its field: what SARM reads, without its reading."""

    def __init__(self, context: Context) -> None:
        super().__init__(context, "anchors", FIELDS, _PHRASES)

    def named(self, rows: pa.Table) -> list[list[str]]:
        """The phrases of each anchor."""
        return [phrases_of(anchor) for anchor in rows.select(list(FIELDS)).to_pylist()]


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
            self._quantizer = ResidualQuantizer.load(context.learnt / _CENTROIDS)
        else:
            (current,) = FrozenEmbeddings(context).advance(before=context.days[-1])
            self._quantizer = ResidualQuantizer.fit(current[_present(current)], config.codes)
        levels = len(self._quantizer.clusters)
        self._table = torch.zeros(context.catalog.num_authors + 1, levels, dtype=torch.int64)
        self.facts = CodeFacts(num_codes=self._quantizer.num_rows)

    def advance(self, before: str) -> Inputs:
        """Codes [N+1, levels] int64, 0 = none; every level has codes of its own."""
        (embeddings,) = self._embeddings.advance(before)
        present = _present(embeddings)
        self._table[present] = self._quantizer.rows(self._quantizer.codes(embeddings[present]))
        return (self._table,)

    def save(self, folder: Path) -> None:
        """The centroids."""
        self._quantizer.save(folder / _CENTROIDS)


def _width(storage: Storage) -> int:
    """E, from the first row of the table. Raises ContractError where it has none."""
    for day in storage.days(_EMBEDDINGS):
        first = storage.read(_EMBEDDINGS, day, ["embedding"])["embedding"]
        if len(first):
            return len(first[0])
    raise ContractError(f"table {_EMBEDDINGS}: wanted at least one row, got none; run the job embed first")


def _present(embeddings: Tensor) -> Tensor:
    return (embeddings != 0).any(dim=1)


class NamedSource(Source):
    """Reads one table for its names."""

    module = Codes

    def __init__(self, name: str, label: str, table: str, state: type[TagCodes | PhraseCodes]) -> None:
        self.name, self.label, self._state = name, label, state
        self.reads: tuple[str, ...] = (table,)

    def depends_on(self, storage: Storage, before: str) -> dict[str, str]:
        """Every day of the table before."""
        (table,) = self.reads
        return {f"{self.name}/{table}": newest.fingerprint(storage, table, before=day_of(before))}

    def open(self, config: Any, context: Context) -> NamedCodes:
        """See NamedCodes."""
        return self._state(context)


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
    NamedSource("tags", "tags", "authors", TagCodes),
    NamedSource("phrases", "the anchor's phrases", "anchors", PhraseCodes),
    SemanticIdSource("sids", "semantic ids", SemanticIds),
    EmbeddingSource("mllm_target", "MLLM embedding of the target", TargetEmbedding),
    EmbeddingSource("mllm_history", "MLLM embeddings of the history", HistoryEmbeddings),
)
