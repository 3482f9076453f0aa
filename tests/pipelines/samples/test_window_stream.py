"""Spans of a day: whole windows, each row once, the same for all workers, and none told of before it was shown."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch

from pipelines.samples import window_examples, windows
from pipelines.samples.batches import build_catalog
from pipelines.samples.stream import Cut
from pipelines.samples.window_stream import SpanShare, WindowStream, num_steps, spans_of
from pipelines.settings import Settings
from tests.pipelines.jobs import run_job

DAY, START_MS, DAY_MS = "2026-01-02", 1_767_312_000_000, 86_400_000
CUT = Cut(batch_size=50, stretch_rows=400, window=2)


@pytest.fixture
def told(tiny: Settings) -> Settings:
    run_job(windows, tiny)
    window_examples.run(tiny.examples, tiny.open())
    return tiny


def stream(settings: Settings, **worker: int) -> WindowStream:
    storage = settings.open().storage
    catalog = build_catalog(storage, DAY)[0]
    return WindowStream(storage, DAY, catalog, CUT, window_ms=30_000, seed=[0], tasks=["click", "gift"], **worker)


def ids(shares: Sequence[SpanShare], part: str) -> list[int]:
    columns = [share.shown if part == "shown" else share.told.columns for share in shares]
    return [int(number) for of in columns if of for number in of["impression_id"]]


@pytest.mark.parametrize("window_ms", [30_000, 3_600_000, DAY_MS, 50_000_000])
def test_every_row_is_in_the_span_of_its_moment(told: Settings, window_ms: int) -> None:
    storage, spans = told.open().storage, spans_of(told.open().storage, DAY, window_ms, CUT)
    shown = np.sort(storage.read("examples", DAY)["ts_ms"].to_numpy())
    reported = np.sort(storage.read("window_examples", DAY)["window_end_ms"].to_numpy())
    assert spans[0].shown.start == spans[0].told.start == 0
    assert (spans[-1].shown.stop, spans[-1].told.stop) == (len(shown), len(reported))
    assert spans[-1].until_ms == START_MS + DAY_MS
    for before, span in zip([None, *spans], spans, strict=False):
        assert before is None or (before.shown.stop, before.told.stop) == (span.shown.start, span.told.start)
        assert (span.until_ms - START_MS) % window_ms == 0 or span is spans[-1]
        assert len(span.told) >= CUT.batch_size
        assert (shown[span.shown.start : span.shown.stop] < span.until_ms).all()
        assert (reported[span.told.start : span.told.stop] <= span.until_ms).all()
        if before is not None:
            assert (shown[span.shown.start :] >= before.until_ms).all()
            assert (reported[span.told.start :] > before.until_ms).all()


@pytest.mark.parametrize("world", [1, 2, 3])
def test_workers_share_each_span_without_loss_or_overlap(told: Settings, world: int) -> None:
    shares = [list(stream(told, rank=rank, world=world).after(0)) for rank in range(world)]
    storage = told.open().storage
    for table, part in (("examples", "shown"), ("window_examples", "told")):
        wanted = storage.read(table, DAY)["impression_id"].to_pylist()
        assert sorted(ids([s for of in shares for s in of], part)) == sorted(wanted)
    for same in zip(*shares, strict=True):
        of = {(s.until_ms, s.told.number, len(s.told.batches), tuple(s.told.sizes)) for s in same}
        assert len(of) == 1
        assert sum(same[0].told.sizes) == sum(len(s.told.columns["user_id"]) for s in same)
    spans = spans_of(storage, DAY, 30_000, CUT)
    assert sum(len(s.told.sizes) for s in shares[0]) == num_steps(spans, CUT)


def test_what_is_left_of_a_day_is_what_would_have_come(told: Settings) -> None:
    whole = list(stream(told).after(0))
    for done in (1, len(whole) // 2, len(whole)):
        left = list(stream(told).after(done))
        assert [share.until_ms for share in left] == [share.until_ms for share in whole[done:]]
        for one, two in zip(left, whole[done:], strict=True):
            assert _same(one, two)


def _same(one: SpanShare, two: SpanShare) -> bool:
    batches = zip(one.told.batches, two.told.batches, strict=True)
    alike: list[Any] = [(a == b).all() for mine, its in batches for a, b in zip(mine[:-1], its[:-1], strict=True)]
    return all(alike) and ids([one], "shown") == ids([two], "shown")


def test_labels_come_with_their_masks(told: Settings) -> None:
    rows = told.open().storage.read("window_examples", DAY)
    wanted = {name: rows[name].to_numpy().sum() for name in ("click", "gift", "mask_click", "mask_gift")}
    batches = [batch for share in stream(told).after(0) for batch in share.told.batches]
    labels, masks = torch.cat([b.labels for b in batches]).sum(0), torch.cat([b.label_mask for b in batches]).sum(0)
    assert labels.tolist() == [wanted["click"], wanted["gift"]]
    assert masks.tolist() == [wanted["mask_click"], wanted["mask_gift"]] and wanted["mask_click"] < rows.num_rows
