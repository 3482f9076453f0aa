"""Where a job writes is looked at before it starts."""

from pathlib import Path

import pytest

from pipelines.runtime import places
from pipelines.runtime.config import ConfigError


def test_folders_that_are_there_or_can_be_made_pass(tmp_path: Path):
    places.check({"run_dir": str(tmp_path / "deep" / "run"), "storage.root": str(tmp_path), "train.checkpoints": "x/"})
    assert not Path("x").exists()


@pytest.mark.parametrize("key", ["run_dir", "storage.root", "distil.output"])
def test_a_file_in_the_way_is_named(tmp_path: Path, key: str):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=rf"{key} .*/file/deep/x: wanted a folder, but .*/file is none; name another"):
        places.check({key: str(tmp_path / "file" / "deep" / "x")})


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("os.access", lambda path, mode: path != tmp_path)  # root, which tests may be, may write all
    with pytest.raises(ConfigError, match=f"storage.root .*/store: {tmp_path} cannot be written by this user"):
        places.check({"storage.root": str(tmp_path / "store")})


def test_a_run_dir_that_cannot_be_made_is_named():
    with pytest.raises(ConfigError, match="run_dir /proc/run: cannot be made"):
        places.check({"run_dir": "/proc/run"})


def test_a_url_is_no_run_dir_and_an_unknown_one_no_place():
    with pytest.raises(ConfigError, match="run_dir s3://b/x: wanted a folder on this machine, got a URL"):
        places.check({"run_dir": "s3://b/x"})
    with pytest.raises(ValueError, match="train.checkpoints foo://x: wanted .*Unrecognized filesystem type"):
        places.check({"train.checkpoints": "foo://x"})


@pytest.mark.parametrize("key", ["run_dir", "storage.root", "train.checkpoints"])
def test_a_submitted_job_refuses_relative_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str):
    places.check({key: f"{tmp_path}/runs"})
    monkeypatch.setenv(places.SUBMITTED, "{}")
    places.check({key: f"{tmp_path}/runs"})
    with pytest.raises(ConfigError, match=rf"{key} runs/demo: wanted an absolute path.*--set {key}=/shared/demo"):
        places.check({key: "runs/demo"})
