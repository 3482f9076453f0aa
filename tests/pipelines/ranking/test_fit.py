"""Epochs, the validation that chooses one of them, and requests in random order."""

import resource
import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from models import embeddings
from models.composed import ComposedRanker
from models.sarm.memory_bank import MemoryBank
from pipelines.ranking import fit
from pipelines.ranking.checkpoint import (
    BEST,
    OPTIMIZER,
    Progress,
    bank_file,
    folder_after,
    published_files,
    read_progress,
)
from pipelines.ranking.plan import LAST_RATE, TrainingPlan, make_plan
from pipelines.ranking.worker import Worker
from pipelines.runtime.verdict import judged
from pipelines.runtime.watch import Watch, WatchConfig, unwatched, watched
from pipelines.samples.batches import num_batches, read_examples, shuffled_requests
from pipelines.settings import Settings
from pipelines.tables.artifacts import Artifacts
from pipelines.tables.contract import ContractError
from tests.pipelines.curves import curves

FIRST, SECOND = "2026-01-01", "2026-01-02"


class Killed(Exception):
    """Stands for a worker that dies."""


def _plan(settings: Settings, **train: Any) -> tuple[TrainingPlan, dict[str, str]]:
    run = settings.open()
    config = replace(settings.train, **train)
    return make_plan(config, run, Artifacts(run.storage), config.sources)


def _train(
    settings: Settings,
    work: Path,
    resume: Path | None = None,
    die_after: int = 0,
    watch: Watch = unwatched,
    **train: Any,
) -> Progress:
    plan, made_from = _plan(settings, **train)
    folders = []

    def report(metrics: object, folder: Path | None) -> None:
        folders.append(folder)
        if len(folders) == die_after:
            raise Killed

    return fit.train(
        plan,
        settings.open().storage,
        made_from,
        work=work,
        worker=Worker(),
        report=report,
        log_line=lambda line: None,
        watch=watch,
        resume=resume,
    )


def _weights(folder: Path) -> dict[str, torch.Tensor]:
    return ComposedRanker.load(folder).state_dict()


def _same(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(one[name], two[name]) for name in one)


@pytest.fixture
def scores(monkeypatch: pytest.MonkeyPatch) -> Callable[[list[float]], None]:
    """Says what the epochs' scores are, in place of the validation."""

    def say(values: list[float]) -> None:
        left = iter(values)
        monkeypatch.setattr(fit._Fit, "_validate", lambda self: next(left))

    return say


def test_an_epoch_goes_through_all_days_and_more_of_them_fit_better(tiny: Settings, tmp_path: Path) -> None:
    progress = _train(tiny, tmp_path, epochs=3, batch_size=32)
    assert progress.done == [FIRST, SECOND] * 3
    assert progress.step == _plan(tiny, epochs=3, batch_size=32)[0].num_steps
    by_epoch = np.array_split([entry["main_loss"] for entry in progress.curve], 3)
    assert by_epoch[2].mean() < by_epoch[0].mean() - 0.1


