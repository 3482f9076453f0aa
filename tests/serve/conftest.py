"""A small published store, made with random weights: what the publish job leaves behind, without the jobs before it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from models.artifacts.manifest import CURRENT, Manifest
from models.artifacts.store import ArtifactStore
from models.catalog import Catalog
from models.home import HoMEConfig
from models.ranker import RankerConfig
from models.sarm.anchor_tokens import CLS_ROW, AnchorTokens, TokenRows
from models.sarm.model import SARM, SARMConfig
from serve.args import WatchConfig
from serve.snapshot import Snapshot
from serve.user_sequence import UserSequence
from serve.watcher import SnapshotWatcher

NUM_USERS, NUM_AUTHORS, LENGTH = 6, 40, 8
USER_IDS = np.arange(NUM_USERS) * 7 + 3
AUTHOR_IDS = np.arange(NUM_AUTHORS) * 10 + 5
UNANCHORED = (AUTHOR_IDS[4], AUTHOR_IDS[9])
NOW_MS = 1_760_000_000_000
HOUR_MS = 3_600_000
TOKEN_ROWS = TokenRows(num_base_rows=32, num_live_rows=8)
SMALL = SARMConfig(
    ranker=RankerConfig(
        id_dim=8, profile_dim=4, category_dim=4, hour_dim=4, cross_rank=8, home=HoMEConfig(input_width=16, expert_dim=8)
    ),
    width=16,
    num_layers=1,
    aux_hidden=8,
)


class Published:
    """A storage root with artifacts; each call publishes one more version."""

    def __init__(
        self,
        root: Path,
        config: SARMConfig = SMALL,
        user_ids: Any = USER_IDS,
        author_ids: Any = AUTHOR_IDS,
        length: int = LENGTH,
    ) -> None:
        self.root, self.config, self.length = root, config, length
        self.user_ids, self.author_ids = np.asarray(user_ids), np.asarray(author_ids)

    def folder(self, kind: str, run_id: str) -> Path:
        return self.root / "artifacts" / kind / f"v={run_id}"

    def publish(self, run_id: str, *, seed: int = 0, model: str | None = None, point: bool = True) -> None:
        """A model `m-<run_id>` (or the existing `model`) and its bank `run_id`."""
        model = model or self.model(f"m-{run_id}", seed=seed)
        self.bank(run_id, model, seed=seed, point=point)

    def model(self, run_id: str, *, seed: int = 0) -> str:
        folder = self.folder("model", run_id)
        catalog = self.catalog(seed)
        torch.manual_seed(seed)
        sarm = SARM(self.config, catalog.sizes, TOKEN_ROWS)
        with torch.no_grad():
            for parameter in sarm.parameters():
                parameter.add_(0.05 * torch.randn_like(parameter))
        sarm.save(folder)
        catalog.save(folder / "catalog.safetensors")
        Manifest.create(folder, kind="model", run_id=run_id, made_from={})
        return run_id

    def catalog(self, seed: int = 0) -> Catalog:
        rng = np.random.default_rng(seed)
        return Catalog.build(
            user_ids=self.user_ids,
            user_profile=np.vstack([np.full(2, 2), rng.integers(0, 3, (len(self.user_ids) - 1, 2))]),
            author_ids=self.author_ids,
            author_category=np.concatenate([[3], rng.integers(0, 4, len(self.author_ids) - 1)]),
        )

    def bank(
        self,
        run_id: str,
        model: str,
        *,
        seed: int = 0,
        point: bool = True,
        change: Callable[[dict[str, Any]], None] = lambda arrays: None,
    ) -> None:
        """`change` may damage the arrays before the manifest is made."""
        folder = self.folder("bank", run_id)
        folder.mkdir(parents=True)
        arrays = self._arrays(model, seed)
        change(arrays)
        for name, array in arrays.items():
            np.save(folder / f"{name}.npy", array)
        Manifest.create(folder, kind="bank", run_id=run_id, made_from={"model": model, "day": "2025-10-09"})
        if point:
            self.point(run_id)

    def point(self, run_id: str) -> None:
        """Moves CURRENT in one step."""
        target = self.root / "artifacts" / "bank" / CURRENT
        fresh = target.with_suffix(".new")
        fresh.write_text(run_id)
        os.replace(fresh, target)

    def _arrays(self, model: str, seed: int) -> dict[str, Any]:
        rng = np.random.default_rng(seed + 1)
        rows, users = len(self.author_ids) + 1, len(self.user_ids)
        base = rng.integers(2, TOKEN_ROWS.num_base_rows, (rows, 6)).astype(np.int32)
        base[:, 0] = CLS_ROW
        base[0, 1:] = 0
        sarm = SARM.load(self.folder("model", model))
        anchor_day = np.full(rows, 20_369, np.int32)
        anchor_day[0] = -1
        anchor_day[np.isin(np.concatenate([[-1], self.author_ids]), UNANCHORED)] = -1
        used = np.arange(self.length) >= (np.arange(users) % (self.length + 1))[:, None]
        ages_ms = np.sort(rng.integers(1, 90 * 24, (users, self.length)))[:, ::-1] * HOUR_MS
        return {
            "bank": sarm.encode_bank(AnchorTokens(base=base, live=np.where(base > 20, base % 8, 0).astype(np.int32))),
            "anchor_day": anchor_day,
            "history_user_ids": self.user_ids.astype(np.int64),
            "history_author_ids": np.where(used, rng.choice(self.author_ids, used.shape), -1).astype(np.int64),
            "history_ts_ms": np.where(used, NOW_MS - ages_ms, 0).astype(np.int64),
            "history_watch_s": np.where(used, rng.exponential(60, used.shape), 0).astype(np.float32),
        }


def watcher_of(root: Path, **config: float) -> SnapshotWatcher[Snapshot]:
    """A watcher that has looked once and has no thread."""
    store = ArtifactStore.open(str(root))
    watcher: SnapshotWatcher[Snapshot] = SnapshotWatcher(store, partial(Snapshot.load, store), WatchConfig(**config))
    watcher.poll()
    return watcher


@pytest.fixture
def published(tmp_path: Path) -> Published:
    """A root of one's own with version "a"."""
    made = Published(tmp_path / "store")
    made.publish("a")
    return made


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Published:
    """A root that no test changes."""
    made = Published(tmp_path_factory.mktemp("shared") / "store")
    made.publish("a")
    return made


@pytest.fixture(scope="session")
def sequence(shared: Published) -> Iterator[UserSequence]:
    """The ranker over the shared root."""
    yield UserSequence(watcher_of(shared.root))
