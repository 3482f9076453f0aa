"""Following CURRENT: what is swapped in, and what is left alone."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import pytest

from models.artifacts.manifest import ArtifactError
from models.artifacts.store import ArtifactStore
from serve.args import WatchConfig
from serve.watcher import NotReadyError, SnapshotWatcher
from tests.serve.conftest import Published, watcher_of


@dataclass(frozen=True)
class Loaded:
    """The smallest thing with a version."""

    version: str

    def after(self, store: ArtifactStore) -> Iterable[Loaded]:
        return ()


class Scripted:
    """A loader that counts its calls and fails where it is told to."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.errors: dict[str, Exception] = {}

    def __call__(self, version: str) -> Loaded:
        self.calls.append(version)
        if version in self.errors:
            raise self.errors[version]
        return Loaded(version)


def point(root: Path, version: str) -> None:
    pointer = root / "artifacts" / "bank" / "CURRENT"
    stored = pointer.parent / f"v={version}"
    if stored.name.isprintable() and "/" not in version:
        stored.mkdir(parents=True, exist_ok=True)
        (stored / "MANIFEST.json").touch()
    pointer.write_text(version)


def watching(root: Path, load: Callable[[str], Loaded], **config: float) -> SnapshotWatcher[Loaded]:
    return SnapshotWatcher(ArtifactStore.open(str(root)), load, WatchConfig(**config))


def test_nothing_published_is_not_ready(tmp_path: Path) -> None:
    watcher = watching(tmp_path, Scripted())
    assert not watcher.poll()
    with pytest.raises(NotReadyError, match="no bank is published.*run the job publish"):
        _ = watcher.current


def test_a_new_version_is_swapped_in(tmp_path: Path) -> None:
    watcher = watching(tmp_path, Scripted())
    for version in "ab":
        point(tmp_path, version)
        assert watcher.poll()
    assert [loaded.version for loaded in watcher.loaded] == ["b", "a"]


def test_a_version_is_loaded_once(tmp_path: Path) -> None:
    load = Scripted()
    watcher = watching(tmp_path, load)
    point(tmp_path, "a")
    assert [watcher.poll() for _ in range(3)] == [True, False, False]
    assert load.calls == ["a"]


def test_a_bad_version_keeps_the_old_one_and_is_not_tried_again(tmp_path: Path) -> None:
    load = Scripted()
    load.errors["b"] = ArtifactError("wanted 3, got 4")
    watcher = watching(tmp_path, load)
    for version in "abb":
        point(tmp_path, version)
        watcher.poll()
    assert watcher.current.version == "a"
    assert load.calls == ["a", "b"]
    assert (watcher.failures, watcher.last_failure) == (1, "ArtifactError: wanted 3, got 4")


def test_a_good_version_after_a_bad_one_is_used(tmp_path: Path) -> None:
    load = Scripted()
    load.errors["b"] = ArtifactError("wanted 3, got 4")
    watcher = watching(tmp_path, load)
    for version in "abc":
        point(tmp_path, version)
        watcher.poll()
    assert (watcher.current.version, watcher.last_failure) == ("c", None)


def test_going_back_clears_the_failure(tmp_path: Path) -> None:
    load = Scripted()
    load.errors["b"] = ArtifactError("wanted 3, got 4")
    watcher = watching(tmp_path, load)
    for version in "aba":
        point(tmp_path, version)
        watcher.poll()
    assert (watcher.current.version, watcher.last_failure, watcher.failures) == ("a", None, 1)


def test_a_refused_version_is_tried_again_after_a_while(tmp_path: Path) -> None:
    load = Scripted()
    load.errors["a"] = ArtifactError("half repaired")
    watcher = watching(tmp_path, load, retry_refused_s=0.0)
    point(tmp_path, "a")
    watcher.poll()
    load.errors.clear()
    assert watcher.poll() and watcher.current.version == "a"


def test_storage_that_is_away_is_asked_again_at_once(tmp_path: Path) -> None:
    load = Scripted()
    load.errors["a"] = ConnectionError("storage is away")
    watcher = watching(tmp_path, load)
    point(tmp_path, "a")
    watcher.poll()
    load.errors.clear()
    assert watcher.poll()


def test_a_damaged_pointer_keeps_the_old_version(tmp_path: Path) -> None:
    watcher = watching(tmp_path, Scripted())
    point(tmp_path, "a")
    watcher.poll()
    point(tmp_path, "../b")
    assert not watcher.poll()
    assert watcher.current.version == "a" and "wanted one run id" in str(watcher.last_failure)


def test_storage_that_is_gone_is_told_and_what_was_there_goes_on(published: Published) -> None:
    watcher = watcher_of(published.root)
    assert not watcher.is_stale
    for what, named in (("bank/v=a", "v=a"), ("bank/CURRENT", "CURRENT"), ("", "CURRENT")):
        place = published.root / "artifacts" / what
        aside = place.rename(published.root.parent / "aside")
        assert not watcher.poll() and watcher.is_stale and watcher.current.version == "a"
        assert f"{named} of the bank is gone below" in str(watcher.last_failure)
        aside.rename(place)
        assert not watcher.poll() and not watcher.is_stale and watcher.last_failure is None


def test_a_refused_version_makes_stale_and_nothing_loaded_does_not(tmp_path: Path) -> None:
    load = Scripted()
    load.errors["b"] = ArtifactError("wanted 3, got 4")
    watcher = watching(tmp_path, load)
    stale = []
    for version in "bab":
        point(tmp_path, version)
        watcher.poll()
        stale.append(watcher.is_stale)
    assert stale == [False, False, True]


def test_so_many_versions_stay_as_are_kept(tmp_path: Path) -> None:
    watcher = SnapshotWatcher(ArtifactStore.open(str(tmp_path)), Scripted(), WatchConfig(), keep=1)
    for version in "ab":
        point(tmp_path, version)
        watcher.poll()
    assert [loaded.version for loaded in watcher.loaded] == ["b"]


def test_the_thread_follows_and_wakes(tmp_path: Path) -> None:
    watcher = watching(tmp_path, Scripted(), poll_s=3600.0)
    point(tmp_path, "a")
    watcher.start()
    try:
        assert watcher.current.version == "a" and watcher.is_alive
        point(tmp_path, "b")
        watcher.wake()
        deadline = time.monotonic() + 30
        while watcher.current.version != "b" and time.monotonic() < deadline:
            time.sleep(0.01)
        assert watcher.current.version == "b"
    finally:
        watcher.stop()
    assert not watcher.is_alive


def test_readers_are_served_while_a_version_loads(tmp_path: Path) -> None:
    started, release = threading.Event(), threading.Event()

    def slow(version: str) -> Loaded:
        if version == "b":
            started.set()
            assert release.wait(30)
        return Loaded(version)

    watcher = watching(tmp_path, slow)
    point(tmp_path, "a")
    watcher.poll()
    point(tmp_path, "b")
    thread = threading.Thread(target=watcher.poll)
    thread.start()
    assert started.wait(30)
    assert watcher.current.version == "a"
    release.set()
    thread.join(30)
    assert watcher.current.version == "b"


def test_a_corrupt_bank_keeps_the_old_snapshot(published: Published) -> None:
    watcher = watcher_of(published.root)
    published.publish("b", point=False)
    path = published.folder("bank", "b") / "source_sarm.npy"
    path.write_bytes(path.read_bytes()[:-1])
    published.point("b")
    assert not watcher.poll()
    assert watcher.current.version == "a"
    assert "source_sarm.npy wanted sha256" in str(watcher.last_failure)
