"""Stretches of a day, and the shares of several workers."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch

from models.batch import RankingBatch
from models.catalog import Catalog
from pipelines.samples.batches import build_catalog, read_examples
from pipelines.samples.stream import Cut, DayStream, Stretch
from pipelines.settings import Settings

DAY = "2026-01-02"


def _stream(tiny: Settings, cut: Cut, seed: Sequence[int] | None = (0, 1), **worker: int) -> DayStream:
    storage = tiny.open().storage
    return DayStream(storage, DAY, _catalog(tiny), cut, seed=seed, tasks=["click"], **worker)


def _catalog(tiny: Settings) -> Catalog:
    return build_catalog(tiny.open().storage, "2026-01-03")[0]


def _day(tiny: Settings) -> dict[str, Any]:
    return read_examples(tiny.open().storage, DAY)


def _cut(rows: int, stretches: int, batch_size: int = 20, window: int = 2) -> Cut:
    return Cut(batch_size=batch_size, stretch_rows=-(-rows // stretches), window=window)


def _impressions(stretches: Sequence[Stretch]) -> list[int]:
    return [int(i) for stretch in stretches for i in stretch.columns["impression_id"]]


@pytest.mark.parametrize("stretches", [1, 3])
def test_the_order_of_time_is_that_of_the_day(tiny: Settings, stretches: int) -> None:
    day = _day(tiny)
    cut = _cut(len(day["user_id"]), stretches)
    found = list(_stream(tiny, cut, seed=None).after(0))
    assert len(found) == stretches and [stretch.number for stretch in found] == list(range(stretches))
    assert _impressions(found) == day["impression_id"].tolist()
    labels = torch.cat([batch.labels[:, 0] for stretch in found for batch in stretch.batches])
    assert labels.tolist() == day["click"].tolist()
    sizes = [size for stretch in found for size in stretch.sizes]
    assert sum(sizes) == len(day["user_id"]) and max(sizes) <= cut.batch_size
    assert len(sizes) == cut.num_steps(len(day["user_id"]))


@pytest.mark.parametrize("world", [1, 2, 3])
def test_workers_share_a_day_without_loss_or_overlap(tiny: Settings, world: int) -> None:
    day = _day(tiny)
    cut = _cut(len(day["user_id"]), 4)
    shares = [list(_stream(tiny, cut, rank=rank, world=world).after(0)) for rank in range(world)]
    assert sorted(_impressions([s for share in shares for s in share])) == sorted(day["impression_id"].tolist())
    for same in zip(*shares, strict=True):
        assert len({(stretch.number, len(stretch.batches), tuple(stretch.sizes)) for stretch in same}) == 1
        rows = [[batch.size for batch in stretch.batches] for stretch in same]
        assert np.sum(rows, axis=0).tolist() == list(same[0].sizes)
        assert all(max(step) - min(step) <= 1 for step in zip(*rows, strict=True))


@pytest.mark.parametrize("seed", [None, (0, 1)])
@pytest.mark.parametrize("world", [1, 2, 3])
def test_workers_learn_a_window_from_one_block_of_time(tiny: Settings, world: int, seed: Sequence[int] | None) -> None:
    """That which one worker would learn it from: so their order of blocks is the same too."""
    cut = _cut(len(_day(tiny)["user_id"]), 4, window=3)
    alone = list(_stream(tiny, cut, seed).after(0))
    shares = [list(_stream(tiny, cut, seed, rank=rank, world=world).after(0)) for rank in range(world)]
    for stretches in zip(alone, *shares, strict=True):
        for whole, *parts in zip(*(stretch.windows(cut.window) for stretch in stretches), strict=True):
            wanted, found = _rows(whole), sum((_rows(part) for part in parts), Counter[bytes]())
            # Parts are cut by row, so that one at either end of a block may be in the next one.
            assert (wanted & found).total() >= wanted.total() - 2 * world


def _rows(window: Sequence[tuple[RankingBatch, int]]) -> Counter[bytes]:
    """What tells examples apart, in any order."""
    return Counter(
        np.append(age.numpy(), [user, author]).tobytes()
        for batch, _ in window
        for user, author, age in zip(batch.user.tolist(), batch.author.tolist(), batch.history_age_s, strict=True)
    )


def test_a_random_order_is_that_of_its_seed(tiny: Settings) -> None:
    cut = _cut(len(_day(tiny)["user_id"]), 5)

    def order(seed: Sequence[int]) -> list[list[int]]:
        return [batch.user.tolist() for stretch in _stream(tiny, cut, seed).after(0) for batch in stretch.batches]

    assert order((0, 1)) == order((0, 1)) != order((0, 2))
    firsts = [stretch.columns["ts_ms"].min() for stretch in _stream(tiny, cut).after(0)]
    assert firsts != sorted(firsts)


def test_what_is_left_of_a_day_is_what_would_have_come(tiny: Settings) -> None:
    cut = _cut(len(_day(tiny)["user_id"]), 5)
    whole = list(_stream(tiny, cut).after(0))
    left = list(_stream(tiny, cut).after(3))
    assert [stretch.number for stretch in left] == [3, 4]
    assert _impressions(left) == _impressions(whole[3:])
    for one, two in zip(left, whole[3:], strict=True):
        for mine, its in zip(one.batches, two.batches, strict=True):
            assert all(torch.equal(a, b) for a, b in zip(mine[:-2], its[:-2], strict=True))
    assert list(_stream(tiny, cut).after(5)) == []


def test_windows_end_with_their_stretch(tiny: Settings) -> None:
    cut = _cut(len(_day(tiny)["user_id"]), 2)
    for stretch in _stream(tiny, cut).after(0):
        windows = list(stretch.windows(4))
        assert [len(window) for window in windows[:-1]] == [4] * (len(windows) - 1)
        assert sum(map(len, windows)) == len(stretch.batches)


def test_too_many_workers_for_a_stretch_are_refused(tiny: Settings) -> None:
    cut = _cut(len(_day(tiny)["user_id"]), 2, batch_size=3)
    with pytest.raises(ValueError, match="too few for 4 workers; use fewer"):
        next(_stream(tiny, cut, rank=0, world=4).after(0))
