"""A small published store, made with random weights: what the publish job leaves behind, without the jobs before it."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from models.artifacts import bank, probe
from models.artifacts.bank import NO_ANCHOR, Histories
from models.artifacts.bank_delta import UNTIL, BankDelta, fold
from models.artifacts.delta_store import DeltaStore
from models.artifacts.manifest import CURRENT, MANIFEST, Manifest
from models.artifacts.probe_record import record
from models.artifacts.store import ArtifactStore
from models.catalog import Catalog
from models.composed import ComposedRanker, Sources
from models.history import HISTORY_PAD, HistoryRule
from models.home import HoMEConfig
from models.ranker import RankerConfig
from models.sarm.anchor_tokens import CLS_ROW, AnchorTokens, TokenRows
from models.sarm.model import REPRESENTATIONS, SARM, SARMConfig
from models.sources import SourceSpec
from serve.args import WatchConfig
from serve.loading import load_snapshot
from serve.snapshot import Snapshot
from serve.user_sequence import UserSequence
from serve.watcher import SnapshotWatcher

NUM_USERS, NUM_AUTHORS, LENGTH = 6, 40, 8
USER_IDS = np.arange(NUM_USERS) * 7 + 3
AUTHOR_IDS = np.arange(NUM_AUTHORS) * 10 + 5
UNANCHORED = (AUTHOR_IDS[4], AUTHOR_IDS[9])
NOW_MS = 1_760_000_000_000
HOUR_MS = 3_600_000
UNTIL_MS = NOW_MS - 100 * HOUR_MS
"""Event time before the first delta."""
TOKEN_ROWS = TokenRows(num_base_rows=32, num_live_rows=8)
RANKER = RankerConfig(
    id_dim=8, profile_dim=4, category_dim=4, hour_dim=4, cross_rank=8, home=HoMEConfig(input_width=16, expert_dim=8)
)
SMALL = SARMConfig(width=16, num_layers=1, aux_hidden=8, representations=REPRESENTATIONS)


def composed(config: SARMConfig, catalog: Catalog, ranker: RankerConfig = RANKER) -> ComposedRanker:
    """A ranker with the one source SARM, and random weights."""
    spec = SourceSpec.of("sarm", SARM, config, TOKEN_ROWS)
    return ComposedRanker(ranker, catalog.sizes, Sources(specs=(spec,)))


class Published:
    """A storage root with artifacts; each call publishes one more version."""

    def __init__(
        self,
        root: Path,
        config: SARMConfig = SMALL,
        user_ids: Any = USER_IDS,
        author_ids: Any = AUTHOR_IDS,
        length: int = LENGTH,
        delay_ms: int = 0,
        ranker: RankerConfig = RANKER,
    ) -> None:
        self.root, self.config, self.ranker = root, config, ranker
        self.rule = HistoryRule(length=length, days=14, delay_ms=delay_ms)
        self.user_ids, self.author_ids = np.asarray(user_ids), np.asarray(author_ids)

    def folder(self, kind: str, run_id: str) -> Path:
        return self.root / "artifacts" / kind / f"v={run_id}"

    def publish(self, run_id: str, *, seed: int = 0, model: str | None = None, point: bool = True) -> None:
        """A SARM `m-<run_id>` (or the existing `model`) and its bank `run_id`."""
        model = model or self.model(f"m-{run_id}", seed=seed)
        self.bank(run_id, model, seed=seed, point=point)

    def model(self, run_id: str, *, seed: int = 0, made_from: Mapping[str, str] | None = None) -> str:
        folder = self.folder("sarm", run_id)
        catalog = self.catalog(seed)
        torch.manual_seed(seed)
        ranker = self.composed(catalog)
        with torch.no_grad():
            for parameter in ranker.parameters():
                parameter.add_(0.05 * torch.randn_like(parameter))
        ranker.save(folder)
        catalog.save(folder / "catalog.safetensors")
        Manifest.create(folder, kind="sarm", run_id=run_id, made_from=made_from or {})
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
        histories: bool = True,
        dtype: str = "float32",
        made_from: Mapping[str, str] | None = None,
        change: Callable[[Path], None] = lambda folder: None,
    ) -> None:
        """`change` may damage the folder before the manifest is made."""
        folder = self.folder("bank", run_id)
        folder.mkdir(parents=True)
        rng = np.random.default_rng(seed + 1)
        bank.write(
            folder,
            states={name: state.astype(dtype) for name, state in self.states(model, rng).items()},
            anchor_day=self._anchor_day(),
            histories=self._histories(rng) if histories else Histories.none(self.rule),
            newest_ts_ms=NOW_MS,
        )
        self.record(folder, model)
        change(folder)
        named = {"ranker": "sarm", "model": model, "day": "2025-10-09", "model_weights": self.weights(model)}
        self.describe(folder, run_id, named | dict(made_from or {}))
        if point:
            self.point(run_id)

    def record(self, folder: Path, model: str) -> None:
        """Records the probe of the bank in a folder."""
        of_model = self.folder("sarm", model)
        catalog = Catalog.load(of_model / "catalog.safetensors")
        probe.write(folder, record(ComposedRanker.load(of_model), catalog, bank.read(folder)))

    def weights(self, model: str) -> str:
        """Hash of a model's weights."""
        return Manifest.parse((self.folder("sarm", model) / MANIFEST).read_bytes(), model).files["model.safetensors"]

    def describe(self, folder: Path, run_id: str, made_from: Mapping[str, str]) -> None:
        """Writes the manifest of a bank, as of now."""
        now_ms = time.time_ns() // 1_000_000
        Manifest.create(folder, kind="bank", run_id=run_id, made_from=made_from, published_ts_ms=now_ms)

    def point(self, run_id: str) -> None:
        """Moves CURRENT in one step."""
        target = self.root / "artifacts" / "bank" / CURRENT
        fresh = target.with_suffix(".new")
        fresh.write_text(run_id)
        os.replace(fresh, target)

    def delta(self, run_id: str, number: int, rows: Any, seed: int = 0, dtype: str = "float32") -> BankDelta:
        """Publishes random vectors of rows, and a new anchor day, as a delta of a bank."""
        made = self.made_delta(run_id, number, rows, seed)
        made = replace(made, states={name: state.astype(dtype) for name, state in made.states.items()})
        DeltaStore.open(ArtifactStore.open(str(self.root)), run_id).publish(made)
        return made

    def made_delta(self, run_id: str, number: int, rows: Any, seed: int = 0) -> BankDelta:
        """What `delta` publishes."""
        rows = np.asarray(rows, np.int64)
        states = np.random.default_rng([number, seed]).normal(size=(len(rows), 2, self.config.width))
        return BankDelta(
            bank=run_id,
            first=number,
            number=number,
            until_ts_ms=UNTIL_MS + number * HOUR_MS,
            rows=rows,
            states={"sarm": states.astype(np.float32)},
            anchor_day=np.full(len(rows), 20_400 + number, np.int32),
        )

    def folded(self, run_id: str, into: str, deltas: Sequence[BankDelta], *, point: bool = False) -> None:
        """The next full bank `into`, of the same model: what is left of a bank after deltas."""
        source, folder = self.folder("bank", run_id), self.folder("bank", into)
        stored = bank.read(source)
        states, anchor_day = fold(run_id, stored, deltas)
        folder.mkdir()
        bank.write(
            folder,
            states=states,
            anchor_day=anchor_day,
            histories=stored.histories,
            newest_ts_ms=NOW_MS + 60 * 24 * HOUR_MS,
        )
        made_from = dict(Manifest.verify(source).made_from) | {UNTIL: str(deltas[-1].until_ts_ms)}
        self.record(folder, made_from["model"])
        self.describe(folder, into, made_from)
        if point:
            self.point(into)

    def composed(self, catalog: Catalog) -> ComposedRanker:
        return composed(self.config, catalog, self.ranker)

    def states(self, model: str, rng: np.random.Generator) -> dict[str, npt.NDArray[np.float32]]:
        return {"sarm": self._vectors(model, rng)}

    def _vectors(self, model: str, rng: np.random.Generator) -> npt.NDArray[np.float32]:
        base = rng.integers(2, TOKEN_ROWS.num_base_rows, (len(self.author_ids) + 1, 6)).astype(np.int32)
        base[:, 0] = CLS_ROW
        base[0, 1:] = 0
        ranker = ComposedRanker.load(self.folder("sarm", model))
        tokens = AnchorTokens(base=base, live=np.where(base > 20, base % 8, 0).astype(np.int32))
        return ranker.tables({"sarm": tokens.tensors()})["sarm"]

    def _anchor_day(self) -> npt.NDArray[np.int32]:
        anchored = ~np.isin(self.author_ids, UNANCHORED)
        return np.where(np.concatenate([[False], anchored]), 20_369, NO_ANCHOR).astype(np.int32)

    def _histories(self, rng: np.random.Generator) -> Histories:
        users, length = len(self.user_ids), self.rule.length
        used = np.arange(length) >= (np.arange(users) % (length + 1))[:, None]
        ages_ms = np.sort(rng.integers(1, 90 * 24, (users, length)))[:, ::-1] * HOUR_MS
        return Histories(
            rule=self.rule,
            user_ids=self.user_ids.astype(np.int64),
            author_ids=np.where(used, rng.choice(self.author_ids, used.shape), HISTORY_PAD).astype(np.int64),
            ts_ms=np.where(used, NOW_MS - ages_ms, 0).astype(np.int64),
            watch_s=np.where(used, rng.exponential(60, used.shape), 0).astype(np.float32),
        )


def fill_with_nan(folder: Path) -> None:
    """A change of a bank: vectors that no reader takes."""
    path = folder / bank.source_file("sarm")
    np.save(path, np.full_like(np.load(path), np.nan))


def watcher_of(root: Path, **config: float) -> SnapshotWatcher[Snapshot]:
    """A watcher that has looked once and has no thread."""
    store = ArtifactStore.open(str(root))
    watcher: SnapshotWatcher[Snapshot] = SnapshotWatcher(store, partial(load_snapshot, store), WatchConfig(**config))
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
