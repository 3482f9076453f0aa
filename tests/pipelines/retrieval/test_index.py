"""The job index: each live by its newest known segment, over where it is silent; a new version where there is news."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.artifacts.live_index import NO_END, LiveIndex
from models.artifacts.manifest import ArtifactError
from pipelines.retrieval import index
from pipelines.retrieval.index import IndexConfig
from pipelines.runtime.cluster import ClusterConfig
from pipelines.runtime.run import Run
from pipelines.tables import rejections
from pipelines.tables.artifacts import Artifacts
from pipelines.tables.contract import ContractError
from pipelines.tables.storage import Storage
from tests.pipelines.retrieval.item_rows import DAY_MS, DAYS, publish_towers, row, write

CONFIG = IndexConfig()


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Live 7 began at 0 s and goes on; 3 has been silent since 60 s; 5 is of the next day."""
    storage = Storage.open(str(tmp_path / "store"))
    publish_towers(storage, tmp_path / "towers")
    write(
        storage,
        DAYS[0],
        [row(7, 0, 30, [1, 0]), row(7, 2, 90, [3, 0]), row(3, 0, 30, [0, 1]), row(7, 1, 60, [2, 0])],
        [row(3, 1, 60, [0, 2]), row(7, 3, 185, [4, 0])],
    )
    return Run(seed=0, folder=tmp_path, storage=storage, cluster=ClusterConfig())


def published(run: Run) -> LiveIndex:
    return LiveIndex.load(Artifacts(run.storage).fetch("live_index"))


def test_a_live_has_the_vector_of_its_newest_segment_and_ends_where_it_is_silent(run: Run) -> None:
    figures = index.run(CONFIG, run)
    made = published(run)
    assert made.live_ids.tolist() == [3, 7] and made.author_ids.tolist() == [103, 107]
    assert made.vectors.tolist() == [[0.0, 2.0], [4.0, 0.0]] and made.vectors.dtype == np.float32
    assert (made.start_ts_ms - DAY_MS).tolist() == [0, 0]
    # Live 3 was last seen 125 s before the newest end of all, 5 s more than may be.
    assert made.end_ts_ms.tolist() == [DAY_MS + 60_000, NO_END]
    assert made.until_ts_ms == DAY_MS + 185_000
    assert (figures["lives"], figures["on_air"], figures["segments"]) == (2, 1, 6)
    manifest = Artifacts(run.storage).manifest("live_index")
    assert manifest.made_from["towers"] == "t1"
    assert manifest.made_from[f"item_vectors/{DAYS[0]}"] == run.storage.listing("item_vectors").stamp(DAYS[0])


@pytest.mark.parametrize(
    ("until_s", "vectors", "ends"),
    [(29.999, None, None), (30, [[0, 1], [1, 0]], [NO_END] * 2), (89.999, [[0, 2], [2, 0]], [NO_END] * 2)],
)
def test_what_was_not_known_then_has_no_say(run: Run, until_s: float, vectors: Any, ends: Any) -> None:
    asked = replace(CONFIG, until_ts_ms=DAY_MS + round(1000 * until_s))
    if vectors is None:
        with pytest.raises(ContractError, match="6 that end after 1767225629999; run the job item_vectors"):
            index.run(asked, run)
        return
    index.run(asked, run)
    made = published(run)
    assert made.vectors.tolist() == vectors and made.end_ts_ms.tolist() == ends
    assert made.until_ts_ms == DAY_MS + round(1000 * until_s)


def test_news_make_a_version_and_nothing_new_makes_none(run: Run) -> None:
    first = index.run(CONFIG, run)
    assert index.run(CONFIG, run) == {"run_id": first["run_id"], "how": "current"}
    write(run.storage, DAYS[1], [row(5, 0, 200, [5, 5])])
    second = index.run(CONFIG, run)
    assert second["run_id"] != first["run_id"] and second["days"] == [*DAYS[:2]]
    assert published(run).live_ids.tolist() == [3, 5, 7]
    # A live of the day before is found as long as that day is read.
    assert index.run(replace(CONFIG, days=1), run)["lives"] == 1
    assert index.run(replace(CONFIG, silent_s=600.0), run)["on_air"] == 3


def test_rows_of_other_towers_are_left_out_and_counted(run: Run, tmp_path: Path) -> None:
    write(run.storage, DAYS[1], [row(5, 0, 200, [5, 5], towers="t0"), row(6, 0, 200, [6, 6])])
    figures = index.run(CONFIG, run)
    assert figures["of_other_towers"] == 1 and published(run).live_ids.tolist() == [3, 6, 7]
    publish_towers(run.storage, tmp_path / "newer", "t2")
    with pytest.raises(ContractError, match="published towers t2, got none: 1 of t0, 7 of t1 of other towers"):
        index.run(CONFIG, run)
    assert Artifacts(run.storage).current("live_index") == figures["run_id"]


