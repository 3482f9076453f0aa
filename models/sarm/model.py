"""SARM, the semantic anchor ranking model (section 3.3), as a source of a ranker: anchors, encoded end to end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.batch import RankingBatch
from models.embeddings import IdTable
from models.losses import auxiliary_bce
from models.ops.packing import Distinct
from models.ranker import RankerConfig
from models.sarm.anchor_encoder import AnchorEncoder
from models.sarm.anchor_pooling import AnchorPooling
from models.sarm.anchor_tokens import NO_LIVE_ROW, PAD_ROW, RowArray, TokenRows
from models.sarm.author_identity import AuthorIdentity, AuthorMean
from models.sarm.choice import choose_authors, distinct_histories
from models.sarm.memory_bank import MemoryBank
from models.sarm.user_interest import UserInterest
from models.sources import Encoded, Inputs, Learnt, Representations, Source

REPRESENTATIONS = ("cls", "tar", "uin")
"""What SARM adds to the ranker, in the order of eq. 11."""
BANKED = ("cls", "tar")
"""The vectors of an author in the bank, in order."""

_ENCODED_TOGETHER = 256


@dataclass(frozen=True, kw_only=True, slots=True)
class SARMConfig:
    """Sizes and choices of SARM."""

    width: int = 64
    """D, of the anchor encoder, the bank and the user interest."""
    num_layers: int = 1
    """Blocks of the anchor encoder; the paper has 4, which gained no more than 1 where it was measured."""
    ffn_mult: int = 2
    """Hidden width of the feed-forward layers, in multiples of width."""
    fusion_layers: tuple[int, ...] | None = None
    """Layers followed by gated fusion; None = every layer, () = base tokens alone."""
    tokens: str = "base"
    """The sequence that is encoded: base (A_s, live tokens join it by fusion) or live (A'_s in its place; Table 2)."""
    cls: str = "pooled"
    """What [CLS] is: pooled (attention over all tokens, by a learnt query) or position (the state of position 0, as in
    the paper's eq. 6, which learns next to nothing of the anchor here)."""
    tar: str = "attention"
    """How [TAR] reads the states: attention (eq. 7) or mean (Table 2)."""
    interest_reads: str = "cls"
    """Which vector of the history's authors [UIN] reads: cls (eq. 9) or tar (Table 2)."""
    interest_layers: int = 1
    """Blocks of the user-interest Transformer."""
    interest_heads: int = 1
    """Attention heads of the user-interest Transformer."""
    representations: tuple[str, ...] = BANKED
    """Which of [CLS], [TAR], [UIN] reach the ranker. The paper has all three; [UIN] costs 0.65 of Base's time and
    gained nothing where it was measured."""
    aux_hidden: int = 32
    """Hidden width of the auxiliary head."""
    aux_weight: float = 0.1
    """lambda of eq. 15."""
    history_gradient: bool = False
    """Whether [UIN] also teaches the encoder, by authors of the history that the window has encoded."""
    encode_budget: int | None = None
    """Most authors that are encoded with gradient for a window of steps; None = all of their targets."""
    encode_chunk: int = 128
    """Authors encoded together, sorted by length: more work that is shared, and more padding in attention."""

    def __post_init__(self) -> None:
        positive = (
            self.width,
            self.num_layers,
            self.ffn_mult,
            self.interest_layers,
            self.aux_hidden,
            self.encode_chunk,
        )
        if min(positive) < 1:
            raise ValueError(f"widths, layers and chunks of SARMConfig must be >= 1, got {self}")
        if any(not 0 <= layer < self.num_layers for layer in self.fused):
            raise ValueError(f"fusion_layers {self.fusion_layers} must be within 0..{self.num_layers - 1}")
        choices = {
            "tokens": ("base", "live"),
            "cls": ("pooled", "position"),
            "tar": ("attention", "mean"),
            "interest_reads": BANKED,
        }
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} must be one of {allowed}, got {getattr(self, name)!r}")
        if self.tokens == "live" and self.fused:
            raise ValueError("tokens=live leaves nothing to fuse: set fusion_layers to []")
        order = [name for name in REPRESENTATIONS if name in self.representations]
        if not order or tuple(order) != self.representations:
            raise ValueError(f"representations must be some of {REPRESENTATIONS}, in order, got {self.representations}")
        if self.encode_budget is not None and self.encode_budget < 1:
            raise ValueError(f"encode_budget must be >= 1, or null for all authors, got {self.encode_budget}")
        if self.aux_weight < 0.0:
            raise ValueError(f"aux_weight must be >= 0, got {self.aux_weight}")

    @property
    def fused(self) -> tuple[int, ...]:
        """The layers with gated fusion, spelled out."""
        return tuple(range(self.num_layers)) if self.fusion_layers is None else self.fusion_layers


