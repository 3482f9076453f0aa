"""Published versions, read in place or through the cache of a node."""

from __future__ import annotations

from pathlib import Path

import pytest
from pyarrow import fs as pafs

from models.artifacts.manifest import ArtifactError
from models.artifacts.store import ArtifactStore
from tests.serve.conftest import Published


def remote(root: Path, cache: Path) -> ArtifactStore:
    """The root behind a filesystem that is not this machine's own, as an object store would be."""
    return ArtifactStore(pafs.SubTreeFileSystem(str(root), pafs.LocalFileSystem()), "", cache)


def test_nothing_is_current_before_the_first_publication(tmp_path: Path) -> None:
    assert ArtifactStore.open(str(tmp_path)).current("bank") is None


def test_current_is_what_the_pointer_names(published: Published) -> None:
    assert ArtifactStore.open(str(published.root)).current("bank") == "a"


@pytest.mark.parametrize("content", [b"", b"  \n", b"../../etc", b"a\nb", b"x" * 10_000, b"\xff\xfe\x00"])
def test_a_damaged_pointer_is_refused(published: Published, content: bytes) -> None:
    (published.root / "artifacts" / "bank" / "CURRENT").write_bytes(content)
    with pytest.raises(ArtifactError, match="wanted one run id"):
        ArtifactStore.open(str(published.root)).current("bank")


def test_a_local_version_is_read_in_place(published: Published) -> None:
    folder, manifest = ArtifactStore.open(str(published.root)).fetch("bank", "a")
    assert folder == published.folder("bank", "a")
    assert manifest.made_from["model"] == "m-a"


def test_a_version_under_another_name_is_refused(published: Published) -> None:
    published.folder("bank", "a").rename(published.folder("bank", "b"))
    with pytest.raises(ArtifactError, match="wanted bank b.*says bank a"):
        ArtifactStore.open(str(published.root)).fetch("bank", "b")


def test_a_remote_version_is_downloaded_once(published: Published, tmp_path: Path) -> None:
    store = remote(published.root, tmp_path / "cache")
    first, _ = store.fetch("bank", "a")
    stamp = (first / "bank.npy").stat().st_mtime_ns
    second, _ = store.fetch("bank", "a")
    assert second == first and (second / "bank.npy").stat().st_mtime_ns == stamp
    assert (first / "bank.npy").read_bytes() == (published.folder("bank", "a") / "bank.npy").read_bytes()


def test_a_damaged_remote_version_never_enters_the_cache(published: Published, tmp_path: Path) -> None:
    (published.folder("bank", "a") / "anchor_day.npy").write_bytes(b"nonsense")
    with pytest.raises(ArtifactError, match="anchor_day.npy wanted sha256"):
        remote(published.root, tmp_path / "cache").fetch("bank", "a")
    assert not list((tmp_path / "cache").rglob("*.npy"))


def test_a_damaged_copy_is_downloaded_again(published: Published, tmp_path: Path) -> None:
    store = remote(published.root, tmp_path / "cache")
    folder, _ = store.fetch("bank", "a")
    (folder / "bank.npy").unlink()
    assert (store.fetch("bank", "a")[0] / "bank.npy").is_file()


def test_a_skipped_file_is_neither_downloaded_nor_checked(published: Published, tmp_path: Path) -> None:
    (published.folder("bank", "a") / "bank.npy").write_bytes(b"nonsense")
    folder, _ = remote(published.root, tmp_path / "cache").fetch("bank", "a", skip=("bank.npy",))
    assert not (folder / "bank.npy").exists() and (folder / "anchor_day.npy").is_file()


def test_other_files_are_checked_when_one_is_skipped(published: Published) -> None:
    (published.folder("bank", "a") / "anchor_day.npy").write_bytes(b"nonsense")
    with pytest.raises(ArtifactError, match="anchor_day.npy wanted sha256"):
        ArtifactStore.open(str(published.root)).fetch("bank", "a", skip=("bank.npy",))


def test_a_part_does_not_stand_in_for_the_whole(published: Published, tmp_path: Path) -> None:
    store = remote(published.root, tmp_path / "cache")
    store.fetch("bank", "a", skip=("bank.npy",))
    assert (store.fetch("bank", "a")[0] / "bank.npy").is_file()


def test_the_cache_keeps_a_few_versions_only(published: Published, tmp_path: Path) -> None:
    store = remote(published.root, tmp_path / "cache")
    for run_id in "bcdef":
        published.bank(run_id, "m-a")
        store.fetch("bank", run_id)
    kept = sorted(folder.name for folder in (tmp_path / "cache").rglob("v=*"))
    assert kept == ["v=d", "v=e", "v=f"]
