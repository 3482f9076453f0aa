"""Every block of the models: the shape that it promises, and its gradient against finite differences in float64.

Parameters are away from their special initial values; what a block must compute is in the tests of its own module.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from models import TASK_CATEGORIES
from models.batch import RankingBatch
from models.composed import ComposedRanker
from models.home import Experts, FeatureGates, HoME, HoMEConfig, MetaLayer
from models.layers import FeedForward, RMSNorm, SelfAttention, TransformerBlock
from models.ranker import Affinity, CrossLayer, Ranker, TargetAttention
from models.sarm.anchor_encoder import AnchorEncoder
from models.sarm.author_identity import AuthorIdentity, AuthorMean
from models.sarm.gated_fusion import GatedFusion
from models.sarm.memory_bank import MemoryBank
from models.sarm.user_interest import UserInterest
from models.sources import SourceSpec
from models.training import TrainingRanker
from models.two_stage import CodeFacts, Codes, EmbeddingFacts, HistoryEmbeddings, TargetEmbedding, TwoStageConfig
from tests.models.worlds import (
    NUM_AUTHORS,
    RANKER,
    ROWS,
    SARM_CONFIG,
    batch,
    catalog,
    composed,
    one_step,
    sarm,
    sarm_spec,
    scatter_parameters,
    tokens,
    trainer,
)

B, L, D, V = 3, 5, 4, 6
REAL, STEP = torch.float64, 1e-5
HOME = HoMEConfig(input_width=V, expert_dim=D, tower_hidden=2)
WITH_EXTRA = replace(RANKER, extra_author_dim=3, extra_user_dim=2)
MASK = torch.arange(L) >= torch.tensor([[0], [3], [4]])


def real(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=REAL)


def double(rows: RankingBatch) -> RankingBatch:
    return rows._replace(labels=rows.labels.double())


BLOCKS: dict[str, Callable[[], tuple[nn.Module, list[Any], tuple[int, ...]]]] = {
    "rms_norm": lambda: (RMSNorm(D), [real(B, L, D)], (B, L, D)),
    "self_attention": lambda: (SelfAttention(D, 2), [real(B, L, D), MASK], (B, L, D)),
    "feed_forward": lambda: (FeedForward(D, 5), [real(B, L, D)], (B, L, D)),
    "transformer_block": lambda: (TransformerBlock(D, 1, 2), [real(B, L, D), MASK], (B, L, D)),
    "feature_gates": lambda: (FeatureGates(2, V, 2), [real(2, B, V)], (2, B, V)),
    "experts": lambda: (Experts(2, V, HOME), [real(2, B, V)], (B, 2, HOME.experts_per_group, D)),
    "meta_layer": lambda: (_Groups(MetaLayer(HOME, TASK_CATEGORIES)), [real(B, V)], (B, 3 * D)),
    "home": lambda: (HoME(7, HOME, TASK_CATEGORIES), [real(B, 7)], (B, 4)),
    "target_attention": lambda: (TargetAttention(3, D), [real(B, 3), real(B, L, D), MASK], (B, D)),
    "cross_layer": lambda: (CrossLayer(D, 2), [real(B, D), real(B, D)], (B, D)),
    "affinity": lambda: (Affinity(WITH_EXTRA, 6), [real(B, 8), real(B, 8), real(B, 6), real(B, 5)], (B, 8)),
    "ranker": lambda: (Ranker(WITH_EXTRA, catalog().sizes), [batch(B), real(B, 5)], (B, 4)),
    "gated_fusion": lambda: (GatedFusion(D), [real(B, L, D), real(B, L, D), MASK], (B, L, D)),
    "anchor_encoder": lambda: (AnchorEncoder(ROWS, D, 2, 2, (0, 1)), [*tokens().tensors()], (NUM_AUTHORS + 1, 8, D)),
    "author_identity": lambda: (AuthorIdentity(3, D), [real(B, 3), real(B, L, D), MASK], (B, D)),
    "author_mean": lambda: (AuthorMean(), [real(B, 3), real(B, L, D), MASK], (B, D)),
    "user_interest": lambda: (UserInterest(D, 2, 2, 2), [real(B, L, D), MASK], (B, D)),
    "sarm": lambda: (_FromRows(sarm(), "sarm"), [batch(B), real(B, 2, 8), real(B, L, 8)], (B, 4)),
    "aux_head": lambda: (_Aux(sarm()), [real(B, 2, 8)], (B,)),
    "codes": lambda: (_FromRows(composed(CODES), "codes"), [batch(B), torch.arange(2 * B).view(B, 2), None], (B, 4)),
    "target_embedding": lambda: (
        _FromRows(composed(_frozen(TargetEmbedding)), "x"),
        [batch(B), real(B, 3), None],
        (B, 4),
    ),
    "history_embeddings": lambda: (
        _FromRows(composed(_frozen(HistoryEmbeddings)), "x"),
        [batch(B), real(B, 3), real(B, L, 3)],
        (B, 4),
    ),
    "sarm_step": lambda: _step(None),
    "sarm_step_within_a_budget": lambda: _step(2),
    "step_of_two_sources": lambda: _step(2, CODES),
}


class _Groups(nn.Module):
    """All groups of a meta layer side by side."""

    def __init__(self, layer: MetaLayer) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, v: Tensor) -> Tensor:
        return torch.cat(list(self.layer(v).values()), dim=-1)


class _FromRows(nn.Module):
    """The logits of a ranker with one source, from rows of its table."""

    def __init__(self, model: ComposedRanker, name: str) -> None:
        super().__init__()
        self.model, self.name = model, name

    def forward(self, rows: RankingBatch, target: Tensor, history: Tensor | None) -> Tensor:
        return self.model(rows, self.model.read(rows, {self.name: target}, {self.name: history}))


class _Step(nn.Module):
    """A training step that encodes its own authors."""

    def __init__(self, step: TrainingRanker) -> None:
        super().__init__()
        self.step = step

    def forward(self, rows: RankingBatch, banks: dict[str, MemoryBank]) -> Tensor:
        return one_step(self.step, rows, banks).loss


class _Aux(nn.Module):
    """The auxiliary prediction of SARM alone."""

    def __init__(self, model: ComposedRanker) -> None:
        super().__init__()
        self.source = model.source("sarm")

    def forward(self, target: Tensor) -> Tensor:
        return self.source.auxiliary(target)


CODES = SourceSpec.of("codes", Codes, TwoStageConfig(width=4), CodeFacts(num_codes=6))


def _frozen(source: type[TargetEmbedding | HistoryEmbeddings]) -> SourceSpec:
    return SourceSpec.of("x", source, TwoStageConfig(width=4), EmbeddingFacts(embedding_dim=3))


def _step(budget: int | None, *others: SourceSpec) -> tuple[nn.Module, list[Any], tuple[int, ...]]:
    bank = MemoryBank(NUM_AUTHORS, 8)
    bank.vectors = real(*bank.vectors.shape)
    model = composed(sarm_spec(replace(SARM_CONFIG, encode_budget=budget, aux_weight=0.5)), *others)
    codes = torch.arange(2 * (NUM_AUTHORS + 1)).view(-1, 2) % 6
    step = trainer(model, **{spec.name: (codes,) for spec in others})
    return _Step(step), [double(batch(8)), {"sarm": bank}], ()


def make(name: str) -> tuple[nn.Module, list[Any], tuple[int, ...]]:
    torch.manual_seed(0)
    module, inputs, shape = BLOCKS[name]()
    scatter_parameters(module)
    return module.double(), inputs, shape


def first(out: Any) -> Tensor:
    """The first of several outputs."""
    return out if isinstance(out, Tensor) else out[0]


@pytest.mark.parametrize("name", BLOCKS)
def test_the_shape_is_the_promised_one(name: str) -> None:
    module, inputs, shape = make(name)
    assert first(module(*inputs)).shape == shape


@pytest.mark.parametrize("name", BLOCKS)
def test_the_gradient_is_that_of_finite_differences(name: str) -> None:
    """Of every parameter and every real input, along a random direction. Batch normalisation is in training mode."""
    module, inputs, _ = make(name)
    leaves = dict(module.named_parameters())
    leaves |= {str(i): v.requires_grad_() for i, v in enumerate(inputs) if isinstance(v, Tensor) and v.dtype == REAL}

    out = first(module(*inputs))
    upstream = torch.randn_like(out)
    gradients = torch.autograd.grad(out, list(leaves.values()), upstream, materialize_grads=True, allow_unused=True)
    for (leaf, value), gradient in zip(leaves.items(), gradients, strict=True):
        direction = torch.randn_like(value)
        with torch.no_grad():
            value.add_(direction, alpha=STEP)
            ahead = first(module(*inputs))
            value.sub_(direction, alpha=2 * STEP)
            change = (ahead - first(module(*inputs))) / (2 * STEP)
            value.add_(direction, alpha=STEP)
        wanted = float((change * upstream).sum())
        assert float((gradient * direction).sum()) == pytest.approx(wanted, rel=5e-5, abs=1e-8), leaf
