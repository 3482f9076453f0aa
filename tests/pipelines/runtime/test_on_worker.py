"""Jobs that run on a worker of a shared cluster look to their caller as if they ran where it is."""

import logging
from dataclasses import replace
from pathlib import Path

import pytest

from pipelines.ranking import evaluate
from pipelines.ranking.evaluate import scores_file
from pipelines.runtime import on_worker
from pipelines.runtime.cluster import ClusterConfig
from pipelines.runtime.on_worker import LostError, run_job
from pipelines.runtime.run import Run
from pipelines.samples import examples
from pipelines.settings import Settings
from pipelines.tables.contract import ContractError
from pipelines.tables.storage import Storage
from tests.pipelines.counting import counting
from tests.pipelines.runtime import dying_job

SHARED = ClusterConfig(address="auto")
pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_cluster")]


def test_figures_and_lines_come_back_in_order(tiny: Settings, caplog: pytest.LogCaptureFixture) -> None:
    run = replace(tiny.open(), cluster=SHARED)
    shorter = replace(tiny.examples, history_length=3)
    with caplog.at_level(logging.INFO):
        figures = run_job(examples, shorter, run)
    assert figures["days_written"] == figures["days"] == run.storage.days("examples")
    lines = [r.getMessage() for r in caplog.records if r.name == "pipelines.samples.examples"]
    assert [line[:22] for line in lines] == [f"examples of {day}" for day in figures["days"]]
    assert run_job(examples, shorter, run)["days_written"] == []


def test_an_error_of_the_user_is_the_same_error(tmp_path: Path) -> None:
    run = Run(seed=0, folder=tmp_path / "run", storage=Storage.open(str(tmp_path)), cluster=SHARED)
    with pytest.raises(ContractError) as caught:
        run_job(examples, Settings().examples, run)
    assert type(caught.value) is ContractError
    assert str(caught.value).startswith("table impressions: wanted at least one day") and "\n" not in str(caught.value)


def test_files_of_the_run_s_folder_come_back(trained: Settings) -> None:
    run = replace(trained.open(), cluster=SHARED)
    figures = run_job(evaluate, trained.evaluate, run)
    here = evaluate.run(trained.evaluate, replace(run, folder=run.folder / "here"))
    assert str(figures) == str(here)  # some are NaN
    for name in ("sarm", "base"):
        assert (run.folder / scores_file(name)).read_bytes() == (run.folder / "here" / scores_file(name)).read_bytes()


def test_a_private_cluster_is_left_alone(tiny: Settings) -> None:
    storage, calls = counting(tiny.storage.root)  # counts in this process alone
    run_job(examples, tiny.examples, replace(tiny.open(), storage=storage))
    assert calls["listings"]


def test_a_job_whose_worker_dies_is_started_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(on_worker, "_JOBS", frozenset({dying_job.__name__}))
    run = Run(seed=0, folder=tmp_path / "run", storage=Storage.open(str(tmp_path)), cluster=SHARED)
    deaths = tmp_path / "deaths"
    deaths.write_text("2")
    assert run_job(dying_job, deaths, run) == {"left": 0}
    deaths.write_text("3")
    with pytest.raises(LostError, match="dying_job, attempt 3 of 3: the worker or the node that it ran on died"):
        run_job(dying_job, deaths, run)
    assert deaths.read_text() == "0"
