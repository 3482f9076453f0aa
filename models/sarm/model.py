"""SARM, the semantic anchor ranking model (section 3.3): the anchor encoder and the ranker as one model."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from models.artifacts.checkpoint import SavedModel
from models.batch import RankingBatch
from models.catalog import CatalogSizes
from models.ranker import Ranker, RankerConfig
from models.sarm.anchor_encoder import AnchorEncoder
from models.sarm.anchor_tokens import PAD_ROW, AnchorTokens, TokenRows
from models.sarm.author_identity import AuthorIdentity, AuthorMean
from models.sarm.user_interest import UserInterest

REPRESENTATIONS = ("cls", "tar", "uin")
"""What SARM adds to the ranker, in the order of eq. 11."""
BANKED = ("cls", "tar")
"""The vectors of an author in the bank, in order."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SARMConfig:
    """Sizes and choices of SARM."""

    ranker: RankerConfig = field(default_factory=RankerConfig)
    """The base ranker; its extra widths are set by SARM and must be left at 0."""
    width: int = 64
    """D, of the anchor encoder, the bank and the user interest."""
    num_layers: int = 4
    """Blocks of the anchor encoder."""
    ffn_mult: int = 2
    """Hidden width of the feed-forward layers, in multiples of width."""
    fusion_layers: tuple[int, ...] | None = None
    """Layers followed by gated fusion; None = every layer, () = base tokens alone."""
    tokens: str = "base"
    """The sequence that is encoded: base (A_s, live tokens join it by fusion) or live (A'_s in its place; Table 2)."""
    tar: str = "attention"
    """How [TAR] reads the states: attention (eq. 7) or mean (Table 2)."""
    interest_reads: str = "cls"
    """Which vector of the history's authors [UIN] reads: cls (eq. 9) or tar (Table 2)."""
    interest_layers: int = 1
    """Blocks of the user-interest Transformer."""
    interest_heads: int = 1
    """Attention heads of the user-interest Transformer."""
    representations: tuple[str, ...] = REPRESENTATIONS
    """Which of [CLS], [TAR], [UIN] reach the ranker; fewer for ablations."""
    aux_hidden: int = 32
    """Hidden width of the auxiliary head."""
    aux_weight: float = 0.1
    """lambda of eq. 15."""
    encode_budget: int | None = None
    """Most authors that a training step encodes with gradient; None = all of the batch."""
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
        if self.ranker.extra_dim:
            raise ValueError(f"SARM sets the ranker's extra widths itself; leave them at 0, got {self.ranker}")
        if any(not 0 <= layer < self.num_layers for layer in self.fused):
            raise ValueError(f"fusion_layers {self.fusion_layers} must be within 0..{self.num_layers - 1}")
        for name, known in (("tokens", ("base", "live")), ("tar", ("attention", "mean")), ("interest_reads", BANKED)):
            if getattr(self, name) not in known:
                raise ValueError(f"{name} must be one of {known}, got {getattr(self, name)!r}")
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


class SARMOutput(NamedTuple):
    """What one forward gives."""

    logits: Tensor
    """[B, K] of the ranking tasks, in the order of TASKS."""
    aux_logit: Tensor
    """[B] of the auxiliary click prediction (eq. 13)."""


