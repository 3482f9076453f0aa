"""Runs of Ray Train: which checkpoint a run goes on from."""

import resource
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
from pipelines.runtime.verdict import judged
from pipelines.settings import Settings
from pipelines.tables.artifacts import Artifacts

WEIGHTS = "weights"
HALF = "checkpoint_9999-12-31_00-00-00.000000"


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


def _die_while_the_list_is_written(
    plan: Any, storage: Any, made_from: dict[str, str], *, work: Path, worker: Worker, resume: Path | None, **given: Any
) -> None:
    """As a kill leaves it, or a full disk: the list of checkpoints is cut off, and a half of one lies beside them."""
    import ray.train

    report: Callable[..., None] = given["report"]
    run = Path(made_from["checkpoints"]) / "cut"
    if resume is not None:
        _checkpoint(work / "last", f"after {(resume / WEIGHTS).read_text()}, halves {len(list(run.glob(HALF)))}")
        report({"is_last": True}, work / "last")
        return
    for number in range(1, 3):
        _checkpoint(work / str(number), str(number))
        report({"is_last": number == 2}, work / str(number))
    assert len(ray.train.get_all_reported_checkpoints()) == 2  # waits for the list to name both
    (run / HALF).mkdir()
    (run / HALF / WEIGHTS).write_text("3")
    if made_from["cut"]:
        (list_of_checkpoints,) = run.glob("*.json")
        list_of_checkpoints.write_bytes(list_of_checkpoints.read_bytes()[:100])
    raise RuntimeError("the worker dies here")


def _third_does_not_fit(
    plan: Any, storage: Any, made_from: dict[str, str], *, work: Path, worker: Worker, resume: Path | None, **given: Any
) -> None:
    """From then on this worker can write files of 5 MB at most, which the kernel ends as a full disk does."""
    import ray.train

    report: Callable[..., None] = given["report"]
    if not made_from["full"]:
        assert resume is not None
        kept = len([path for path in Path(made_from["checkpoints"]).rglob(WEIGHTS)])
        _checkpoint(work / "last", f"after {(resume / WEIGHTS).read_text()}, {kept} kept")
        report({"is_last": True}, work / "last")
        return
    for number in range(1, 4):
        _checkpoint(work / str(number), str(number) if number < 3 else "3" * 10_000_000)
        if number == 3:
            assert len(ray.train.get_all_reported_checkpoints()) == 2  # waits for the list to name both
            resource.setrlimit(resource.RLIMIT_FSIZE, (5_000_000, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
        report({"is_last": number == 3}, work / str(number))


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
    fitting = fitted(_says_its_shard, config, run, plan, "shares", {}, shards_ids=config.shards_ids)
    with connected(tiny.cluster), fitting as (checkpoint, _):
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


@pytest.mark.ray
@pytest.mark.parametrize("cut", ["", "yes"])
def test_a_list_of_checkpoints_that_is_cut_off_is_made_anew_and_halves_of_checkpoints_go(
    tiny: Settings, tmp_path: Path, caplog: pytest.LogCaptureFixture, cut: str
) -> None:
    config = replace(tiny.train, checkpoints=str(tmp_path / "ray"), scaling=replace(tiny.train.scaling, num_workers=1))
    run = tiny.open()
    plan, _ = make_plan(config, run, Artifacts(run.storage), ())
    given = {"checkpoints": str(tmp_path / "ray"), "cut": cut}
    loop = _die_while_the_list_is_written
    with connected(tiny.cluster), fitted(loop, config, run, plan, "cut", given) as (checkpoint, ended):
        assert (checkpoint / WEIGHTS).read_text() == f"after 2, halves {1 if cut else 0}"
        assert ended["failures"] == 1
    assert sum("list of checkpoints" in line for line in caplog.messages) == bool(cut)


@pytest.mark.ray
def test_a_checkpoint_that_does_not_fit_is_told_and_the_next_run_goes_on_from_the_one_before(
    tiny: Settings, tmp_path: Path
) -> None:
    scaling = replace(tiny.train.scaling, num_workers=1)
    config = replace(tiny.train, checkpoints=str(tmp_path / "ray"), scaling=scaling, max_failures=0)
    run = tiny.open()
    plan, _ = make_plan(config, run, Artifacts(run.storage), ())
    given = {"checkpoints": str(tmp_path / "ray"), "full": "yes"}
    with connected(tiny.cluster):
        with (
            pytest.raises(Exception) as raised,
            fitted(_third_does_not_fit, config, run, plan, "full", given),
        ):
            pass
        ended = judged(raised.value)
        assert ended.error.startswith("the disk is full: [Errno 27]") and ended.retry
        with fitted(_third_does_not_fit, config, run, plan, "full", given | {"full": ""}) as (checkpoint, _):
            assert (checkpoint / WEIGHTS).read_text() == "after 2, 2 kept"
