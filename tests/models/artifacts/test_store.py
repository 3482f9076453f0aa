"""The artifact store, read in place and through a node's cache: CURRENT names verified versions, damage is refused."""

import os
import resource
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from pyarrow import fs as pafs

from models.artifacts.manifest import MANIFEST, ArtifactError, Manifest
from models.artifacts.roots import open_root, put_file
from models.artifacts.store import ArtifactStore


def at(root: Path, cache: Path, *, remote: bool) -> ArtifactStore:
    """A remote root lies behind a filesystem that is not this machine's own, as an object store would."""
    filesystem = pafs.SubTreeFileSystem(str(root), pafs.LocalFileSystem())
    return ArtifactStore(filesystem, "", cache) if remote else ArtifactStore.open(str(root))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "store").mkdir()
    return tmp_path / "store"


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture(params=["local", "remote"])
def store(request: pytest.FixtureRequest, root: Path, cache: Path) -> ArtifactStore:
    return at(root, cache, remote=request.param == "remote")


@pytest.fixture
def remote(root: Path, cache: Path) -> ArtifactStore:
    return at(root, cache, remote=True)


def made(tmp_path: Path, content: str) -> Path:
    folder = tmp_path / f"local-{content}"
    folder.mkdir(exist_ok=True)
    (folder / "weights.bin").write_text(content)
    (folder / "source_a.npy").write_text(f"state of {content}")
    return folder


def stored(root: Path, run_id: str, name: str = "weights.bin") -> Path:
    """A file as it lies in the store, past any cache."""
    return root / "artifacts" / "bank" / f"v={run_id}" / name


def content(store: ArtifactStore, run_id: str | None = None) -> str:
    return (store.fetch("bank", run_id) / "weights.bin").read_text()


def test_a_published_version_is_current_and_verified(store: ArtifactStore, tmp_path: Path) -> None:
    store.publish("bank", made(tmp_path, "one"), "r1", {"anchors": "abc"})
    assert store.current("bank") == "r1"
    assert content(store) == "one"
    assert store.manifest("bank").made_from == {"anchors": "abc"}
    assert abs(store.published_ts_ms("bank", "r1") / 1000 - time.time()) < 60


def test_older_versions_stay_readable(store: ArtifactStore, tmp_path: Path) -> None:
    store.publish("bank", made(tmp_path, "one"), "r1", {})
    store.publish("bank", made(tmp_path, "two"), "r2", {})
    assert store.current("bank") == "r2"
    assert content(store, "r1") == "one"


def test_jobs_and_deployments_read_what_the_other_side_sees(root: Path, cache: Path, tmp_path: Path) -> None:
    at(root, cache, remote=False).publish("bank", made(tmp_path, "one"), "r1", {})
    assert content(at(root, cache, remote=True)) == "one"


def test_nothing_published_says_so(store: ArtifactStore) -> None:
    assert store.current("bank") is None
    with pytest.raises(ArtifactError, match="artifact bank: nothing is published"):
        store.fetch("bank")


def test_a_version_that_is_not_there_is_named(store: ArtifactStore) -> None:
    with pytest.raises(ArtifactError, match=f"bank/v=r9: wanted {MANIFEST}, got none"):
        store.fetch("bank", "r9")


@pytest.mark.parametrize("pointer", [b"", b"  \n", b"../../etc", b"a\nb", b"x" * 10_000, b"\xff\xfe\x00"])
def test_a_damaged_pointer_is_refused(store: ArtifactStore, root: Path, tmp_path: Path, pointer: bytes) -> None:
    store.publish("bank", made(tmp_path, "one"), "r1", {})
    (root / "artifacts" / "bank" / "CURRENT").write_bytes(pointer)
    with pytest.raises(ArtifactError, match="wanted one run id"):
        store.current("bank")