class SARM(SavedModel):
    """Anchors, encoded end to end, and ranking features in one multi-task model (eq. 11).

    ``forward`` is what training and serving share; the encoder runs in training and when a bank is made, never in
    serving. The author id vector of [TAR] is the ranker's own.
    """

    version = 1
    parts = {"config": SARMConfig, "sizes": CatalogSizes, "rows": TokenRows}

    def __init__(self, config: SARMConfig, sizes: CatalogSizes, rows: TokenRows) -> None:
        super().__init__()
        self.config, self.sizes, self.rows = config, sizes, rows
        dim = config.width
        of_user = "uin" in config.representations
        of_author = len(config.representations) - of_user
        ranker = replace(config.ranker, extra_author_dim=of_author * dim, extra_user_dim=of_user * dim)
        self.ranker = Ranker(ranker, sizes)
        self.encoder = AnchorEncoder(rows, dim, config.num_layers, config.ffn_mult, config.fused)
        self.identity = AuthorIdentity(config.ranker.id_dim, dim) if config.tar == "attention" else AuthorMean()
        if "uin" in config.representations:
            self.interest = UserInterest(dim, config.interest_layers, config.interest_heads, config.ffn_mult)
        self.aux_head = nn.Sequential(nn.Linear(2 * dim, config.aux_hidden), nn.SiLU(), nn.Linear(config.aux_hidden, 1))

    def encode_authors(self, rows: Tensor, base: Tensor, live: Tensor) -> tuple[Tensor, Tensor]:
        """Author rows [A] with their tokens [A, T] -> h_CLS [A, D], h_TAR [A, D] (eq. 5 to 7)."""
        order = torch.argsort((base != PAD_ROW).sum(dim=1), stable=True)
        parts = []
        for start in range(0, len(order), self.config.encode_chunk):
            chunk = order[start : start + self.config.encode_chunk]
            states, mask = self.encoder.packed(base[chunk], live[chunk])
            tar = self.identity(self.ranker.authors(rows[chunk]), states, mask)
            parts.append(torch.stack([states[:, 0], tar], dim=1))
        cls, tar = torch.cat(parts)[torch.argsort(order)].unbind(dim=1)
        return cls, tar

    def forward(self, batch: RankingBatch, cls: Tensor, tar: Tensor, history: Tensor) -> SARMOutput:
        """cls, tar [B, D] of the targets, history [B, L, D] from the bank -> logits."""
        return self.rank(batch, cls, tar, self.user_interest(history, batch.history_mask))

    @property
    def history_part(self) -> int:
        """Which of an author's BANKED vectors a history is made of."""
        return BANKED.index(self.config.interest_reads)

    def user_interest(self, history: Tensor, mask: Tensor) -> Tensor | None:
        """history [B, L, D], mask [B, L] -> h_UIN [B, D] (eq. 10); None where the config leaves [UIN] out."""
        return self.interest(history, mask) if "uin" in self.config.representations else None

    def rank(self, batch: RankingBatch, cls: Tensor, tar: Tensor, interest: Tensor | None) -> SARMOutput:
        """The ranker over all representations, each [B, D] (eq. 11), and the auxiliary head (eq. 13)."""
        of_name = {"cls": cls, "tar": tar, "uin": interest}
        chosen = [vector for name in self.config.representations if (vector := of_name[name]) is not None]
        logits = self.ranker(batch, torch.cat(chosen, dim=-1))
        return SARMOutput(logits, self.aux_head(torch.cat([cls, tar], dim=-1)).squeeze(-1))

    @torch.no_grad()
    def score_candidates(self, batch: RankingBatch, cls: Tensor, tar: Tensor, history: Tensor) -> Tensor:
        """Score C candidates of one user -> probabilities [C, K].

        ``batch`` has C rows with one and the same history; ``history`` [1, L, D] is that history, so that [UIN] is
        computed once. Equal to the sigmoid of ``forward`` on the same rows. Raises ValueError in training mode.
        """
        if self.training:
            raise ValueError("score_candidates wants model.eval(): in training mode the batch would change the scores")
        interest = self.user_interest(history, batch.history_mask[:1])
        expanded = None if interest is None else interest.expand(batch.size, -1)
        return torch.sigmoid(self.rank(batch, cls, tar, expanded).logits)

    @torch.no_grad()
    def encode_bank(self, tokens: AnchorTokens, chunk: int = 256) -> npt.NDArray[np.float32]:
        """Both vectors of every author row, [N+1, 2, D] float32, for a snapshot.

        ``tokens`` has N + 1 rows; row 0 is the unknown author, with an empty anchor.
        """
        if len(tokens) != self.sizes.num_authors + 1:
            raise ValueError(f"wanted tokens of {self.sizes.num_authors + 1} author rows, got {len(tokens)}")
        bank = np.empty((len(tokens), 2, self.config.width), dtype=np.float32)
        order, device = np.argsort(tokens.lengths, kind="stable"), next(self.parameters()).device
        for start in range(0, len(tokens), chunk):
            rows = order[start : start + chunk]
            given = (t.to(device) for t in (torch.from_numpy(rows), *tokens.select(rows).tensors()))
            bank[rows] = torch.stack(self.encode_authors(*given), dim=1).cpu().numpy()
        return bank

    def grow_live_tokens(self, rows: TokenRows) -> None:
        """Make room for the tokenizer's newer ``rows``: rows that exist stay, new ones start at zero.

        A zero row adds nothing until it is learnt. Make the optimizer afterwards. Raises ValueError if rows would go.
        """
        if rows.num_base_rows != self.rows.num_base_rows or rows.num_live_rows < self.rows.num_live_rows:
            raise ValueError(f"the model has {self.rows}, the tokenizer {rows}; an update only appends live rows")
        self.encoder.live_tokens.grow(rows.num_live_rows)
        self.rows = rows
