"""Towers with random weights and an index of random lives, published as the jobs `towers` and `index` do."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch

from models.artifacts.live_index import NO_END, LiveIndex
from models.artifacts.store import ArtifactStore
from models.artifacts.towers import Towers
from models.catalog import Catalog
from models.history import HistoryRule
from models.larm.two_tower import TwoTower, TwoTowerConfig, TwoTowerFacts
from tests.serve.conftest import AUTHOR_IDS, HOUR_MS, LENGTH, NOW_MS, USER_IDS

LIVES, DIM = 60, 8
RULE = HistoryRule(length=LENGTH, days=14, delay_ms=0)


def towers_of(
    seed: int = 0,
    *,
    dim: int = DIM,
    codebook: str | None = None,
    user_ids: np.ndarray = USER_IDS,
    author_ids: np.ndarray = AUTHOR_IDS,
    rule: HistoryRule = RULE,
) -> Towers:
    """Random weights, large enough that histories move the vectors of users."""
    rng = np.random.default_rng(seed)
    catalog = Catalog.build(
        user_ids=user_ids,
        user_profile=np.vstack([np.full(2, 2), rng.integers(0, 3, (len(user_ids) - 1, 2))]),
        author_ids=author_ids,
        author_category=rng.integers(0, 4, len(author_ids)),
    )
    torch.manual_seed(seed)
    config, facts = TwoTowerConfig(dim=dim, init_std=1.0), TwoTowerFacts(embedding_dim=4)
    model = TwoTower(config, facts, catalog.sizes).eval()
    return Towers(model=model, catalog=catalog, embeddings="student", rule=rule, codebook=codebook)


def index_of(
    seed: int = 0,
    *,
    lives: int = LIVES,
    dim: int = DIM,
    until_ts_ms: int = NOW_MS - 5_000,
    author_ids: np.ndarray = AUTHOR_IDS,
) -> LiveIndex:
    """Lives of an hour and more, of which a third has ended or not begun."""
    rng = np.random.default_rng(seed)
    start = NOW_MS + rng.integers(-3 * HOUR_MS, HOUR_MS, lives)
    ends = np.where(rng.random(lives) < 0.7, NO_END, start + HOUR_MS)
    return LiveIndex(
        live_ids=np.sort(rng.choice(10**9, lives, replace=False)),
        author_ids=rng.choice(author_ids, lives).astype(np.int64),
        start_ts_ms=start,
        end_ts_ms=ends,
        vectors=rng.standard_normal((lives, dim), dtype=np.float32),
        until_ts_ms=until_ts_ms,
    )


def publish_towers(root: Path, run_id: str, towers: Towers) -> None:
    """A version of the towers."""
    with TemporaryDirectory() as scratch:
        towers.save(Path(scratch))
        ArtifactStore.open(str(root)).publish("towers", Path(scratch), run_id, {})


def publish_index(root: Path, run_id: str, index: LiveIndex, made_from: Mapping[str, str]) -> None:
    """A version of the index; `made_from` names its towers."""
    with TemporaryDirectory() as scratch:
        index.save(Path(scratch))
        ArtifactStore.open(str(root)).publish("live_index", Path(scratch), run_id, made_from)


def publish(root: Path, run_id: str = "i1", towers: str = "t1", seed: int = 0) -> None:
    """Both."""
    publish_towers(root, towers, towers_of(seed))
    publish_index(root, run_id, index_of(seed), {"towers": towers})
