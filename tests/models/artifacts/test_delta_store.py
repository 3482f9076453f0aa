"""Deltas in the store: they are read in order, none is seen by half, and what is damaged is refused."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from pyarrow import fs as pafs

from models.artifacts import bank
from models.artifacts import store as store_module
from models.artifacts.bank_delta import fold
from models.artifacts.delta_store import DELTAS, SPAN, DeltaStore, spans
from models.artifacts.manifest import MANIFEST, ArtifactError
from models.artifacts.store import ArtifactStore
from tests.models.artifacts.deltas import LAYOUT, ROWS, RUN_ID, assert_equal, delta, stored_bank


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Of the bank, as it lies in the store."""
    return stored_bank(tmp_path / "store")


@pytest.fixture(params=["local", "remote"])
def deltas(request: pytest.FixtureRequest, folder: Path, tmp_path: Path) -> DeltaStore:
    """A remote root lies behind a filesystem that is not this machine's own, as an object store would."""
    root, here = tmp_path / "store", pafs.LocalFileSystem()
    remote = ArtifactStore(pafs.SubTreeFileSystem(str(root), here), "", tmp_path / "cache")
    return DeltaStore.open(remote if request.param == "remote" else ArtifactStore.open(str(root)), RUN_ID)


@pytest.fixture
def local(folder: Path, tmp_path: Path) -> DeltaStore:
    return DeltaStore.open(ArtifactStore.open(str(tmp_path / "store")), RUN_ID)


def numbers(deltas: DeltaStore, after: int = 0) -> list[tuple[int, int]]:
    return [(each.first, each.number) for each in deltas.since(after)]


def test_the_layout_is_that_of_the_bank(deltas: DeltaStore) -> None:
    assert deltas.layout == LAYOUT


def test_a_bank_has_no_delta_at_first(deltas: DeltaStore) -> None:
    assert deltas.newest() == 0 and numbers(deltas) == []


def test_deltas_are_read_in_their_order(deltas: DeltaStore) -> None:
    for number in (1, 2, 3):
        deltas.publish(delta(number))
    assert deltas.newest() == 3
    assert numbers(deltas) == [(1, 1), (2, 2), (3, 3)] and numbers(deltas, after=2) == [(3, 3)]
    for number, read in enumerate(deltas.since(), start=1):
        assert_equal(read, delta(number))


def test_the_bank_stays_whole_and_takes_its_deltas_with_it(deltas: DeltaStore, folder: Path, tmp_path: Path) -> None:
    deltas.publish(delta(1))
    whole = ArtifactStore.open(str(tmp_path / "store"))
    assert bank.read(whole.fetch("bank")).rows == ROWS and whole.sweep("bank", 0.0) == []
    shutil.rmtree(folder)
    assert deltas.newest() == 0


def test_without_states_little_is_read_unless_row_0_is_new(local: DeltaStore, folder: Path) -> None:
    local.publish(delta(1, rows=[3, 7]))
    local.publish(delta(2, rows=[0, 7]))
    (folder / "deltas" / "00000001" / "source_sarm.npy").unlink()
    first, second = local.since(with_states=False)
    assert first.states == {} and first.rows.tolist() == [3, 7]
    assert_equal(second, delta(2, rows=[0, 7]))


def test_the_same_again_changes_nothing_and_other_content_is_refused(deltas: DeltaStore) -> None:
    for number in (1, 2):
        deltas.publish(delta(number))
    for number in (2, 1):
        deltas.publish(delta(number))
        with pytest.raises(ArtifactError, match="wanted the content that was published under this number, got another"):
            deltas.publish(delta(number, rows=[5]))
    assert numbers(deltas) == [(1, 1), (2, 2)]


def test_a_number_cannot_be_left_out_nor_event_time_go_back(deltas: DeltaStore) -> None:
    with pytest.raises(ArtifactError, match="wanted delta 1 next, got 2"):
        deltas.publish(delta(2))
    deltas.publish(delta(1))
    with pytest.raises(ArtifactError, match="wanted an event time after 1000"):
        deltas.publish(delta(2, until_ts_ms=999))
    assert deltas.newest() == 1


def test_what_does_not_fit_the_bank_is_not_published(deltas: DeltaStore) -> None:
    with pytest.raises(ArtifactError, match="wanted rows within 0..8"):
        deltas.publish(delta(1, rows=[ROWS]))
    assert deltas.newest() == 0


class Killed(BaseException):
    """The publisher dies."""


def kill_after(monkeypatch: pytest.MonkeyPatch, puts: int) -> list[str]:
    """The publisher dies at put number `puts` + 1; returns the paths of those before it."""
    honest, done = store_module.put_file, list[str]()

    def put(filesystem: pafs.FileSystem, path: str, content: bytes) -> None:
        if len(done) == puts:
            raise Killed
        honest(filesystem, path, content)
        done.append(path)

    monkeypatch.setattr(store_module, "put_file", put)
    return done


PUTS = 6
"""Files of a delta, its manifest last."""


