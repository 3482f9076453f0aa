"""What is retrieved is what the tables say for the same instant: histories of `examples`, vectors of `item_vectors`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from models.artifacts.store import ArtifactStore
from models.artifacts.towers import Towers
from models.online.config import StoreConfig
from models.online.embedded import EmbeddedStore
from pipelines.retrieval import index, item_vectors
from pipelines.retrieval.clicks import viewers_of
from pipelines.retrieval.index import IndexConfig
from pipelines.retrieval.item_vectors import ItemVectorsConfig
from pipelines.runtime.run import Run
from pipelines.samples.batches import take
from pipelines.tables.artifacts import Artifacts
from pipelines.tables.columns import Columns, to_numpy
from serve.args import WatchConfig
from serve.live_search import KIND, LiveSearch, SearchLoader
from serve.online import NothingOnAirError, Online
from serve.retrieval import Retrieval
from serve.schema import Context, RetrieveRequest
from serve.watcher import SnapshotWatcher
from tests.models.online.event_streams import Event, batch_of
from tests.pipelines.retrieval import little_platform
from tests.pipelines.retrieval.little_platform import DAYS, little, trained
from tests.serve.searched import publish_towers

SILENT_S = 120.0


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Three days of a platform, towers that have learnt them, and vectors of all segments."""
    folder = tmp_path_factory.mktemp("retrieved")
    made = little_platform.write(folder)
    _, checkpoints = trained(made, little(), folder / "work")
    publish_towers(Path(made.storage.root), "t1", Towers.load(checkpoints[-1]))
    item_vectors.run(ItemVectorsConfig(), made)
    return made


@pytest.fixture(scope="module")
def store(run: Run, tmp_path_factory: pytest.TempPathFactory) -> EmbeddedStore:
    """All clicks of the log, those of later than any instant too."""
    path = tmp_path_factory.mktemp("online") / "store"
    store = EmbeddedStore(StoreConfig(backend="embedded", path=str(path), map_gib=0.25))
    for day in DAYS[:3]:
        rows = [row for row in run.storage.read("impressions", day).to_pylist() if row["click"]]
        events = [
            Event(row["user_id"], row["author_id"], row["live_id"], row["ts_ms"], kind)
            for row in rows
            for kind in ("exposure", "click")
        ]
        store.apply(batch_of(events), rows[-1]["ts_ms"])
    return store


def wanted(run: Run, row: Columns, ts_ms: int) -> dict[int, float]:
    """By live on air at that moment, the product of its newest segment's vector and the user's, by the tables."""
    towers = Towers.load(Artifacts(run.storage).fetch("towers"))
    with torch.no_grad():
        user = towers.model.viewers(viewers_of(row, towers.catalog, None))[0].double().numpy()
    found: dict[int, tuple[int, Any]] = {}
    for day in DAYS[:3]:
        for segment in run.storage.read("item_vectors", day).to_pylist():
            if found.get(segment["live_id"], (0, None))[0] < segment["end_ts_ms"] <= ts_ms:
                found[segment["live_id"]] = segment["end_ts_ms"], segment["embedding"]
    return {
        live: float(np.asarray(vector, np.float64) @ user)
        for live, (end_ms, vector) in found.items()
        if end_ms >= ts_ms - 1000 * SILENT_S
    }


def test_random_users_at_random_instants(run: Run, store: EmbeddedStore) -> None:
    artifacts = ArtifactStore.open(run.storage.root)
    watcher: SnapshotWatcher[LiveSearch] = SnapshotWatcher(artifacts, SearchLoader(artifacts), WatchConfig(), kind=KIND)
    retrieval = Retrieval(watcher, online=Online(store))
    rng = np.random.default_rng(5)
    with_history = 0
    for day in DAYS[1:3]:
        columns = to_numpy(run.storage.read("examples", day))
        for at in rng.choice(len(columns["ts_ms"]), 8, replace=False).tolist():
            row = take(columns, slice(at, at + 1))
            ts_ms, user_id = int(row["ts_ms"][0]), int(row["user_id"][0])
            index.run(IndexConfig(until_ts_ms=ts_ms, silent_s=SILENT_S), run)
            watcher.poll()
            asked = RetrieveRequest(user_id=user_id, k=50, context=Context(ts_ms=ts_ms))
            best = wanted(run, row, ts_ms)
            if not best:
                with pytest.raises(NothingOnAirError):
                    retrieval.retrieve(asked)
                continue
            answer = retrieval.retrieve(asked)
            assert answer.live_ids == sorted(best, key=lambda live: -best[live])
            np.testing.assert_allclose(answer.scores, [best[live] for live in answer.live_ids], atol=2e-6)
            assert answer.history_used == int((row["history_author_ids"][0] >= 0).sum())
            with_history += answer.history_used > 0
    assert with_history >= 10
