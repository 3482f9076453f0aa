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

from models.artifacts.manifest import Manifest
from models.artifacts.store import ArtifactStore
from models.sarm.model import SARM
from serve.snapshot import Snapshot, load_bank
from tests.serve.conftest import AUTHOR_IDS, LENGTH, NUM_AUTHORS, UNANCHORED, USER_IDS, Published

Arrays = dict[str, Any]


def load(published: Published, version: str = "a", *, with_vectors: bool = True) -> Snapshot:
    return Snapshot.load(ArtifactStore.open(str(published.root)), version, with_vectors=with_vectors)


def test_the_pair_is_what_the_bank_names(shared: Published) -> None:
    snapshot = load(shared)
    assert (snapshot.version, snapshot.bank.model_version) == ("a", "m-a")
    assert snapshot.bank.vectors.shape == (NUM_AUTHORS + 1, 2, shared.config.width)
    assert not snapshot.model.training


def test_vectors_are_mapped_and_not_copied(shared: Published) -> None:
    vectors = load(shared).bank.vectors
    assert isinstance(vectors.base, np.memmap) and not vectors.flags.writeable


def test_anchor_dates(shared: Published) -> None:
    bank = load(shared).bank
    assert bank.anchor_date(1) == date(2025, 10, 8)
    assert bank.anchor_date(int(bank.catalog.author_rows(UNANCHORED[0]))) is None


def test_a_users_history_comes_without_padding(shared: Published) -> None:
    authors, times, watched = load(shared).histories.of_user(int(USER_IDS[2]))
    assert len(authors) == len(times) == len(watched) == LENGTH - 2
    assert np.isin(authors, AUTHOR_IDS).all() and (np.diff(times) >= 0).all()


@pytest.mark.parametrize("user_id", [int(USER_IDS[0]) - 1, int(USER_IDS[0]) + 1, 10**9])
def test_an_unknown_user_has_no_history(shared: Published, user_id: int) -> None:
    assert [len(column) for column in load(shared).histories.of_user(user_id)] == [0, 0, 0]


def test_a_bank_without_histories_is_served(published: Published) -> None:
    def change(arrays: Arrays) -> None:
        for name in [name for name in arrays if name.startswith("history_")]:
            del arrays[name]

    published.bank("b", "m-a", change=change)
    assert [len(column) for column in load(published, "b").histories.of_user(int(USER_IDS[0]))] == [0, 0, 0]


@pytest.mark.parametrize("away", [False, True])
def test_without_vectors_the_cold_start_row_is_read_alone(shared: Published, tmp_path: Path, away: bool) -> None:
    store = ArtifactStore.open(str(shared.root))
    if away:
        store = ArtifactStore(pafs.SubTreeFileSystem(str(shared.root), pafs.LocalFileSystem()), "", tmp_path)
    whole, part = load(shared).bank, Snapshot.load(store, "a", with_vectors=False).bank
    assert np.array_equal(part.cold_start, whole.vectors[0])
    assert len(part.vectors) == 0 and part.dim == whole.dim


def test_the_bank_alone(shared: Published) -> None:
    bank = load_bank(ArtifactStore.open(str(shared.root)), "a")
    assert bank.version == "a" and bank.num_authors == NUM_AUTHORS


def test_the_bank_alone_is_refused_where_its_model_is(published: Published) -> None:
    (published.folder("model", "m-a") / "config.json").write_text("{}")
    with pytest.raises(ValueError, match="config.json wanted sha256"):
        load_bank(ArtifactStore.open(str(published.root)), "a")


def with_nan(arrays: Arrays) -> None:
    arrays["bank"][7, 1, 3] = np.nan


def fewer_rows(arrays: Arrays) -> None:
    arrays["bank"], arrays["anchor_day"] = arrays["bank"][:-1], arrays["anchor_day"][:-1]


def narrower(arrays: Arrays) -> None:
    arrays["bank"] = np.ascontiguousarray(arrays["bank"][..., :8])


