"""Runs of Ray Train: which checkpoint a run goes on from."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from models.artifacts.manifest import Manifest
from models.shard import WHOLE, Shard
from pipelines.ranking.on_ray import fitted
from pipelines.ranking.plan import make_plan
from pipelines.ranking.worker import Worker
from pipelines.runtime.cluster import connected
from pipelines.settings import Settings
from pipelines.tables.artifacts import Artifacts

WEIGHTS = "weights"


def _loop(
    plan: Any, storage: Any, made_from: dict[str, str], *, work: Path, worker: Worker, resume: Path | None, **given: Any
) -> None:
    """Three checkpoints; then the newest one is damaged where it was stored, and the run dies. The next one says what
    it goes on from, in a checkpoint of its own."""
    report: Callable[..., None] = given["report"]
    if resume is not None:
        _checkpoint(work / "last", f"after {(resume / WEIGHTS).read_text()}")
        report({"is_last": True}, work / "last")
        return
    for number in range(1, 4):
        _checkpoint(work / str(number), str(number))
        report({"is_last": number == 3}, work / str(number))  # and so the upload of the third is waited for
    (newest,) = [path for path in Path(made_from["checkpoints"]).rglob(WEIGHTS) if path.read_text() == "3"]
    newest.write_text("X")
    raise RuntimeError("the worker dies here")


def _checkpoint(folder: Path, text: str) -> None:
    folder.mkdir()
    (folder / WEIGHTS).write_text(text)
    Manifest.create(folder, kind="checkpoint", run_id=folder.name, made_from={})


def _says_its_shard(plan: Any, storage: Any, made_from: Any, *, work: Path, worker: Worker, **given: Any) -> None:
    if worker.rank == 0:
        _checkpoint(work / "only", str(worker.shard))
    given["report"]({"is_last": True}, work / "only" if worker.rank == 0 else None)


@pytest.mark.ray
@pytest.mark.parametrize(("id_tables", "wanted"), [("sharded", Shard(0, 2)), ("replicated", WHOLE)])
def test_workers_have_their_share_of_id_tables_where_the_configuration_says_so(
    tiny: Settings, tmp_path: Path, id_tables: str, wanted: Shard
) -> None:
    config = replace(tiny.train, checkpoints=str(tmp_path / "ray"), id_tables=id_tables)
    run = tiny.open()
    plan, _ = make_plan(config, run, Artifacts(run.storage), ())
    with connected(tiny.cluster), fitted(_says_its_shard, config, run, plan, "shares", {}) as (checkpoint, _):
        assert (checkpoint / WEIGHTS).read_text() == str(wanted)


@pytest.mark.ray
def test_a_damaged_checkpoint_is_passed_over_for_the_one_before_it(
    tiny: Settings, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    config = replace(tiny.train, checkpoints=str(tmp_path / "ray"), scaling=replace(tiny.train.scaling, num_workers=1))
    run = tiny.open()
    plan, _ = make_plan(config, run, Artifacts(run.storage), ())
    given = {"checkpoints": str(tmp_path / "ray")}
    with connected(tiny.cluster), fitted(_loop, config, run, plan, "damaged", given) as (checkpoint, ended):
        assert (checkpoint / WEIGHTS).read_text() == "after 2"
        assert ended["failures"] == 1
    assert [line for line in caplog.messages if "a checkpoint is damaged" in line and "weights wanted sha256" in line]