def test_learning_rates_fall_over_all_epochs(tiny: Settings) -> None:
    plan, _ = _plan(tiny, epochs=2, end_rate=0.1)
    assert plan.rate_at(Progress()) == 1.0
    assert plan.rate_at(Progress(step=plan.num_steps // 2)) == pytest.approx(0.55)
    assert plan.rate_at(Progress(step=plan.num_steps)) == pytest.approx(0.1)


@pytest.mark.parametrize("die_after", [1, 2, 3, 4, 5])
def test_a_run_that_was_killed_goes_on_in_any_epoch_and_on_the_validation_day(
    tiny: Settings, tmp_path: Path, die_after: int
) -> None:
    train: dict[str, Any] = {"epochs": 4, "validation_days": 1, "patience": 4}
    whole = _train(tiny, tmp_path / "whole", **train)
    assert whole.done == [FIRST] * 4 + [SECOND]
    with pytest.raises(Killed):
        _train(tiny, tmp_path / "killed", die_after=die_after, **train)
    (last,) = (tmp_path / "killed").glob(f"after-{die_after}-*")
    resumed = _train(tiny, tmp_path / "resumed", resume=last, **train)
    assert resumed.scores == whole.scores and resumed.step == whole.step
    if die_after < len(whole.done):
        folder = folder_after(whole)
        assert _same(_weights(tmp_path / "whole" / folder), _weights(tmp_path / "resumed" / folder))


def test_unknown_rows_learn_by_id_dropout_and_a_resumed_run_drops_the_same(tiny: Settings, tmp_path: Path) -> None:
    train: dict[str, Any] = {"epochs": 1, "batch_size": 32, "id_dropout": 0.2}
    whole = folder_after(_train(tiny, tmp_path / "whole", **train))
    with pytest.raises(Killed):
        _train(tiny, tmp_path / "killed", die_after=1, **train)
    _train(tiny, tmp_path / "resumed", resume=tmp_path / "killed" / f"after-1-{FIRST}", **train)
    learnt = _weights(tmp_path / "whole" / whole)
    assert _same(learnt, _weights(tmp_path / "resumed" / whole))
    assert learnt["ranker.users.weight"][0].any() and learnt["ranker.authors.weight"][0].any()
    without = folder_after(_train(tiny, tmp_path / "without", epochs=1, batch_size=32))
    assert not _weights(tmp_path / "without" / without)["ranker.users.weight"][0].any()


def test_a_run_that_died_goes_on_in_its_curves_and_doubles_no_step(tiny: Settings, tmp_path: Path) -> None:
    """Its second attempt begins anew, its third goes on from the last but one checkpoint: both tell steps again."""
    train: dict[str, Any] = {"epochs": 3, "validation_days": 1, "patience": 3, "log_every": 3}
    whole = _train(tiny, tmp_path / "whole", **train)
    for number, die_after in enumerate((2, 2, 0)):
        resume = tmp_path / "run-1" / f"after-1-{FIRST}" if number == 2 else None
        with watched(WatchConfig(), tmp_path, "run", "sarm", {}) as watch, suppress(Killed):
            _train(tiny, tmp_path / f"run-{number}", resume, die_after, watch, **train)
    found = curves(tmp_path / "tensorboard" / "run")
    steps = [point["step"] for point in whole.curve]
    assert len(steps) == len(set(steps)) and {name for name in found if [s for s, _ in found[name]] != steps} == {
        "validation/click_gauc"
    }
    for name, of in (("loss", "total"), ("main_loss", "main"), ("aux_loss", "aux"), ("gift_loss", "gift")):
        assert [value for _, value in found[f"loss/{of}"]] == pytest.approx([point[name] for point in whole.curve])
    plan, _ = _plan(tiny, **train)
    epoch = num_batches(plan.rows[0], plan.batch_size)
    scores = {epoch * number: pytest.approx(score) for number, score in enumerate(whole.scores, 1)}
    assert dict(found["validation/click_gauc"]) == scores and len(scores) == 3
    rates = [plan.rate_at(Progress(step=step)) for step in steps[:3]]
    assert [value for _, value in found["learning/rate_share"]][:3] == pytest.approx(rates)
    assert found["learning/encoded"][-1] == (whole.step, whole.encoded)
    assert 0 < found["bank/sarm_age_steps"][-1][1] < whole.step


@pytest.mark.parametrize("sources", [("sarm",), ()])
@pytest.mark.parametrize("die_after", [1, 3, 5, 6])
def test_a_run_that_was_killed_within_a_day_goes_on_to_the_same_bits(
    tiny: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, die_after: int, sources: tuple[str, ...]
) -> None:
    """Days of three stretches, with a checkpoint after each, and every table of some size learnt row by row."""
    monkeypatch.setattr(embeddings, "SPARSE_FROM", 20)
    rows = min(_plan(tiny, epochs=1)[0].rows)
    train: dict[str, Any] = {"epochs": 2, "stretch_rows": rows // 2, "checkpoint_rows": 1, "batch_size": 64}
    train["sources"] = sources
    whole = _train(tiny, tmp_path / "whole", **train)
    folders = sorted((tmp_path / "whole").iterdir(), key=lambda folder: read_progress(folder).step)
    assert len(folders) > 8 and sum("-and-" in folder.name for folder in folders) > 4
    with pytest.raises(Killed):
        _train(tiny, tmp_path / "killed", die_after=die_after, **train)
    last = tmp_path / "killed" / folders[die_after - 1].name
    resumed = _train(tiny, tmp_path / "resumed", resume=last, **train)
    assert (resumed.step, resumed.examples, resumed.done) == (whole.step, whole.examples, whole.done)
    assert _same(_weights(folders[-1]), _weights(tmp_path / "resumed" / folders[-1].name))
    for name in (bank_file(source) for source in sources):
        banks = [MemoryBank.load(run / folders[-1].name / name) for run in (tmp_path / "whole", tmp_path / "resumed")]
        assert torch.equal(banks[0].vectors, banks[1].vectors)


def test_a_day_of_one_stretch_and_one_of_many_are_learnt_alike(tiny: Settings, tmp_path: Path) -> None:
    """In the order of time the steps are the same where a stretch ends with one."""
    rows = min(_plan(tiny)[0].rows)
    losses = []
    for name, stretch_rows in (("one", 10**6), ("many", rows // 3)):
        progress = _train(tiny, tmp_path / name, epochs=1, shuffle=False, stretch_rows=stretch_rows, batch_size=16)
        losses.append([entry["main_loss"] for entry in progress.curve])
    assert losses[0][-1] == pytest.approx(losses[1][-1], rel=0.05)


def test_training_stops_when_the_score_gets_no_better(
    tiny: Settings, tmp_path: Path, scores: Callable[[list[float]], None]
) -> None:
    scores([0.6, 0.7, 0.65, 0.69])
    progress = _train(tiny, tmp_path, epochs=9, validation_days=1, patience=2)
    assert progress.scores == [0.6, 0.7, 0.65, 0.69] and progress.best_epoch == 2
    assert progress.done == [FIRST] * 4 + [SECOND]


def test_training_goes_back_to_the_best_epoch(
    tiny: Settings, tmp_path: Path, scores: Callable[[list[float]], None]
) -> None:
    scores([0.7, 0.6, 0.5])
    train: dict[str, Any] = {"epochs": 3, "validation_days": 1, "patience": 3}
    with pytest.raises(Killed):
        _train(tiny, tmp_path, die_after=3, **train)
    plan, made_from = _plan(tiny, **train)
    resumed = fit._Fit(plan, tiny.open().storage, made_from, Worker(), print)
    resumed.loop.restore(tmp_path / f"after-3-{FIRST}")
    best, last = (_weights(tmp_path / f"after-{name}") for name in (f"1-{FIRST}", f"3-{FIRST}"))
    assert _same(resumed.loop.model.state_dict(), last) and not _same(best, last)
    resumed.loop.go_back()
    assert _same(resumed.loop.model.state_dict(), best)


def test_the_last_pass_begins_at_a_rate_that_still_learns(tiny: Settings) -> None:
    plan, _ = _plan(tiny, epochs=4, validation_days=1, end_rate=0.1)
    ran = plan.num_steps - num_batches(plan.validation_rows[0], plan.batch_size)
    for best, start in ((4, LAST_RATE), (1, 0.1 + 0.9 * 3 / 4)):
        scored = [0.9 if epoch == best else 0.5 for epoch in range(1, 5)]
        progress = Progress(step=ran, done=[FIRST] * 4, epochs_end=4, scores=scored)
        assert plan.rate_at(progress) == pytest.approx(start)
        assert plan.rate_at(replace(progress, step=plan.num_steps)) == pytest.approx(0.1)


def test_the_best_epoch_is_not_published_twice(tiny: Settings, tmp_path: Path) -> None:
    progress = _train(tiny, tmp_path, epochs=1, validation_days=1)
    folder = tmp_path / folder_after(progress)
    assert (folder / BEST).is_file() and BEST not in [file.name for file in published_files(folder)]


def test_a_validation_that_leaves_nothing_to_train_on_is_refused(tiny: Settings) -> None:
    with pytest.raises(ContractError, match="train.validation_days=2"):
        _plan(tiny, validation_days=2)


@pytest.mark.parametrize("fails", ["model.safetensors", OPTIMIZER])
def test_a_checkpoint_for_which_there_is_no_room_is_told_as_a_full_disk(
    tiny: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: str
) -> None:
    """Neither torch nor safetensors says so itself."""
    whole = tmp_path / "whole" / folder_after(_train(tiny, tmp_path / "whole", epochs=1))
    sizes = {file.name: file.stat().st_size for file in whole.iterdir()}
    assert sizes[OPTIMIZER] > sizes["model.safetensors"] == sorted(sizes.values())[-2]
    limit = sizes[fails] - 1
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        with pytest.raises(OSError, match="No space left on device.*after-1-") as raised:
            _train(tiny, tmp_path / "full", epochs=1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert judged(raised.value).error.startswith("the disk is full")


def _shuffled(tiny: Settings, batch_size: int, window: int = 4, seed: int = 0) -> tuple[dict[str, Any], Any]:
    columns = read_examples(tiny.open().storage, SECOND)
    count = num_batches(len(columns["user_id"]), batch_size)
    return columns, shuffled_requests(columns, count, window, np.random.default_rng(seed))


def _windows(rows: int, batch_size: int, window: int) -> list[slice]:
    """The rows of each window of batches, in the order of training."""
    batches = num_batches(rows, batch_size)
    bounds = np.arange(batches + 1) * rows // batches
    starts = range(0, batches, window)
    return [slice(bounds[start], bounds[min(start + window, batches)]) for start in starts]


@pytest.mark.parametrize("batch_size", [7, 70, 10**6])
def test_a_window_of_batches_is_one_stretch_of_the_day(tiny: Settings, batch_size: int) -> None:
    columns, order = _shuffled(tiny, batch_size, window=2)
    assert sorted(order) == list(range(len(order))) and list(order) != sorted(order)
    rank = np.argsort(np.argsort(columns["ts_ms"], kind="stable"))[order]
    pieces = [rank[of] for of in _windows(len(order), batch_size, 2)]
    # Blocks differ by a row in size, so windows may begin a few rows beside them.
    reaching = [int(np.sum(np.abs(piece - np.median(piece)) > len(piece) / 2 + 1)) for piece in pieces]
    assert np.mean(reaching) < 2
    middles = [float(np.median(piece)) for piece in pieces]
    assert middles[-1] == max(middles) and (len(middles) < 3 or middles != sorted(middles))
    assert (order == _shuffled(tiny, batch_size, window=2)[1]).all()
    assert not (order == _shuffled(tiny, batch_size, window=2, seed=1)[1]).all()


def test_what_a_user_was_shown_with_one_history_stays_together_in_a_window(tiny: Settings) -> None:
    columns, order = _shuffled(tiny, 10**6)
    users, histories = columns["user_id"], columns["history_author_ids"]
    request = [(users[row], histories[row].tobytes()) for row in order]
    met = [one for one, before in zip(request, [None, *request], strict=False) if one != before]
    assert len(met) == len(set(request)) < len(request)
    assert [user for user, _ in met] != sorted(user for user, _ in met)


def test_an_order_changes_which_rows_meet(tiny: Settings, tmp_path: Path) -> None:
    weights = []
    for name, shuffle in (("time", False), ("shuffled", True)):
        progress = _train(tiny, tmp_path / name, epochs=1, shuffle=shuffle)
        weights.append(_weights(tmp_path / name / folder_after(progress)))
    assert not _same(*weights)
