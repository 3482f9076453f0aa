"""Id tables that are spread over two workers, against the same tables whole in both."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from models.composed import ComposedRanker
from models.sarm.memory_bank import MemoryBank
from pipelines.ranking.checkpoint import BEST, bank_file, read_progress
from pipelines.ranking.plan import FollowConfig
from pipelines.samples import window_examples, windows
from pipelines.settings import Settings
from tests.pipelines.conftest import tiny_settings
from tests.pipelines.jobs import run_job
from tests.pipelines.ranking.sharded_runs import Run, by_row, follow_on_two, newest, on_workers, weights

# A power of Adam's rates comes out a bit apart where it stands elsewhere in a tensor, and gradients are added up in
# another order. Where a gradient is almost nothing, Adam makes much of that: its steps here are of 0.005 and more.
MEAN, MOST = 5e-6, 1e-3
TRAIN: dict[str, Any] = {"epochs": 2, "validation_days": 1, "patience": 2, "batch_size": 32, "l2_ids": 0.003}
FIRST_EPOCH = "after-1-2026-01-01"


def _same(one: Path, two: Path) -> None:
    """Bit for bit: weights, and all that the optimizer knows of rows."""
    first, second = weights(one), weights(two)
    assert first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)
    for left, right in zip(by_row(one), by_row(two), strict=True):
        assert left["now"] == right["now"]
        assert all(torch.equal(left[name], right[name]) for name in ("moments", "come_to"))


def _near(one: torch.Tensor, two: torch.Tensor) -> bool:
    apart = (one.double() - two.double()).abs()
    return one.shape == two.shape and bool(apart.mean() < MEAN and apart.max() < MOST)


def _close(one: Path, two: Path, sources: Sequence[str]) -> None:
    """The same up to rounding: weights, what the optimizer knows of rows, banks."""
    first, second = weights(one), weights(two)
    assert first.keys() == second.keys()
    assert not [name for name in first if not _near(first[name], second[name])]
    for left, right in zip(by_row(one), by_row(two), strict=True):
        assert left["now"] == right["now"] and torch.equal(left["come_to"], right["come_to"])
        assert _near(left["moments"], right["moments"])
    for source in sources:
        assert _near(*(MemoryBank.load(of / bank_file(source)).vectors for of in (one, two)))


@pytest.fixture(scope="module", params=["sarm", "base"])
def runs(
    request: pytest.FixtureRequest, tiny_store: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Any]:
    """Checkpoints of two workers: whole, and spread; each gone on with from its own, and from the other's; of one."""
    folder = tmp_path_factory.mktemp("sharded")
    sources = ("sarm",) if request.param == "sarm" else ()
    train = {**TRAIN, "sources": sources}
    settings = tiny_settings(tiny_store)
    of_two = [
        Run(name="whole", sharded=False, train=train),
        Run(name="spread", sharded=True, train=train),
        Run(name="spread-on", sharded=True, train=train, resume=f"spread/{FIRST_EPOCH}"),
        Run(name="spread-whole", sharded=False, train=train, resume=f"spread/{FIRST_EPOCH}"),
        Run(name="whole-spread", sharded=True, train=train, resume=f"whole/{FIRST_EPOCH}"),
    ]
    on_workers(settings, folder, of_two)
    of_one = [
        Run(name=f"{name}-alone", sharded=False, train=train, resume=f"{name}/{FIRST_EPOCH}")
        for name in ("whole", "spread")
    ]
    on_workers(settings, folder, of_one, world=1)
    again = Run(name="alone-spread", sharded=True, train=train, resume="spread-alone/after-2-2026-01-01")
    on_workers(settings, folder, [again], world=2)
    return folder, sources


def test_spread_tables_are_learnt_as_whole_ones(runs: tuple[Path, Any]) -> None:
    """With rows that miss steps and catch up, encoders that ask for rows of a whole window, and a validation."""
    folder, sources = runs
    whole, spread = newest(folder / "whole"), newest(folder / "spread")
    come_to = by_row(folder / "whole" / FIRST_EPOCH)
    assert come_to and read_progress(whole).step > 60
    _close(spread, whole, sources)
    assert read_progress(spread).scores == pytest.approx(read_progress(whole).scores, abs=1e-4)
    best = [torch.load(of / BEST, weights_only=True) for of in (spread, whole)]
    assert all(_near(tensor, best[1]["model"][name]) for name, tensor in best[0]["model"].items())


def test_a_run_goes_on_to_the_same_bits(runs: tuple[Path, Any]) -> None:
    folder, _ = runs
    _same(newest(folder / "spread-on"), newest(folder / "spread"))


@pytest.mark.parametrize("name", ["spread-whole", "whole-spread"])
def test_a_checkpoint_of_one_kind_is_gone_on_with_as_the_other(runs: tuple[Path, Any], name: str) -> None:
    folder, sources = runs
    _close(newest(folder / name), newest(folder / "whole"), sources)


def test_a_checkpoint_of_two_workers_is_loaded_by_one_and_back(runs: tuple[Path, Any]) -> None:
    folder, sources = runs
    _close(newest(folder / "spread-alone"), newest(folder / "whole-alone"), sources)
    back = newest(folder / "alone-spread")
    assert read_progress(back).done == read_progress(newest(folder / "whole")).done
    assert ComposedRanker.load(back).ranker.users.num_rows == 81


@pytest.mark.parametrize(("sources", "by"), [(("sarm",), "days"), ((), "days"), (("sarm",), "windows")])
def test_spread_tables_follow_as_whole_ones(tiny: Settings, tmp_path: Path, sources: tuple[str, ...], by: str) -> None:
    """Days bring new authors and users, whose rows move others; all is scored before it is learnt."""
    config = replace(tiny.train, sources=sources, batch_size=32, l2_ids=0.003)
    if by == "windows":
        run_job(windows, tiny)
        window_examples.run(tiny.examples, tiny.open())
        config = replace(config, follow=FollowConfig(by=by, window_s=3600.0))
    follow_on_two(replace(tiny, train=config), tmp_path / "runs", keys=3)
    whole, spread = (newest(tmp_path / "runs" / name) for name in ("whole", "spread"))
    _close(spread, whole, sources)
    first = min((tmp_path / "runs" / "whole").iterdir(), key=lambda of: read_progress(of).step)
    grown = [ComposedRanker.load(of).ranker.authors.num_rows for of in (first, whole)]
    assert grown[1] > grown[0] >= 20
    judged = [read_progress(of).judged for of in (spread, whole)]
    assert len(judged[1]) >= 2
    for one, two in zip(*judged, strict=True):
        assert one["click"] == pytest.approx(two["click"], abs=1e-4)
