"""What a ranker may read beside ids: sources, each a module that learns, and the tables by author row that it reads.

A ranker is the base ranker plus a list of sources (models/composed.py). A source never sees another one.
"""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.batch import RankingBatch
from models.config import build, to_dict
from models.embeddings import IdTable
from models.ranker import RankerConfig
from models.sarm.memory_bank import MemoryBank

Inputs = tuple[Tensor, ...]
"""What a source is made from, by author row, as of a moment: anchor tokens, codes, embeddings."""


class Representations(NamedTuple):
    """What a source says of the rows of a batch."""

    author: tuple[Tensor, ...] = ()
    """[B, .] each, of the target author."""
    user: tuple[Tensor, ...] = ()
    """[B, .] each, of the user."""


class Encoded(NamedTuple):
    """Vectors of authors that the training steps of one window share."""

    rows: Tensor
    """[A] int64, the authors that were encoded, ascending."""
    vectors: Tensor
    """[A, 2, D], what steps learn from: with a gradient."""

    def of(self, rows: Tensor, otherwise: Tensor | None = None) -> Tensor:
        """Author rows [R] -> their vectors [R, 2, D]; those of `otherwise` [R, 2, D] where an author is not encoded.

        Without `otherwise` every author must be.
        """
        place = torch.searchsorted(self.rows, rows).clamp(max=len(self.rows) - 1)
        # An embedding lookup, because its gradient is deterministic and fast where plain indexing's is not.
        found = F.embedding(place, self.vectors.flatten(1)).unflatten(1, self.vectors.shape[1:])  # type: ignore[no-untyped-call]
        return found if otherwise is None else torch.where((self.rows[place] == rows)[:, None, None], found, otherwise)


class Learnt(NamedTuple):
    """What a source gives to a training step."""

    representations: Representations
    aux: Tensor | None = None
    """Scalar, a loss of its own; None where it has none."""
    aux_weight: float = 0.0
    """Its weight beside the losses of the tasks."""


class CodesRead(NamedTuple):
    """Codes that a source reads."""

    codebook: str
    """Its version: codes of another one mean something else."""
    clusters: tuple[int, ...]
    """[J], codes of each level."""


class Source(nn.Module, ABC):
    """One source: parameters that turn a table by author row into representations.

    Made from `config` (what a user chooses), `facts` (what only the data tell, such as the number of codes) and the
    config of the ranker that it joins. At scoring it reads its `table`, which is all that serving has of it.
    """

    Config: ClassVar[type]
    """Dataclass with a default for every field."""
    Facts: ClassVar[type]
    """Dataclass."""

    @abstractmethod
    def __init__(self, config: Any, facts: Any, ranker: RankerConfig) -> None:
        super().__init__()

    @classmethod
    @abstractmethod
    def dims(cls, config: Any) -> tuple[int, int]:
        """Widths of all that it says of the author, and of the user."""

    @classmethod
    def names(cls, config: Any) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """What reports call each part that it says of the author, and of the user, in the order of `read`."""
        author, user = cls.dims(config)
        return ("author",) * (author > 0), ("user",) * (user > 0)

    @abstractmethod
    def read(self, batch: RankingBatch, target: Tensor, history: Tensor | None) -> Representations:
        """`target` [B, ...] are the table's rows of the targets; `history` [B, L, ...], or [1, L, ...] where all
        rows have one history, those of `of_history`."""

    def of_history(self, rows: Tensor) -> Tensor | None:
        """The part of table rows [..., *] that is read of the authors in a history; None where none is."""
        return None

    def table(self, inputs: Inputs, ids: IdTable) -> Tensor:
        """The table [N+1, ...] that is read, row 0 of an author who is not known; `ids` are the ranker's authors."""
        return inputs[0]

    def choose(self, authors: Tensor, counts: Tensor, bank: MemoryBank) -> Tensor:
        """Of author rows [A], ascending, that steps read so often, counts [A], those that are encoded for them."""
        return authors

    def encode(self, rows: Tensor, inputs: Inputs, ids: IdTable) -> Tensor:
        """Author rows [A] -> vectors [A, 2, D], for steps and for the bank; sources that keep one do it."""
        raise NotImplementedError(f"{type(self).__name__} keeps no bank")

    def learn(
        self, batch: RankingBatch, inputs: Inputs, encoded: Encoded | None, bank: MemoryBank | None, ids: IdTable
    ) -> Learnt:
        """A training step's part; `encoded` are the authors of its window. Reads the bank and never writes it."""
        table = self.table(inputs, ids)
        read = self.of_history(table)
        history = None if read is None else read[batch.history]
        return Learnt(self.read(batch, table[batch.author], history))

    def check_table(self, table: npt.NDArray[Any]) -> None:
        """Raises ValueError, with both values, where `table` [n, ...] holds no rows of this source's table."""

    def screens(self) -> dict[str, CodesRead]:
        """By table of codes, what it reads of what was on screen (`RankingBatch.on_screen`)."""
        return {}

    def vectors(self, rows: Any) -> dict[str, Any]:
        """Table rows [n, ...], arrays or tensors -> views [n, D] by name, by which authors may be compared."""
        return {}

    def auxiliary(self, target: Tensor) -> Tensor | None:
        """Logits [B] of a loss of its own from the table's rows of the targets; None where it has none."""
        return None

    def memory_bank(self, num_authors: int, device: torch.device) -> MemoryBank | None:
        """An empty bank, where training keeps vectors from step to step."""
        return None

    def encode_plainly(self, authors: Tensor, inputs: Inputs, ids: IdTable) -> None:
        """Encodes author rows [A] without sharing or padding, for counting what it costs."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SourceSpec:
    """A source as a saved ranker describes it."""

    name: str
    """Its name in the ranker."""
    kind: str
    """`module:Class` within models/."""
    config: Mapping[str, Any]
    """Keys of the class's Config."""
    facts: Mapping[str, Any]
    """Keys of the class's Facts."""

    @classmethod
    def of(cls, name: str, source: type[Source], config: Any, facts: Any) -> SourceSpec:
        """Of a class and its two dataclasses."""
        kind = f"{source.__module__}:{source.__qualname__}"
        return cls(name=name, kind=kind, config=to_dict(config), facts=to_dict(facts))

    @property
    def source(self) -> type[Source]:
        """The class. Raises ValueError unless it is a source of this package: a config may come from outside."""
        module, _, name = self.kind.partition(":")
        if not module.startswith("models."):
            raise ValueError(f"source {self.name}: wanted a class of models/, got {self.kind!r}")
        try:
            source = getattr(importlib.import_module(module), name, None)
        except ModuleNotFoundError as error:
            raise ValueError(f"source {self.name}: wanted a module of models/, got {self.kind!r}") from error
        if not (isinstance(source, type) and issubclass(source, Source)):
            raise ValueError(f"source {self.name}: wanted a models.sources.Source, got {self.kind!r}")
        return source

    def typed_config(self) -> Any:
        """`config` as the dataclass. Raises ValueError for unknown keys."""
        return build(self.source.Config, self.config, f"sources.{self.name}.config")

    def typed_facts(self) -> Any:
        """`facts` as the dataclass. Raises ValueError for unknown keys."""
        return build(self.source.Facts, self.facts, f"sources.{self.name}.facts")

    def build(self, ranker: RankerConfig) -> Source:
        """The module, with new parameters."""
        return self.source(self.typed_config(), self.typed_facts(), ranker)
