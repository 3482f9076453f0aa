"""What a snapshot holds, and what it refuses."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pyarrow import fs as pafs

from models.artifacts import bank
from models.artifacts.manifest import Manifest
from models.artifacts.store import ArtifactStore
from models.composed import ComposedRanker
from serve.loading import load_bank, load_snapshot
from serve.snapshot import Snapshot
from tests.serve.conftest import NOW_MS, NUM_AUTHORS, UNANCHORED, USER_IDS, Published, fill_with_nan


def load(published: Published, version: str = "a", *, with_states: bool = True) -> Snapshot:
    return load_snapshot(ArtifactStore.open(str(published.root)), version, with_states=with_states)


def test_the_pair_is_what_the_bank_names(shared: Published) -> None:
    snapshot = load(shared)
    assert (snapshot.version, snapshot.bank.model_version) == ("a", "m-a")
    assert snapshot.bank.states["sarm"].shape == (NUM_AUTHORS + 1, 2, shared.config.width)
    assert not snapshot.model.training


def test_states_are_mapped_and_not_copied(shared: Published) -> None:
    vectors = load(shared).bank.states["sarm"]
    assert isinstance(vectors.base, np.memmap) and not vectors.flags.writeable


def test_anchor_dates(shared: Published) -> None:
    bank = load(shared).bank
    assert bank.anchor_date(1) == date(2025, 10, 8)
    assert bank.anchor_date(int(bank.catalog.author_rows(UNANCHORED[0]))) is None


def test_a_bank_without_histories_is_served(published: Published) -> None:
    published.bank("b", "m-a", histories=False)
    histories = load(published, "b").histories
    assert [len(column) for column in histories.of_user(int(USER_IDS[0]))] == [0, 0, 0]
    assert histories.rule == published.rule


def test_a_bank_of_float16_is_read_as_float32_and_so_are_its_deltas(published: Published) -> None:
    published.bank("half", "m-a", dtype="float16")
    bank, rows = load(published, "half").bank, np.array([0, 7, 7, NUM_AUTHORS])
    assert bank.states["sarm"].dtype == np.float16
    stored = bank.states["sarm"][rows].astype(np.float32)
    found = bank.gather(rows)["sarm"]
    assert found.dtype == np.float32 and np.array_equal(found, stored)
    assert bank.cold_start["sarm"].dtype == np.float32 and np.array_equal(bank.cold_start["sarm"], stored[0])
    assert np.allclose(found, load(published).bank.gather(rows)["sarm"], rtol=1e-3, atol=1e-4), "but for the rounding"
    delta = published.delta("half", 1, [0, 7], dtype="float16")
    after = bank.with_delta(delta)
    assert np.array_equal(after.gather(rows[:3])["sarm"], delta.states["sarm"][[0, 1, 1]].astype(np.float32))
    assert after.cold_start["sarm"].dtype == np.float32
    with pytest.raises(ValueError, match="type and shape: got .*float32.*, wanted .*float16"):
        published.delta("half", 2, [3])


@pytest.mark.parametrize("away", [False, True])
def test_without_states_the_cold_start_row_is_read_alone(shared: Published, tmp_path: Path, away: bool) -> None:
    store = ArtifactStore.open(str(shared.root))
    if away:
        store = ArtifactStore(pafs.SubTreeFileSystem(str(shared.root), pafs.LocalFileSystem()), "", tmp_path)
    whole, part = load(shared).bank, load_snapshot(store, "a", with_states=False).bank
    assert np.array_equal(part.cold_start["sarm"], whole.states["sarm"][0])
    assert len(part.states["sarm"]) == 0 and part.num_authors == whole.num_authors


def test_the_bank_alone(shared: Published) -> None:
    bank = load_bank(ArtifactStore.open(str(shared.root)), "a")
    assert bank.version == "a" and bank.num_authors == NUM_AUTHORS


def test_the_bank_alone_is_refused_where_its_model_is(published: Published) -> None:
    (published.folder("sarm", "m-a") / "config.json").write_text("{}")
    with pytest.raises(ValueError, match="config.json wanted sha256"):
        load_bank(ArtifactStore.open(str(published.root)), "a")


def fewer_rows(folder: Path) -> None:
    stored = bank.read(folder)
    states, days = {"sarm": stored.states["sarm"][:-1]}, stored.anchor_day[:-1]
    rewrite(folder, states, days, stored.histories)


def narrower(folder: Path) -> None:
    stored = bank.read(folder)
    rewrite(folder, {"sarm": stored.states["sarm"][..., :8]}, stored.anchor_day, stored.histories)


def another_source(folder: Path) -> None:
    stored = bank.read(folder)
    rewrite(folder, {"tags": np.ones((stored.rows, 3), np.int64)}, stored.anchor_day, stored.histories)


def rewrite(folder: Path, states: dict[str, Any], anchor_day: Any, histories: bank.Histories) -> None:
    for path in folder.iterdir():
        if not path.name.startswith("probe"):
            path.unlink()
    bank.write(folder, states=states, anchor_day=anchor_day, histories=histories, newest_ts_ms=NOW_MS)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (fill_with_nan, "row 0 holds NaN"),
        (fewer_rows, "got 40, wanted 41"),
        (narrower, r"source sarm: wanted rows of \(2, 16\) float32, got \(2, 8\) float32"),
        (another_source, r"sources: got \['tags'\], wanted \['sarm'\]"),
    ],
)
@pytest.mark.parametrize("with_states", [True, False])
def test_a_bank_that_does_not_fit_is_refused(
    published: Published, change: Callable[[Path], None], message: str, with_states: bool
) -> None:
    published.bank("b", "m-a", change=change)
    with pytest.raises(ValueError, match=message):
        load(published, "b", with_states=with_states)


def test_a_truncated_bank_is_refused(published: Published) -> None:
    path = published.folder("bank", "a") / "source_sarm.npy"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match="source_sarm.npy wanted sha256"):
        load(published)


def test_a_flipped_bit_is_refused(published: Published) -> None:
    path = published.folder("bank", "a") / "source_sarm.npy"
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match="source_sarm.npy wanted sha256"):
        load(published)


def test_a_bank_of_a_missing_model_is_refused(published: Published) -> None:
    published.bank("b", "m-a")
    published.folder("sarm", "m-a").rename(published.folder("sarm", "m-gone"))
    with pytest.raises(ValueError, match="sarm.*v=m-a"):
        load(published, "b")


@pytest.mark.parametrize("key", ["model", "ranker"])
def test_a_bank_that_names_no_model_is_refused(published: Published, key: str) -> None:
    path = published.folder("bank", "a") / "MANIFEST.json"
    raw = json.loads(path.read_text())
    del raw["made_from"][key]
    path.write_text(json.dumps(raw))
    with pytest.raises(ValueError, match=f"wanted made_from.{key}"):
        load(published)


def test_a_catalog_of_another_model_is_refused(published: Published, tmp_path: Path) -> None:
    other = Published(tmp_path / "other", user_ids=USER_IDS[:-1])
    other.model("m-a")
    folder = published.folder("sarm", "m-a")
    (other.folder("sarm", "m-a") / "catalog.safetensors").replace(folder / "catalog.safetensors")
    (folder / "MANIFEST.json").unlink()
    Manifest.create(folder, kind="sarm", run_id="m-a", made_from={})
    with pytest.raises(ValueError, match=r"num_users=5.*num_users=6"):
        load(published)


def test_a_model_with_broken_weights_is_refused(published: Published) -> None:
    folder = published.folder("sarm", "m-a")
    model = ComposedRanker.load(folder)
    with torch.no_grad():
        model.ranker.users.weight[2, 0] = torch.nan
    model.save(folder)
    (folder / "MANIFEST.json").unlink()
    Manifest.create(folder, kind="sarm", run_id="m-a", made_from={})
    bank_folder = published.folder("bank", "a")
    named = dict(Manifest.verify(bank_folder).made_from) | {"model_weights": published.weights("m-a")}
    (bank_folder / "MANIFEST.json").unlink()
    published.describe(bank_folder, "a", named)
    with pytest.raises(ValueError, match="ranker.users.weight.*NaN"):
        load(published)
