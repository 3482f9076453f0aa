"""A handful of users, authors and rows for the tests of the models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from models import ON_SCREEN, TASKS
from models.batch import RankingBatch, collate
from models.catalog import Catalog
from models.composed import ComposedRanker, Sources
from models.group import Alone
from models.home import HoMEConfig
from models.ranker import RankerConfig
from models.sarm.anchor_tokens import AnchorTokens, TokenRows
from models.sarm.memory_bank import MemoryBank
from models.sarm.model import REPRESENTATIONS, SARM, SARMConfig
from models.sources import Encoded, SourceSpec
from models.training import TrainingRanker, TrainingStep

NUM_USERS, NUM_AUTHORS, HISTORY, TOKENS = 7, 11, 5, 9
CLUSTERS = (6, 4)
"""Of each level of the codes of what is on screen."""
ROWS = TokenRows(num_base_rows=20, num_live_rows=6)
HOME = HoMEConfig(input_width=16, expert_dim=8, tower_hidden=4)
RANKER = RankerConfig(id_dim=8, profile_dim=4, category_dim=4, hour_dim=2, cross_rank=4, home=HOME)
SARM_CONFIG = SARMConfig(width=8, num_layers=2, encode_chunk=3, aux_hidden=4, representations=REPRESENTATIONS)


def catalog() -> Catalog:
    return Catalog.build(
        user_ids=np.arange(NUM_USERS) * 10,
        user_profile=np.arange(2 * NUM_USERS).reshape(NUM_USERS, 2) % 3,
        author_ids=np.arange(NUM_AUTHORS) * 100,
        author_category=np.arange(NUM_AUTHORS) % 4,
    )


def columns(size: int, seed: int = 0) -> dict[str, npt.NDArray[Any]]:
    """Rows with histories of every length, the empty one included."""
    rng = np.random.default_rng(seed)
    history = rng.integers(0, NUM_AUTHORS, (size, HISTORY)) * 100
    history[np.arange(HISTORY) < (np.arange(size) % (HISTORY + 1))[:, None]] = -1
    labels = {task: rng.integers(0, 2, size).astype(np.uint8) for task in TASKS}
    return {
        "user_id": rng.integers(0, NUM_USERS, size) * 10,
        "author_id": rng.integers(0, NUM_AUTHORS, size) * 100,
        "ts_ms": rng.integers(0, 10**12, size),
        "history_author_ids": history,
        "history_age_s": rng.random((size, HISTORY), dtype=np.float32) * 1e5,
        "history_watch_s": rng.random((size, HISTORY), dtype=np.float32) * 1e3,
        **labels,
    }


def on_screen(size: int, seed: int = 0) -> dict[str, npt.NDArray[Any]]:
    """Codes of CLUSTERS for the rows of `columns`, of both tables; some rows and items have none."""
    rng = np.random.default_rng(seed + 1)
    found = {}
    for table in ON_SCREEN:
        codes = rng.integers(0, CLUSTERS, (size, HISTORY + 1, len(CLUSTERS))).astype(np.int32)
        codes[rng.random((size, HISTORY + 1)) < 0.2] = -1
        found |= {table: codes[:, 0], f"history_{table}": codes[:, 1:].reshape(size, -1)}
    return found


def batch(size: int, seed: int = 0) -> RankingBatch:
    return collate(columns(size, seed), catalog(), TASKS)


def coded_batch(size: int, seed: int = 0) -> RankingBatch:
    """With codes of what was on screen."""
    return collate(columns(size, seed) | on_screen(size, seed), catalog(), TASKS)


def tokens(seed: int = 0) -> AnchorTokens:
    """Anchors of all author rows, of lengths 1 to TOKENS; row 0 is empty."""
    rng = np.random.default_rng(seed)
    lengths = np.concatenate([[1], rng.integers(2, TOKENS + 1, NUM_AUTHORS)])
    base = rng.integers(2, ROWS.num_base_rows, (NUM_AUTHORS + 1, TOKENS)).astype(np.int32)
    base[:, 0] = 1
    base[np.arange(TOKENS) >= lengths[:, None]] = 0
    live = np.where(base > 1, rng.integers(0, ROWS.num_live_rows, base.shape), 0).astype(np.int32)
    return AnchorTokens(base=base, live=live)


def composed(*specs: SourceSpec, seed: int = 0) -> ComposedRanker:
    """A ranker of these sources whose parameters are all away from their special initial values."""
    torch.manual_seed(seed)
    model = ComposedRanker(RANKER, catalog().sizes, Sources(specs=specs))
    scatter_parameters(model)
    return model


def sarm_spec(config: SARMConfig = SARM_CONFIG) -> SourceSpec:
    return SourceSpec.of("sarm", SARM, config, ROWS)


def sarm(config: SARMConfig = SARM_CONFIG, seed: int = 0) -> ComposedRanker:
    """A ranker with the one source "sarm"."""
    return composed(sarm_spec(config), seed=seed)


def trainer(model: ComposedRanker, **inputs: tuple[torch.Tensor, ...]) -> TrainingRanker:
    """A training step; the source "sarm" reads ``tokens()``, the others what is given."""
    step = TrainingRanker(model)
    step.inputs = inputs | ({"sarm": tokens().tensors()} if "sarm" in model.sources else {})
    return step


def one_step(module: TrainingRanker, rows: RankingBatch, banks: Mapping[str, MemoryBank]) -> TrainingStep:
    """A training step whose loss reaches the encoders directly, without a window between."""
    return module(rows, banks, encoded_for(module, [rows], banks))


def encoded_for(
    module: TrainingRanker, batches: Sequence[RankingBatch], banks: Mapping[str, MemoryBank]
) -> dict[str, Encoded]:
    """By source that encodes, the authors of the batches, with a gradient."""
    chosen = module.choose(batches, banks, Alone())
    return {name: Encoded(rows, module.encode(name, rows)) for name, rows in chosen.items()}


def filled_bank() -> MemoryBank:
    """A bank of SARM that has vectors of every author row, written at step 0."""
    bank = MemoryBank(NUM_AUTHORS, SARM_CONFIG.width)
    generator = torch.Generator().manual_seed(3)
    vectors = torch.randn(NUM_AUTHORS + 1, 2, SARM_CONFIG.width, generator=generator)
    bank.write(torch.arange(NUM_AUTHORS + 1), vectors, step=0)
    return bank


def scatter_parameters(model: torch.nn.Module) -> None:
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
