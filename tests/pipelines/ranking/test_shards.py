"""Id tables that are spread over two workers, against the same tables whole in both."""

from pathlib import Path
from typing import Any

import pytest
import torch

from models.sarm.memory_bank import MemoryBank
from pipelines.ranking.checkpoint import bank_file, read_progress
from pipelines.settings import Settings
from tests.pipelines.ranking.sharded_runs import Run, by_row, checkpoints, on_workers, weights

# Gradients of a row are added up in another order, and a small difference grows a little with every step.
CLOSE: dict[str, Any] = {"rtol": 1e-3, "atol": 1e-5}
LONG: dict[str, Any] = {"epochs": 2, "batch_size": 16, "l2_ids": 0.003}


def _same(one: Path, two: Path) -> None:
    """Bit for bit: weights, and all that the optimizer knows of rows."""
    first, second = weights(one), weights(two)
    assert first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)
    for left, right in zip(by_row(one), by_row(two), strict=True):
        assert left["now"] == right["now"]
        assert all(torch.equal(left[name], right[name]) for name in ("moments", "come_to"))


@pytest.mark.parametrize("sources", [("sarm",), ()])
def test_spread_tables_are_learnt_as_whole_ones(tiny: Settings, tmp_path: Path, sources: tuple[str, ...]) -> None:
    """With rows that miss steps and catch up, of encoders that ask for rows of a whole window, and an L2 term."""
    train = {**LONG, "sources": sources}
    runs = [Run(name=name, sharded=name == "sharded", train=train) for name in ("whole", "sharded")]
    on_workers(tiny, tmp_path / "runs", runs)
    whole, sharded = (checkpoints(tmp_path / "runs" / of.name)[-1] for of in runs)
    assert read_progress(whole).step > 60
    torch.testing.assert_close(weights(sharded), weights(whole), **CLOSE)
    for one, two in zip(by_row(sharded), by_row(whole), strict=True):
        assert one["now"] == two["now"] and torch.equal(one["come_to"], two["come_to"])
        torch.testing.assert_close(one["moments"], two["moments"], **CLOSE)
    for source in sources:
        banks = [MemoryBank.load(of / bank_file(source)).vectors for of in (sharded, whole)]
        torch.testing.assert_close(*banks, **CLOSE)