def test_current_does_not_move_to_a_version_that_fails_verification(
    store: ArtifactStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.publish("bank", made(tmp_path, "one"), "r1", {})
    honest = Manifest.create

    def changes_afterwards(folder: Path, **lineage: object) -> Manifest:
        manifest = honest(folder, **lineage)  # type: ignore[arg-type]
        (folder / "weights.bin").write_text("not what was hashed")
        return manifest

    monkeypatch.setattr(Manifest, "create", changes_afterwards)
    with pytest.raises(ArtifactError, match=r"weights.bin wanted sha256"):
        store.publish("bank", made(tmp_path, "two"), "r2", {})
    assert store.current("bank") == "r1"


def test_one_flipped_bit_is_refused(store: ArtifactStore, root: Path, tmp_path: Path) -> None:
    store.publish("bank", made(tmp_path, "one"), "r1", {})
    damaged = bytearray(stored(root, "r1").read_bytes())
    damaged[1] ^= 1
    stored(root, "r1").write_bytes(damaged)
    with pytest.raises(ArtifactError, match=r"weights.bin wanted sha256 .* got"):
        store.fetch("bank")


def test_a_missing_file_is_refused(store: ArtifactStore, root: Path, tmp_path: Path) -> None:
    store.publish("bank", made(tmp_path, "one"), "r1", {})
    stored(root, "r1").unlink()
    with pytest.raises(ArtifactError, match="got no file"):
        store.fetch("bank")


def test_a_half_written_version_is_refused(store: ArtifactStore, root: Path, tmp_path: Path) -> None:
    store.publish("bank", made(tmp_path, "one"), "r1", {})
    stored(root, "r1", MANIFEST).unlink()
    with pytest.raises(ArtifactError, match=f"wanted {MANIFEST}, got none"):
        store.fetch("bank")


@pytest.mark.parametrize(
    "manifest",
    ["", "{", "[]", "{}", '{"kind": "bank", "run_id": "r1", "files": 3}',
     '{"kind": "bank", "run_id": "r1", "files": {"../CURRENT": ""}}',
     '{"kind": "bank", "run_id": "r1", "files": {}}',
     '{"kind": "bank", "run_id": "r1", "files": {"a": ""}, "published_ts_ms": "now"}'],
)  # fmt: skip
def test_a_damaged_manifest_is_refused(store: ArtifactStore, root: Path, tmp_path: Path, manifest: str) -> None:
    store.publish("bank", made(tmp_path, "one"), "r1", {})
    stored(root, "r1", MANIFEST).write_text(manifest)
    with pytest.raises(ArtifactError, match="is damaged"):
        store.fetch("bank")


def test_a_version_in_anothers_place_is_refused(store: ArtifactStore, root: Path, tmp_path: Path) -> None:
    store.publish("bank", made(tmp_path, "one"), "r1", {})
    stored(root, "r1").parent.rename(stored(root, "r9").parent)
    with pytest.raises(ArtifactError, match="wanted bank r9, its MANIFEST.json says bank r1"):
        store.fetch("bank", "r9")


def test_publishing_the_current_version_again_changes_nothing(store: ArtifactStore, root: Path, tmp_path: Path) -> None:
    first = store.publish("bank", made(tmp_path, "one"), "r1", {})
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    assert store.publish("bank", made(tmp_path, "one"), "r1", {}) == first
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*")} == before


def test_publishing_an_older_version_again_moves_current_alone(
    store: ArtifactStore, root: Path, tmp_path: Path
) -> None:
    store.publish("bank", made(tmp_path, "one"), "r1", {})
    store.publish("bank", made(tmp_path, "two"), "r2", {})
    inode = stored(root, "r1").stat().st_ino
    store.publish("bank", made(tmp_path, "one"), "r1", {})
    assert store.current("bank") == "r1" and stored(root, "r1").stat().st_ino == inode


@pytest.mark.parametrize("newest", ["r1", "r2"])
def test_a_version_is_never_written_over_current_or_not(store: ArtifactStore, tmp_path: Path, newest: str) -> None:
    """A bank that is served names its model's version, which need not be the newest."""
    store.publish("bank", made(tmp_path, "one"), "r1", {})
    store.publish("bank", made(tmp_path, "one"), newest, {})
    with pytest.raises(ArtifactError, match="r1 is in use with other files"):
        store.publish("bank", made(tmp_path, "two"), "r1", {})
    assert content(store, "r1") == "one" and store.current("bank") == newest


def test_what_a_publisher_that_died_left_behind_makes_way(store: ArtifactStore, root: Path, tmp_path: Path) -> None:
    stored(root, "r1").parent.mkdir(parents=True)
    stored(root, "r1").write_text("half of it")
    stored(root, "r1", "older.bin").write_text("another layout")
    store.publish("bank", made(tmp_path, "one"), "r1", {})
    assert content(store) == "one"


def test_a_damaged_version_is_repaired_beside_who_has_mapped_it(
    store: ArtifactStore, root: Path, tmp_path: Path
) -> None:
    store.publish("bank", made(tmp_path, "one"), "r1", {})
    stored(root, "r1").write_text("damaged")
    with stored(root, "r1").open() as mapped:
        store.publish("bank", made(tmp_path, "one"), "r1", {})
        assert mapped.read() == "damaged"
    assert content(store) == "one"


def test_versions_come_in_the_order_of_their_publication(store: ArtifactStore, root: Path, tmp_path: Path) -> None:
    for run_id in ("b", "a", "c"):
        store.publish("bank", made(tmp_path, run_id), run_id, {})
        time.sleep(0.002)
    os.utime(stored(root, "c", MANIFEST), (0, 0))  # what a copy of the store does to its files says nothing
    stored(root, "half").parent.mkdir()
    assert store.versions("bank") == ["b", "a", "c"] and store.versions("sarm") == []


def test_rolling_back_verifies_and_touches_no_file(store: ArtifactStore, root: Path, tmp_path: Path) -> None:
    for run_id in ("r1", "r2"):
        store.publish("bank", made(tmp_path, run_id), run_id, {})
    before = {path: path.stat().st_mtime_ns for path in root.rglob("v=*/*")}
    store.roll_back("bank", "r1")
    assert store.current("bank") == "r1" and content(store) == "r1"
    assert {path: path.stat().st_mtime_ns for path in root.rglob("v=*/*")} == before
    stored(root, "r2").write_text("damaged")
    with pytest.raises(ArtifactError, match="weights.bin wanted sha256"):
        store.roll_back("bank", "r2")
    assert store.current("bank") == "r1"


def test_sub_folders_are_refused_instead_of_left_out(store: ArtifactStore, tmp_path: Path) -> None:
    folder = made(tmp_path, "one")
    (folder / "more").mkdir()
    with pytest.raises(ArtifactError, match=r"got folder\(s\) more"):
        store.publish("bank", folder, "r1", {})


def test_files_left_out_are_neither_fetched_nor_checked(store: ArtifactStore, root: Path, tmp_path: Path) -> None:
    store.publish("bank", made(tmp_path, "one"), "r1", {})
    stored(root, "r1", "source_a.npy").write_bytes(b"nonsense")
    folder, manifest = store.verified("bank", without="source_")
    assert (folder / "weights.bin").is_file() and "source_a.npy" in manifest.files
    assert store.is_local or not (folder / "source_a.npy").exists()


def test_other_files_are_checked_when_one_is_left_out(store: ArtifactStore, root: Path, tmp_path: Path) -> None:
    store.publish("bank", made(tmp_path, "one"), "r1", {})
    stored(root, "r1").write_bytes(b"nonsense")
    with pytest.raises(ArtifactError, match="weights.bin wanted sha256"):
        store.verified("bank", without="source_")


def test_a_part_is_read_where_it_lies(store: ArtifactStore, tmp_path: Path) -> None:
    store.publish("bank", made(tmp_path, "one"), "r1", {})
    assert store.read_part("bank", "r1", "source_a.npy", 5) == b"state"


def test_a_local_version_is_read_in_place(root: Path, tmp_path: Path) -> None:
    store = ArtifactStore.open(str(root))
    store.publish("bank", made(tmp_path, "one"), "r1", {})
    assert store.fetch("bank", "r1") == stored(root, "r1").parent


def test_a_remote_version_is_downloaded_once_for_all_processes(
    remote: ArtifactStore, root: Path, cache: Path, tmp_path: Path
) -> None:
    remote.publish("bank", made(tmp_path, "one"), "r1", {})
    first = remote.fetch("bank") / "weights.bin"
    inode = first.stat().st_ino
    second = at(root, cache, remote=True).fetch("bank") / "weights.bin"
    assert second == first and second.stat().st_ino == inode and cache in first.parents


def test_publishing_leaves_nothing_on_the_node(remote: ArtifactStore, cache: Path, tmp_path: Path) -> None:
    remote.publish("bank", made(tmp_path, "one"), "r1", {})
    assert not cache.exists()


def test_a_damaged_remote_version_never_enters_the_cache(
    remote: ArtifactStore, root: Path, cache: Path, tmp_path: Path
) -> None:
    remote.publish("bank", made(tmp_path, "one"), "r1", {})
    stored(root, "r1").write_bytes(b"nonsense")
    with pytest.raises(ArtifactError, match="weights.bin wanted sha256"):
        remote.fetch("bank")
    assert not [path for path in cache.rglob("*") if path.is_file()]


def test_a_damaged_copy_is_downloaded_again(remote: ArtifactStore, tmp_path: Path) -> None:
    remote.publish("bank", made(tmp_path, "one"), "r1", {})
    (remote.fetch("bank") / "weights.bin").write_text("damaged")
    assert content(remote) == "one"


def test_a_version_that_was_removed_and_published_anew_is_downloaded_again(
    remote: ArtifactStore, root: Path, tmp_path: Path
) -> None:
    remote.publish("bank", made(tmp_path, "one"), "r1", {})
    assert content(remote) == "one"
    for file in stored(root, "r1").parent.iterdir():
        file.unlink()
    remote.publish("bank", made(tmp_path, "two"), "r1", {})
    assert content(remote) == "two"


def test_a_part_does_not_stand_in_for_the_whole(remote: ArtifactStore, tmp_path: Path) -> None:
    remote.publish("bank", made(tmp_path, "one"), "r1", {})
    remote.verified("bank", without="source_")
    assert (remote.fetch("bank") / "source_a.npy").is_file()


def test_the_cache_keeps_the_versions_that_were_used_last(remote: ArtifactStore, cache: Path, tmp_path: Path) -> None:
    for age, run_id in enumerate("abc"):
        remote.publish("bank", made(tmp_path, run_id), run_id, {})
        os.utime(remote.fetch("bank"), (age, age))
    remote.fetch("bank", "a")
    remote.publish("bank", made(tmp_path, "d"), "d", {})
    remote.fetch("bank", "d")
    assert sorted(folder.name for folder in cache.rglob("v=*")) == ["v=a", "v=c", "v=d"]


def test_a_download_that_died_is_removed_and_one_at_work_is_not(
    remote: ArtifactStore, cache: Path, tmp_path: Path
) -> None:
    remote.publish("bank", made(tmp_path, "one"), "r1", {})
    died, at_work = cache / "whole" / "bank" / ".r0.died", cache / "whole" / "bank" / ".r0.work"
    for folder in (died, at_work):
        folder.mkdir(parents=True)
    os.utime(died, (0, 0))
    remote.fetch("bank")
    assert not died.exists() and at_work.exists()


@contextmanager
def small_disk() -> Iterator[None]:
    """Files of at most 1,000 bytes can be written: the kernel ends a longer write as a full disk does.

    The limit is the whole process's, so it holds around the write alone: pytest's own report may be a longer file.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_put_that_fails_leaves_nothing_and_the_old_file_as_it_was(tmp_path: Path) -> None:
    filesystem = pafs.LocalFileSystem()
    put_file(filesystem, f"{tmp_path}/x", b"old")
    with small_disk(), pytest.raises(OSError):
        put_file(filesystem, f"{tmp_path}/x", b"n" * 100_000)
    assert [path.name for path in tmp_path.iterdir()] == ["x"]
    assert (tmp_path / "x").read_bytes() == b"old"


def test_an_upload_that_fails_leaves_no_file(tmp_path: Path, root: Path) -> None:
    folder = made(tmp_path, "a")
    (folder / "weights.bin").write_bytes(b"w" * 100_000)
    with small_disk(), pytest.raises(OSError):
        ArtifactStore.open(str(root)).publish("bank", folder, "r1", {})
    assert [path for path in root.rglob("*") if path.is_file()] == []


@pytest.mark.parametrize(
    ("named", "opened"), [("{0}/s", "{0}/s"), ("{0}/s/", "{0}/s"), ("~/s", "{0}/s"), ("file://{0}/s/", "{0}/s")]
)
def test_a_folder_has_one_name_however_it_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, named: str, opened: str
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    filesystem, path, url = open_root(named.format(tmp_path))
    assert isinstance(filesystem, pafs.LocalFileSystem)
    assert (path, url) == (opened.format(tmp_path),) * 2


@pytest.mark.parametrize("root", ["hdfs2://x/y", "file://x/y", "s3://", "gs:///", "http://x/y"])
def test_a_root_that_cannot_be_opened_is_named(root: str) -> None:
    with pytest.raises(ArtifactError, match=f"storage.root {root}: wanted a folder"):
        open_root(root)


def test_a_key_in_a_url_is_not_repeated() -> None:
    with pytest.raises(ArtifactError) as error:
        open_root("foo://user:secret@host/x")
    assert "secret" not in str(error.value) and "foo://host/x" in str(error.value)


def test_publishing_takes_no_disk_on_the_node(
    remote: ArtifactStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "nowhere"))
    remote.publish("bank", made(tmp_path, "one"), "r1", {})
    remote.publish("bank", made(tmp_path, "one"), "r1", {})


def test_a_sweep_takes_old_halves_alone(store: ArtifactStore, root: Path, tmp_path: Path) -> None:
    store.publish("bank", made(tmp_path, "one"), "r1", {})
    for run_id in ("half", "young"):
        stored(root, run_id).parent.mkdir()
        stored(root, run_id).write_text("half")
    for path in (stored(root, "r1"), stored(root, "half"), stored(root, "half").parent):
        os.utime(path, (0, 0))
    assert store.sweep("bank", 3600) == ["half"]
    assert not stored(root, "half").parent.exists()
    assert stored(root, "young").exists() and content(store) == "one"