def one_vector(arrays: Arrays) -> None:
    arrays["bank"] = arrays["bank"][:, :1]


def double(arrays: Arrays) -> None:
    arrays["bank"] = arrays["bank"].astype(np.float64)


def short_days(arrays: Arrays) -> None:
    arrays["anchor_day"] = arrays["anchor_day"][:-1]


def objects(arrays: Arrays) -> None:
    arrays["anchor_day"] = arrays["anchor_day"].astype(object)


def no_days(arrays: Arrays) -> None:
    del arrays["anchor_day"]


def no_bank(arrays: Arrays) -> None:
    del arrays["bank"]


def unsorted_users(arrays: Arrays) -> None:
    arrays["history_user_ids"] = arrays["history_user_ids"][::-1]


def ragged_histories(arrays: Arrays) -> None:
    arrays["history_ts_ms"] = arrays["history_ts_ms"][:, 1:]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (with_nan, "row 7 holds NaN"),
        (fewer_rows, "got 40, wanted 41"),
        (narrower, "width: got 8, wanted 16"),
        (one_vector, r"wanted \[N\+1, 2, D\], got \(41, 1, 16\)"),
        (double, "float64.*float32"),
        (short_days, "got 40, wanted 41"),
        (objects, "wanted a .npy array"),
        (no_days, "wanted anchor_day.npy, got"),
        (no_bank, "wanted bank.npy, got"),
        (unsorted_users, "ascending"),
        (ragged_histories, r"got \(6, 7\), wanted \(6, 8\)"),
    ],
)
def test_a_bank_that_does_not_fit_is_refused(
    published: Published, change: Callable[[Arrays], None], message: str
) -> None:
    published.bank("b", "m-a", change=change)
    with pytest.raises(ValueError, match=message):
        load(published, "b")


def test_a_truncated_bank_is_refused(published: Published) -> None:
    path = published.folder("bank", "a") / "bank.npy"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match="bank.npy wanted sha256"):
        load(published)


def test_a_flipped_bit_is_refused(published: Published) -> None:
    path = published.folder("bank", "a") / "bank.npy"
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match="bank.npy wanted sha256"):
        load(published)


def test_a_bank_of_a_missing_model_is_refused(published: Published) -> None:
    published.bank("b", "m-a")
    published.folder("model", "m-a").rename(published.folder("model", "m-gone"))
    with pytest.raises(ValueError, match="model.*v=m-a"):
        load(published, "b")


def test_a_bank_that_names_no_model_is_refused(published: Published) -> None:
    path = published.folder("bank", "a") / "MANIFEST.json"
    raw = json.loads(path.read_text())
    del raw["made_from"]["model"]
    path.write_text(json.dumps(raw))
    with pytest.raises(ValueError, match="wanted made_from.model"):
        load(published)


def test_a_catalog_of_another_model_is_refused(published: Published, tmp_path: Path) -> None:
    other = Published(tmp_path / "other", user_ids=USER_IDS[:-1])
    other.model("m-a")
    folder = published.folder("model", "m-a")
    (other.folder("model", "m-a") / "catalog.safetensors").replace(folder / "catalog.safetensors")
    (folder / "MANIFEST.json").unlink()
    Manifest.create(folder, kind="model", run_id="m-a", made_from={})
    with pytest.raises(ValueError, match=r"num_users=5.*num_users=6"):
        load(published)


def test_a_model_with_broken_weights_is_refused(published: Published) -> None:
    folder = published.folder("model", "m-a")
    model = SARM.load(folder)
    with torch.no_grad():
        model.ranker.users.weight[2, 0] = torch.nan
    model.save(folder)
    (folder / "MANIFEST.json").unlink()
    Manifest.create(folder, kind="model", run_id="m-a", made_from={})
    with pytest.raises(ValueError, match="ranker.users.weight.*NaN"):
        load(published)