def test_bad_rows_are_told_and_the_segment_before_counts(run: Run) -> None:
    bad = [row(7, 4, 215, [float("nan"), 0]), row(7, 5, 245, [1, 2, 3]), row(7, 6, 275, [1, None]), row(7, 7, 305, [])]
    write(run.storage, DAYS[1], bad)
    assert index.run(CONFIG, run)["refused"] == 4
    assert published(run).vectors[1].tolist() == [4.0, 0.0] and published(run).until_ts_ms == DAY_MS + 185_000
    told = rejections.of_stage(run.storage, DAYS[1], "live_index").to_pylist()
    assert [each["key"] for each in told] == ["107 7 4", "107 7 5", "107 7 6", "107 7 7"]
    assert "wanted finite numbers, got nan at place 0; run the job item_vectors" in told[0]["detail"]
    assert "wanted 2 numbers, as of others, got 3 numbers" in told[1]["detail"]
    assert "got null at place 1" in told[2]["detail"] and "got 0 numbers" in told[3]["detail"]
    write(run.storage, DAYS[1], [row(7, 4, 215, [9, 9])])
    index.run(CONFIG, run)
    assert rejections.of_stage(run.storage, DAYS[1], "live_index").num_rows == 0


def test_what_is_missing_is_said(tmp_path: Path) -> None:
    storage = Storage.open(str(tmp_path / "store"))
    empty = Run(seed=0, folder=tmp_path, storage=storage, cluster=ClusterConfig())
    with pytest.raises(ArtifactError, match="run the job towers first"):
        index.run(CONFIG, empty)
    publish_towers(storage, tmp_path / "towers")
    with pytest.raises(ContractError, match="wanted at least one day up to today, got none; run the job item_vectors"):
        index.run(CONFIG, empty)
    write(storage, DAYS[1], [row(5, 0, 90_000, [5, 5])])
    with pytest.raises(ContractError, match=f"one day up to {DAYS[0]}, got {DAYS[1]}"):
        index.run(replace(CONFIG, until_ts_ms=DAY_MS), empty)


def test_older_versions_go(run: Run) -> None:
    for silent_s in (10.0, 20.0, 30.0, 40.0):
        last = index.run(replace(CONFIG, silent_s=silent_s, keep=2), run)
    kept = Artifacts(run.storage).versions("live_index")
    assert len(kept) == 2 and last["run_id"] in kept


@settings(max_examples=25, deadline=None)
@given(
    segments=st.lists(st.tuples(st.integers(0, 4), st.integers(1, 12)), min_size=1, max_size=40, unique=True),
    until=st.one_of(st.none(), st.integers(2, 14)),
    batch=st.integers(1, 7),
    silent=st.integers(0, 5),
)
def test_any_segments_in_any_order_and_batches(
    tmp_path_factory: pytest.TempPathFactory,
    segments: list[tuple[int, int]],
    until: int | None,
    batch: int,
    silent: int,
) -> None:
    """Beside a slow reference: segments are (live, end in units of 30 s), each with a vector of its own."""
    folder = tmp_path_factory.mktemp("index")
    storage = Storage.open(str(folder / "store"))
    publish_towers(storage, folder / "towers")
    write(storage, DAYS[0], [row(live, end, 30 * end, [live, end]) for live, end in segments])
    config = IndexConfig(silent_s=30.0 * silent, until_ts_ms=None if until is None else DAY_MS + 30_000 * until)
    known = [(live, end) for live, end in segments if until is None or end <= until]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(index, "_BATCH_ROWS", batch)
        asked = Run(seed=0, folder=folder, storage=storage, cluster=ClusterConfig())
        if not known:
            with pytest.raises(ContractError, match=f"{len(segments)} that end after"):
                index.run(config, asked)
            return
        index.run(config, asked)
    made = LiveIndex.load(Artifacts(storage).fetch("live_index"))
    now = until or max(end for _, end in known)
    assert made.live_ids.tolist() == sorted({live for live, _ in known})
    for place, live in enumerate(made.live_ids.tolist()):
        ends = [end for other, end in known if other == live]
        assert made.author_ids[place] == 100 + live and made.vectors[place].tolist() == [live, max(ends)]
        assert made.start_ts_ms[place] == DAY_MS + 30_000 * (min(ends) - 1)
        is_over = max(ends) < now - silent
        assert made.end_ts_ms[place] == (DAY_MS + 30_000 * max(ends) if is_over else NO_END)


def test_more_lives_than_are_all_compared_have_cells(run: Run) -> None:
    assert "cells" not in index.run(replace(CONFIG, exact_up_to=2), run) and published(run).cells is None
    figures, made = index.run(replace(CONFIG, exact_up_to=1), run), published(run)
    assert made.cells is not None and figures["how"] == "published"
    assert (figures["cells"], figures["recall"]) == (len(made.cells.centroids), 1.0)
    assert figures["probes"] == made.cells.probes and len(made.cells.cells) == 2


def test_a_recall_that_nothing_can_have_is_refused() -> None:
    with pytest.raises(ValueError, match="recall: wanted above 0 and up to 1, got 1.5"):
        IndexConfig(recall=1.5)
