"""The artifact store at a storage's root: what jobs publish there, deployments find, and nothing piles up."""

import tempfile
from pathlib import Path

import pytest
from pyarrow import fs as pafs

from models.artifacts.store import ArtifactStore
from pipelines.tables.artifacts import Artifacts
from pipelines.tables.storage import Storage


def version(tmp_path: Path) -> Path:
    folder = tmp_path / "version"
    folder.mkdir()
    (folder / "weights.bin").write_text("one")
    return folder


def test_what_a_job_publishes_a_deployment_finds(tmp_path: Path):
    root = str(tmp_path / "store")
    Artifacts(Storage.open(root)).publish("sarm", version(tmp_path), "r1", {})
    assert (ArtifactStore.open(root).fetch("sarm") / "weights.bin").read_text() == "one"


def test_jobs_of_a_node_share_one_copy_of_a_remote_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    root, node = tmp_path / "store", tmp_path / "node"
    root.mkdir(), node.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(node))
    remote = Storage(pafs.SubTreeFileSystem(str(root), pafs.LocalFileSystem()), "", url="hdfs://bucket/store")
    Artifacts(remote).publish("sarm", version(tmp_path), "r1", {})
    folders = {Artifacts(remote).fetch("sarm") for _ in range(3)}
    assert len(folders) == 1 and len([path for path in node.rglob("*") if path.is_file()]) == 2  # weights and manifest