class SARM(Source):
    """Anchors, encoded end to end with the ranker: [CLS], [TAR] of the author, [UIN] of the user.

    The encoder runs in training and when a table is made, never in serving. The author id vector of [TAR] is the
    ranker's own. Inputs are (base, live) [N+1, T], the tokens of all author rows; the table is [N+1, 2, D], BANKED.
    """

    Config = SARMConfig
    Facts = TokenRows

    def __init__(self, config: SARMConfig, facts: TokenRows, ranker: RankerConfig) -> None:
        super().__init__(config, facts, ranker)
        self.config, self.rows = config, facts
        self._auxiliary_task = list(ranker.tasks).index(ranker.auxiliary_task)
        dim = config.width
        self.encoder = AnchorEncoder(facts, dim, config.num_layers, config.ffn_mult, config.fused)
        self.pooling = AnchorPooling(dim) if config.cls == "pooled" else None
        self.identity = AuthorIdentity(ranker.id_dim, dim) if config.tar == "attention" else AuthorMean()
        if "uin" in config.representations:
            self.interest = UserInterest(dim, config.interest_layers, config.interest_heads, config.ffn_mult)
        self.aux_head = nn.Sequential(nn.Linear(2 * dim, config.aux_hidden), nn.SiLU(), nn.Linear(config.aux_hidden, 1))

    @classmethod
    def dims(cls, config: SARMConfig) -> tuple[int, int]:
        """Widths of [CLS] and [TAR] together, and of [UIN]; 0 for what the config leaves out."""
        has_user = "uin" in config.representations
        return (len(config.representations) - has_user) * config.width, has_user * config.width

    @classmethod
    def names(cls, config: SARMConfig) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """[CLS] and [TAR], and [UIN], as the paper writes them."""
        said = {name: f"[{name.upper()}]" for name in config.representations}
        return tuple(said[name] for name in said if name != "uin"), tuple(said[name] for name in said if name == "uin")

    def encode_authors(self, rows: Tensor, base: Tensor, live: Tensor, ids: IdTable) -> tuple[Tensor, Tensor]:
        """Author rows [A] with their tokens [A, T] -> h_CLS [A, D], h_TAR [A, D] (eq. 5 to 7)."""
        order = torch.argsort((base != PAD_ROW).sum(dim=1), stable=True)
        parts = []
        for start in range(0, len(order), self.config.encode_chunk):
            chunk = order[start : start + self.config.encode_chunk]
            states, mask = self.encoder.packed(base[chunk], live[chunk])
            tar = self.identity(ids(rows[chunk]), states, mask)
            cls = states[:, 0] if self.pooling is None else self.pooling(states, mask)
            parts.append(torch.stack([cls, tar], dim=1))
        cls, tar = torch.cat(parts)[torch.argsort(order)].unbind(dim=1)
        return cls, tar

    @property
    def history_part(self) -> int:
        """Which of an author's BANKED vectors a history is made of."""
        return BANKED.index(self.config.interest_reads)

    def of_history(self, rows: Tensor) -> Tensor | None:
        """Table rows [..., 2, D] -> [..., D], what [UIN] reads; None where the config leaves [UIN] out."""
        return rows[..., self.history_part, :] if "uin" in self.config.representations else None

    def read(self, batch: RankingBatch, target: Tensor, history: Tensor | None) -> Representations:
        """target [B, 2, D], history [B or 1, L, D] -> [CLS], [TAR] and [UIN] (eq. 10), those of the config."""
        cls, tar = target.unbind(dim=1)
        return self._chosen(cls, tar, self._interest(batch, history))

    def _interest(self, batch: RankingBatch, history: Tensor | None) -> Tensor | None:
        if history is None:
            return None
        interest: Tensor = self.interest(history, batch.history_mask[: len(history)])
        # One history of all rows, as in a request, is read once.
        return interest.expand(batch.size, -1) if len(history) < batch.size else interest

    def _chosen(self, cls: Tensor, tar: Tensor, interest: Tensor | None) -> Representations:
        by_name = {"cls": cls, "tar": tar}
        author = tuple(by_name[name] for name in self.config.representations if name in by_name)
        return Representations(author, () if interest is None else (interest,))

    def check_table(self, table: npt.NDArray[Any]) -> None:
        """[n, 2, D] float32."""
        wanted = (2, self.config.width)
        if table.shape[1:] != wanted or table.dtype != np.float32:
            raise ValueError(f"wanted rows of {wanted} float32, got {table.shape[1:]} {table.dtype}")

    def vectors(self, rows: Any) -> dict[str, Any]:
        """h_CLS and h_TAR."""
        return {name: rows[:, part] for part, name in enumerate(BANKED)}

    def auxiliary(self, target: Tensor) -> Tensor:
        """target [B, 2, D] -> logits [B] of the auxiliary prediction (eq. 13), which is of clicks in the paper."""
        logit: Tensor = self.aux_head(target.flatten(1)).squeeze(-1)
        return logit

    def choose(self, authors: Tensor, counts: Tensor, bank: MemoryBank) -> Tensor:
        """All, or as many as the budget allows."""
        return authors[choose_authors(authors, counts, bank.written_step[authors], self.config.encode_budget)]

    def encode(self, rows: Tensor, inputs: Inputs, ids: IdTable) -> Tensor:
        """h_CLS and h_TAR."""
        base, live = inputs
        return torch.stack(self.encode_authors(rows, base[rows], live[rows], ids), dim=1)

    def learn(
        self, batch: RankingBatch, inputs: Inputs, encoded: Encoded | None, bank: MemoryBank | None, ids: IdTable
    ) -> Learnt:
        """Reads the targets that are encoded there; the others and all histories come from the bank (eq. 8)."""
        assert encoded is not None and bank is not None
        every = self.config.encode_budget is None
        target = encoded.of(batch.author, None if every else bank.read(batch.author))
        cls, tar = target.unbind(dim=1)
        aux_logit = self.aux_head(torch.cat([cls, tar], dim=-1)).squeeze(-1)
        counts = None if batch.label_mask is None else batch.label_mask[:, self._auxiliary_task]
        return Learnt(
            self._chosen(cls, tar, self._learnt_interest(batch, encoded, bank)),
            aux=auxiliary_bce(aux_logit, batch.labels[:, self._auxiliary_task], counts),
            aux_weight=self.config.aux_weight,
        )

    def _learnt_interest(self, batch: RankingBatch, encoded: Encoded, bank: MemoryBank) -> Tensor | None:
        if "uin" not in self.config.representations:
            return None
        # Impressions of one request share their history, and [UIN] depends on nothing else: compute each one once.
        first, of_row = distinct_histories(batch)
        authors = Distinct(batch.history[first])
        if self.config.history_gradient:
            vectors = encoded.of(authors.ids, bank.read(authors.ids))[:, self.history_part]
        else:
            vectors = bank.read_part(authors.ids, self.history_part)
        return F.embedding(of_row, self.interest.packed(vectors, authors, batch.history_mask[first]))

    def memory_bank(self, num_authors: int, device: torch.device) -> MemoryBank:
        """An empty bank of both vectors (eq. 8)."""
        return MemoryBank(num_authors, self.config.width, device)

    @torch.no_grad()
    def table(self, inputs: Inputs, ids: IdTable) -> Tensor:
        """Both vectors of every author row, [N+1, 2, D] float32; row 0 is the unknown author, with an empty anchor."""
        base, live = inputs
        bank = base.new_empty((len(base), 2, self.config.width), dtype=torch.float32)
        order = torch.argsort((base != PAD_ROW).sum(dim=1), stable=True)
        for start in range(0, len(order), _ENCODED_TOGETHER):
            rows = order[start : start + _ENCODED_TOGETHER]
            bank[rows] = torch.stack(self.encode_authors(rows, base[rows], live[rows], ids), dim=1)
        return bank

    def encode_plainly(self, authors: Tensor, inputs: Inputs, ids: IdTable) -> None:
        """Authors of one length at a time: no padding, and every token of every author computed."""
        base, live = (part[authors] for part in inputs)
        lengths = (base != PAD_ROW).sum(dim=1)
        for length in np.unique(lengths.cpu().numpy()).tolist():
            chosen = lengths == length
            states, mask = self.encoder(base[chosen], live[chosen])
            self.identity(ids(authors[chosen]), states, mask)
            if self.pooling is not None:
                self.pooling(states, mask)

    def grow_live_tokens(self, rows: TokenRows, replaced: Sequence[RowArray]) -> None:
        """Make room for the tokenizer's newer `rows`: rows that exist stay, and each new one starts as the mean of the
        rows that it takes the place of, `replaced` of the newer tokenizer.

        So a longer merge goes on with what its parts have learnt. One without such parts starts at zero, which adds
        nothing until it is learnt. Make the optimizer afterwards. Raises ValueError if rows would go.
        """
        if rows.num_base_rows != self.rows.num_base_rows or rows.num_live_rows < self.rows.num_live_rows:
            raise ValueError(f"the model has {self.rows}, the tokenizer {rows}; an update only appends live rows")
        if len(replaced) != rows.num_live_rows - self.rows.num_live_rows:
            raise ValueError(
                f"wanted what each of the {rows.num_live_rows - self.rows.num_live_rows} new rows replaces, got "
                f"{len(replaced)}; take LiveStreamingTokenizer.replaced"
            )
        old = self.encoder.live_tokens.weight
        self.encoder.live_tokens.append(old.detach().new_zeros(len(replaced), old.shape[1]))
        self.rows = rows
        self.begin_live_tokens(replaced)

    @torch.no_grad()
    def begin_live_tokens(self, replaced: Sequence[RowArray]) -> None:
        """Gives the last rows of the live tokens the mean of the rows that each of them takes the place of, or zero."""
        weight = self.encoder.live_tokens.weight
        for vector, parts in zip(weight[len(weight) - len(replaced) :], replaced, strict=True):
            learnt = torch.from_numpy(parts[parts != NO_LIVE_ROW]).long().to(weight.device)
            vector.copy_(weight[learnt].mean(dim=0) if len(learnt) else torch.zeros_like(vector))