def test_a_publisher_that_dies_leaves_nothing_or_a_whole_delta(
    local: DeltaStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At every put, DELTAS the last one."""
    local.publish(delta(1))
    for puts in range(PUTS + 1):
        with monkeypatch.context() as patch, pytest.raises(Killed):
            kill_after(patch, puts)
            local.publish(delta(2))
        assert numbers(local) == [(1, 1)]
    with monkeypatch.context() as patch:
        kill_after(patch, PUTS + 1)
        local.publish(delta(2))
    assert_equal(local.read(2), delta(2))


def test_a_publisher_that_dies_while_it_merges_leaves_the_parts(
    local: DeltaStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next one, who publishes the same delta, merges them."""
    for number in range(1, SPAN):
        local.publish(delta(number))
    for puts in (PUTS + 1, *range(PUTS)):
        with monkeypatch.context() as patch, pytest.raises(Killed):
            kill_after(patch, puts)
            local.publish(delta(SPAN))
        assert numbers(local) == [(number, number) for number in range(1, SPAN + 1)]
    local.publish(delta(SPAN))
    assert numbers(local) == [(1, SPAN)]


def test_after_a_death_the_number_may_get_other_content(local: DeltaStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody has seen what DELTAS never named."""
    with monkeypatch.context() as patch:
        kill_after(patch, PUTS)
        with pytest.raises(Killed):
            local.publish(delta(1))
    local.publish(delta(1, rows=[5]))
    assert local.read(1).rows.tolist() == [5]


def test_what_cannot_be_confirmed_is_not_seen(deltas: DeltaStore) -> None:
    def lost() -> None:
        raise Killed

    with pytest.raises(Killed):
        deltas.publish(delta(1), confirm=lost)
    assert deltas.newest() == 0


def path_of(folder: Path, number: int, name: str) -> Path:
    return folder / "deltas" / f"{number:08d}" / name


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("name", ["rows.npy", "source_sarm.npy", "anchor_day.npy", "delta.json"])
def test_damage_is_refused_and_repaired_by_publishing_again(deltas: DeltaStore, folder: Path, name: str) -> None:
    for number in (1, 2, 3):
        deltas.publish(delta(number))
    flip(path_of(folder, 2, name))
    found = deltas.since()
    assert next(found).number == 1
    with pytest.raises(ArtifactError, match=f"{name} wanted sha256 .* got"):
        next(found)
    deltas.publish(delta(2))
    assert numbers(deltas) == [(1, 1), (2, 2), (3, 3)]


def test_later_deltas_wait_for_one_that_is_missing(deltas: DeltaStore, folder: Path) -> None:
    for number in (1, 2, 3):
        deltas.publish(delta(number))
    path_of(folder, 2, MANIFEST).unlink()
    found = deltas.since()
    assert next(found).number == 1
    with pytest.raises(ArtifactError, match=r"delta 00000002: wanted MANIFEST.json, got none; later ones wait for it"):
        next(found)


def test_a_delta_in_the_place_of_another_is_refused(local: DeltaStore, folder: Path) -> None:
    for number in (1, 2):
        local.publish(delta(number))
    shutil.rmtree(folder / "deltas" / "00000002")
    shutil.copytree(folder / "deltas" / "00000001", folder / "deltas" / "00000002")
    with pytest.raises(ArtifactError, match="wanted bank_delta b1/00000002, its MANIFEST.json says .*b1/00000001"):
        numbers(local)


@pytest.mark.parametrize("pointer", [b"", b"0", b"-1", b"x", b"1.5", b"9" * 99, "٣".encode(), b"\xff"])
def test_a_damaged_pointer_is_refused(deltas: DeltaStore, folder: Path, pointer: bytes) -> None:
    (folder / DELTAS).write_bytes(pointer)
    with pytest.raises(ArtifactError, match="wanted the number of a delta in DELTAS"):
        deltas.newest()


def test_a_pointer_that_went_back_is_refused(deltas: DeltaStore) -> None:
    deltas.publish(delta(1))
    with pytest.raises(ArtifactError, match="delta 5 is in use, DELTAS says 1"):
        numbers(deltas, after=5)


def test_whoever_starts_late_reads_few_and_gets_the_same(local: DeltaStore, folder: Path) -> None:
    rng, count = np.random.default_rng(0), SPAN * SPAN + SPAN + 3
    every = [delta(number, rows=np.flatnonzero(rng.random(ROWS) < 0.2)) for number in range(1, count + 1)]
    for each in every:
        local.publish(each)
    assert numbers(local) == [(1, 256), (257, 272), (273, 273), (274, 274), (275, 275)]
    assert numbers(local, after=255) == [(256, 256), (257, 272), (273, 273), (274, 274), (275, 275)]
    full = bank.read(folder)
    wanted, wanted_days = fold(RUN_ID, full, every)
    folded, days = fold(RUN_ID, full, local.since())
    assert np.array_equal(days, wanted_days)
    assert all(np.array_equal(folded[name], state) for name, state in wanted.items())
    # One that is damaged is gone around.
    flip(folder / "deltas" / "00000001-00000256" / "rows.npy")
    flip(folder / "deltas" / "00000017-00000032" / "rows.npy")
    assert numbers(local)[:3] == [(1, 16), (17, 17), (18, 18)]
    assert all(np.array_equal(fold(RUN_ID, full, local.since())[0][name], state) for name, state in wanted.items())


def test_spans_cover_every_number_once() -> None:
    for after in range(40):
        for newest in range(after, 300, 7):
            covered = [number for first, last in spans(after, newest) for number in range(first, last + 1)]
            assert covered == list(range(after + 1, newest + 1))
    assert len(list(spans(0, 17_280))) == 75


def test_a_poll_without_news_reads_one_small_file(local: DeltaStore, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(1, 40):
        local.publish(delta(number))
    asked: list[str] = []
    honest = ArtifactStore.read_file

    def read_file(self: ArtifactStore, kind: str, run_id: str, name: str) -> bytes | None:
        asked.append(name)
        return honest(self, kind, run_id, name)

    monkeypatch.setattr(ArtifactStore, "read_file", read_file)
    assert numbers(local, after=39) == [] and asked == [DELTAS]
