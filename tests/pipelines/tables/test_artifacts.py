"""Artifacts: CURRENT names only versions that were verified, and readers refuse damaged ones."""

from pathlib import Path

import pytest

from models.artifacts.manifest import MANIFEST, ArtifactError, Manifest
from pipelines.tables.artifacts import Artifacts
from pipelines.tables.storage import Storage


@pytest.fixture
def artifacts(tmp_path: Path) -> Artifacts:
    return Artifacts(Storage.open(str(tmp_path / "store")))


def made(tmp_path: Path, content: str, name: str = "weights.bin") -> Path:
    folder = tmp_path / f"local-{content}"
    folder.mkdir()
    (folder / name).write_text(content)
    return folder


def test_a_published_version_is_current_and_verified(artifacts: Artifacts, tmp_path: Path):
    artifacts.publish("bank", made(tmp_path, "one"), "r1", {"anchors": "abc"})
    assert artifacts.current("bank") == "r1"
    assert (artifacts.fetch("bank") / "weights.bin").read_text() == "one"
    assert artifacts.manifest("bank").made_from == {"anchors": "abc"}


def test_older_versions_stay_readable(artifacts: Artifacts, tmp_path: Path):
    artifacts.publish("bank", made(tmp_path, "one"), "r1", {})
    artifacts.publish("bank", made(tmp_path, "two"), "r2", {})
    assert artifacts.current("bank") == "r2"
    assert (artifacts.fetch("bank", "r1") / "weights.bin").read_text() == "one"


def test_current_does_not_move_to_a_version_that_fails_verification(
    artifacts: Artifacts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    artifacts.publish("bank", made(tmp_path, "one"), "r1", {})
    honest = Manifest.create

    def changes_afterwards(folder: Path, **lineage: object) -> Manifest:
        manifest = honest(folder, **lineage)  # type: ignore[arg-type]
        (folder / "weights.bin").write_text("not what was hashed")
        return manifest

    monkeypatch.setattr(Manifest, "create", changes_afterwards)
    with pytest.raises(ArtifactError, match=r"weights.bin wanted sha256"):
        artifacts.publish("bank", made(tmp_path, "two"), "r2", {})
    assert artifacts.current("bank") == "r1"


def test_one_flipped_bit_is_refused(artifacts: Artifacts, tmp_path: Path):
    artifacts.publish("bank", made(tmp_path, "one"), "r1", {})
    file = artifacts.fetch("bank") / "weights.bin"
    content = bytearray(file.read_bytes())
    content[1] ^= 1
    file.write_bytes(content)
    with pytest.raises(ArtifactError, match=r"weights.bin wanted sha256 .* got"):
        artifacts.fetch("bank")


def test_a_missing_file_is_refused(artifacts: Artifacts, tmp_path: Path):
    artifacts.publish("bank", made(tmp_path, "one"), "r1", {})
    (artifacts.fetch("bank") / "weights.bin").unlink()
    with pytest.raises(ArtifactError, match="got no file"):
        artifacts.fetch("bank")


def test_a_half_written_version_is_refused(artifacts: Artifacts, tmp_path: Path):
    artifacts.publish("bank", made(tmp_path, "one"), "r1", {})
    (artifacts.fetch("bank") / MANIFEST).unlink()
    with pytest.raises(ArtifactError, match=f"wanted {MANIFEST}, got none"):
        artifacts.fetch("bank")


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"kind": "bank", "run_id": "r1", "files": 3}'])
def test_a_damaged_manifest_is_refused(artifacts: Artifacts, tmp_path: Path, content: str):
    artifacts.publish("bank", made(tmp_path, "one"), "r1", {})
    (artifacts.fetch("bank") / MANIFEST).write_text(content)
    with pytest.raises(ArtifactError, match="is damaged"):
        artifacts.fetch("bank")


def test_a_version_in_anothers_place_is_refused(artifacts: Artifacts, tmp_path: Path):
    artifacts.publish("bank", made(tmp_path, "one"), "r1", {})
    folder = artifacts.fetch("bank")
    folder.rename(folder.with_name("v=r9"))
    with pytest.raises(ArtifactError, match="wanted bank r9, got bank r1"):
        artifacts.fetch("bank", "r9")


def test_nothing_published_says_so(artifacts: Artifacts):
    assert artifacts.current("bank") is None
    with pytest.raises(ArtifactError, match="artifact bank: nothing is published"):
        artifacts.fetch("bank")


def test_publishing_the_current_version_again_changes_nothing(artifacts: Artifacts, tmp_path: Path):
    folder = made(tmp_path, "one")
    first = artifacts.publish("bank", folder, "r1", {})
    assert artifacts.publish("bank", folder, "r1", {}) == first


def test_the_current_version_is_never_written_over(artifacts: Artifacts, tmp_path: Path):
    artifacts.publish("bank", made(tmp_path, "one"), "r1", {})
    with pytest.raises(ArtifactError, match="r1 is in use with other files"):
        artifacts.publish("bank", made(tmp_path, "two"), "r1", {})
    assert (artifacts.fetch("bank") / "weights.bin").read_text() == "one"


def test_sub_folders_are_refused_instead_of_left_out(artifacts: Artifacts, tmp_path: Path):
    folder = made(tmp_path, "one")
    (folder / "more").mkdir()
    with pytest.raises(ArtifactError, match=r"got folder\(s\) more"):
        artifacts.publish("bank", folder, "r1", {})
