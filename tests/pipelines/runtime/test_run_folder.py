"""The folder of a run of Ray Train: halves go, and a list of checkpoints that is not whole is made anew."""

import json
from pathlib import Path

import pytest

from pipelines.runtime.run_folder import tidy

LIST = "checkpoint_manager_snapshot.json"
OLD, NEW = "checkpoint_2026-01-01_10-00-00.000001", "checkpoint_2026-01-01_10-00-00.000002"


def made(root: Path, *checkpoints: str, names: list[str] | None = None, cut: int | None = None) -> Path:
    """A run with folders; its list names some, or is cut off."""
    run = root / "run"
    for name in checkpoints:
        (run / name).mkdir(parents=True)
        (run / name / "weights").write_text(name)
    if names is not None:
        listed = json.dumps({"checkpoint_results": [{"checkpoint_dir_name": name, "metrics": {}} for name in names]})
        (run / LIST).write_text(listed[:cut])
    return run


def left(run: Path) -> set[str]:
    return {path.name for path in run.iterdir()}


def test_a_checkpoint_that_the_list_does_not_name_is_removed_and_nothing_else(tmp_path: Path) -> None:
    run = made(tmp_path, OLD, NEW, "other", names=[OLD])
    tidy(str(tmp_path), "run")
    assert left(run) == {OLD, "other", LIST}
    assert (run / OLD / "weights").read_text() == OLD


@pytest.mark.parametrize("cut", [0, 40])
def test_a_list_that_is_cut_off_is_made_anew_in_the_order_of_time(tmp_path: Path, cut: int) -> None:
    run = made(tmp_path, NEW, OLD, "other", names=[OLD], cut=cut)
    tidy(str(tmp_path), "run")
    listed = json.loads((run / LIST).read_text())
    assert [of["checkpoint_dir_name"] for of in listed["checkpoint_results"]] == [OLD, NEW]
    assert listed["latest_checkpoint_result"]["checkpoint_dir_name"] == NEW
    assert left(run) == {OLD, NEW, "other", LIST}
    tidy(str(tmp_path), "run")
    assert left(run) == {OLD, NEW, "other", LIST}


def test_a_list_that_is_missing_is_made_anew(tmp_path: Path) -> None:
    """A run that was killed before it wrote its first one."""
    run = made(tmp_path, OLD)
    tidy(str(tmp_path), "run")
    assert json.loads((run / LIST).read_text())["current_report_index"] == 1


def test_a_list_that_is_cut_off_and_has_no_checkpoints_goes(tmp_path: Path) -> None:
    run = made(tmp_path, "other", names=[OLD], cut=5)
    tidy(str(tmp_path), "run")
    assert left(run) == {"other"}


def test_a_run_that_never_was_is_nothing_to_tidy(tmp_path: Path) -> None:
    tidy(str(tmp_path), "run")
    assert not list(tmp_path.iterdir())
