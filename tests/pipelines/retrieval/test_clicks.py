"""The stream of clicks: all clicks and nothing else, and the parts of workers are the steps of one."""

import numpy as np
import pytest
import torch

from pipelines.retrieval.clicks import Click, ClickStream, Reading, count_clicks, counts_by_author
from pipelines.retrieval.codes_seen import CodesSeen
from pipelines.runtime.run import Run
from pipelines.samples.batches import build_catalog
from pipelines.samples.stream import Cut
from pipelines.semantics.segment_vectors import Space
from pipelines.tables.columns import to_numpy
from tests.pipelines.retrieval.little_platform import DAYS, WIDTH
from tests.pipelines.semantics.embedded import MODEL

READING = Reading(space=Space(model=MODEL, width=WIDTH), mean_days=7)
CUT = Cut(batch_size=32, stretch_rows=70, window=1)


def steps(run: Run, seed: list[int] | None, rank: int = 0, world: int = 1) -> list[Click]:
    catalog, _ = build_catalog(run.storage, DAYS[2])
    stream = ClickStream(run.storage, DAYS[1], READING, CUT, seed=seed, rank=rank, world=world)
    return [click for stretch in stream.after(0) for click in stretch.steps(catalog, READING)]


@pytest.mark.parametrize("seed", [None, [1, 2]])
def test_the_parts_of_two_workers_are_the_steps_of_one(platform: Run, seed: list[int] | None) -> None:
    whole = steps(platform, seed)
    halves = [steps(platform, seed, rank, 2) for rank in range(2)]
    assert len(whole) == len(halves[0]) == len(halves[1]) > 3
    for step, *parts in zip(whole, *halves, strict=True):
        for side in range(2):
            for of, *pieces in zip(step[side], *(part[side] for part in parts), strict=True):
                assert of is None or torch.equal(of, torch.cat(pieces))


def test_every_click_is_learnt_once_and_in_another_order_by_another_seed(platform: Run) -> None:
    rows = to_numpy(platform.storage.read("examples", DAYS[1], ["user_id", "author_id", "ts_ms", "click"]))
    clicked = rows["click"] == 1
    ordered = np.argsort(rows["ts_ms"][clicked], kind="stable")
    assert count_clicks(platform.storage, DAYS[1]) == clicked.sum()
    in_time, shuffled, other = (
        torch.cat([click.lives.author for click in steps(platform, seed)]) for seed in (None, [1, 2], [1, 3])
    )
    assert in_time.tolist() == (rows["author_id"][clicked][ordered] + 1).tolist()
    assert sorted(shuffled.tolist()) == sorted(in_time.tolist())
    assert shuffled.tolist() != other.tolist() != in_time.tolist()
    catalog, _ = build_catalog(platform.storage, DAYS[2])
    counts = counts_by_author(platform.storage, [DAYS[1]], catalog, clicked=True)
    assert counts.tolist() == torch.bincount(in_time, minlength=len(counts)).tolist()
    assert counts_by_author(platform.storage, [DAYS[1]], catalog, clicked=False).sum() == len(clicked)


def test_codes_become_rows_of_one_table() -> None:
    seen = CodesSeen(table="item_codes", codebook="b", clusters=(5, 8, 3))
    rows = seen.rows(np.array([[-1, -1, -1, 4, 7, 2], [0, 0, 0, 1, -1, 1]]), length=2)
    assert rows.tolist() == [[[0, 0, 0], [5, 13, 16]], [[1, 6, 14], [2, 0, 15]]] and seen.num_rows == 17
    with pytest.raises(ValueError, match="history_item_codes: wanted 3 codes of each of 4 clicks, got 6 numbers"):
        seen.rows(np.zeros((1, 6)), length=4)
