"""A ranker that follows windows of seconds, and the deltas of the bank that it makes on its way."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from models import embeddings
from models.artifacts import bank
from models.artifacts.bank_delta import UNTIL, BankDelta, fold
from models.artifacts.delta_store import DeltaStore
from models.artifacts.manifest import ArtifactError
from models.sarm.memory_bank import MemoryBank
from pipelines.ranking import follow, publish
from pipelines.ranking.checkpoint import CATALOG, bank_file, folder_after, state_kind
from pipelines.ranking.evaluate import measured, score_day
from pipelines.ranking.plan import FollowConfig
from pipelines.ranking.published import load
from pipelines.runtime.config import ConfigError, build
from pipelines.samples import window_examples, windows
from pipelines.samples.batches import read_examples
from pipelines.samples.examples import ExamplesConfig
from pipelines.settings import Settings
from pipelines.tables.artifacts import Artifacts
from pipelines.tables.contract import ContractError
from tests.pipelines.conftest import train_here
from tests.pipelines.jobs import run_job
from tests.pipelines.ranking.followed import DAYS, ROOMY, Killed, another, assert_same, follow_here

HOUR_S = 3600.0


def by_windows(settings: Settings, delta_s: float | None = None, **train: Any) -> Settings:
    follow = FollowConfig(by="windows", window_s=HOUR_S, delta_s=delta_s)
    return replace(settings, train=replace(settings.train, batch_size=64, follow=follow, base=False, **train))


@pytest.fixture
def told(tiny: Settings) -> Settings:
    """With the samples that windows are followed by."""
    run_job(windows, tiny)
    window_examples.run(tiny.examples, tiny.open())
    return by_windows(tiny)


@pytest.fixture
def served(told: Settings) -> Settings:
    """And with a ranker of all days but the newest, whose bank is served."""
    train_here(told)
    run_job(publish, replace(told, publish=replace(told.publish, until=DAYS[1])))
    return told


@pytest.mark.parametrize("sparse_from", [ROOMY, 20])
@pytest.mark.parametrize("sources", [("sarm",), ()])
def test_a_run_for_each_day_does_what_one_run_over_all_does(
    told: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sources: tuple[str, ...], sparse_from: int
) -> None:
    monkeypatch.setattr(embeddings, "SPARSE_FROM", sparse_from)
    apart = another(told, tmp_path / "apart")
    whole = follow_here(told, DAYS, tmp_path / "whole", sources)
    for number, day in enumerate(DAYS):
        progress = follow_here(apart, [day], tmp_path / f"run-{number}", sources)
    assert progress.done == whole.done == list(DAYS) and progress.step == whole.step
    assert progress.judged == whole.judged and [of["key"] for of in whole.judged] == list(DAYS)
    last = folder_after(whole)
    assert_same(tmp_path / "whole" / last, tmp_path / "run-2" / last, *sources)


@pytest.mark.parametrize("die_after", [1, 2])
def test_a_run_that_dies_goes_on_within_a_day_to_the_same_bits(told: Settings, tmp_path: Path, die_after: int) -> None:
    settings = replace(told, train=replace(told.train, checkpoint_rows=300))
    apart = another(settings, tmp_path / "apart")
    whole = follow_here(settings, DAYS, tmp_path / "whole")
    with pytest.raises(Killed):
        follow_here(apart, DAYS, tmp_path / "killed", die_after=die_after)
    left = max((tmp_path / "killed").iterdir(), key=lambda folder: folder.stat().st_mtime_ns)
    assert "-and-" in left.name, "the checkpoint is within a day"
    resumed = follow_here(apart, DAYS, tmp_path / "resumed", resume=left)
    assert resumed.judged == whole.judged and resumed.step == whole.step
    assert_same(tmp_path / "whole" / folder_after(whole), tmp_path / "resumed" / folder_after(whole), "sarm")


def test_every_impression_is_scored_once_and_the_first_ones_as_serving_scores_them(
    served: Settings, tmp_path: Path
) -> None:
    """A window as long as the day leaves nothing to learn before the scores."""
    storage = served.open().storage
    ranker, columns = load(Artifacts(storage), "sarm"), read_examples(storage, DAYS[2])
    whole_day = replace(served.train, batch_size=10_000, follow=FollowConfig(by="windows", window_s=24 * HOUR_S))
    once = follow_here(replace(served, train=whole_day), [DAYS[2]], tmp_path / "once").judged[-1]
    scores = score_day(ranker, ranker.states(storage, Artifacts(storage)), DAYS[2], columns)
    wanted = measured(columns, scores, ranker.tasks)
    assert once["examples"] == len(columns["user_id"])
    for task, of in wanted.items():
        assert once[task]["auc"] == pytest.approx(of["auc"], abs=1e-6), task
        assert once[task]["gauc"] == pytest.approx(of["gauc"], abs=1e-6), task


def test_a_line_tells_of_each_hour_before_it_was_learnt(told: Settings, tmp_path: Path) -> None:
    lines: list[str] = []
    settings = replace(told, train=replace(told.train, checkpoint_rows=300))
    follow_here(settings, DAYS[:1], tmp_path, lines=lines)
    hours = [line for line in lines if "before their windows were learnt" in line]
    counts = [int(line.split(" of ")[1].split()[0]) for line in hours]
    assert len(hours) > 4 and len({line.split(" | ")[1] for line in hours}) == len(hours)
    assert sum(counts) == told.open().storage.dataset("examples", DAYS[0]).count_rows()


def deltas_of(settings: Settings) -> tuple[DeltaStore, list[BankDelta]]:
    artifacts = Artifacts(settings.open().storage)
    run_id = artifacts.current("bank")
    assert run_id is not None
    store = DeltaStore.open(artifacts, run_id)
    return store, [store.read(number) for number in range(1, store.newest() + 1)]


def served_now(settings: Settings) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Author ids of the served bank, and what it holds of them after its deltas."""
    artifacts = Artifacts(settings.open().storage)
    folder, manifest = artifacts.verified("bank")
    states, anchor_day = fold(manifest.run_id, bank.read(folder), deltas_of(settings)[1])
    ranker = load(artifacts, manifest.made_from["ranker"], manifest.made_from["model"])
    return ranker.catalog.author_ids, states["sarm"], anchor_day


def test_the_bank_and_its_deltas_are_what_training_holds_in_the_end(served: Settings, tmp_path: Path) -> None:
    settings = by_windows(served, delta_s=2 * HOUR_S)
    progress = follow_here(settings, [DAYS[2]], tmp_path / "follow")
    deltas = deltas_of(settings)[1]
    moments = [delta.until_ts_ms for delta in deltas]
    assert len(deltas) == progress.deltas >= 4 and moments == sorted(set(moments))
    assert min(np.diff(moments)[:-1]) >= 2 * HOUR_S * 1000
    assert any(len(delta.rows) < len(served_now(settings)[1]) for delta in deltas)
    folder = tmp_path / "follow" / folder_after(progress)
    held = MemoryBank.load(folder / bank_file("sarm")).vectors.numpy()
    ids, vectors, _ = served_now(settings)
    catalog = load(Artifacts(settings.open().storage), "sarm").catalog
    rows = catalog.author_rows(ids)
    assert (rows > 0).all() and np.array_equal(vectors[1:], held[rows]) and np.array_equal(vectors[0], held[0])
    before = bank.read(Artifacts(settings.open().storage).fetch("bank")).states["sarm"]
    assert not np.array_equal(vectors, before)


def test_deltas_of_a_bank_of_float16_are_float16(served: Settings, tmp_path: Path) -> None:
    settings = by_windows(served, delta_s=8 * HOUR_S)
    run_job(publish, replace(settings, publish=replace(settings.publish, dtype="float16", until=DAYS[1])))
    progress = follow_here(settings, [DAYS[2]], tmp_path / "follow")
    held = MemoryBank.load(tmp_path / "follow" / folder_after(progress) / bank_file("sarm")).vectors.numpy()
    ids, vectors, _ = served_now(settings)
    rows = load(Artifacts(settings.open().storage), "sarm").catalog.author_rows(ids)
    assert progress.deltas and vectors.dtype == np.float16
    assert np.array_equal(vectors[1:], held[rows].astype(np.float16))


def test_authors_of_the_newest_day_wait_for_the_next_full_bank(told: Settings, tmp_path: Path) -> None:
    by_days = replace(told, train=replace(told.train, follow=FollowConfig()))
    follow_here(by_days, DAYS[:2], tmp_path / "days")
    run_job(publish, replace(told, publish=replace(told.publish, until=DAYS[1])))
    settings = by_windows(told, delta_s=2 * HOUR_S)
    progress = follow_here(settings, [DAYS[2]], tmp_path / "windows")
    held = MemoryBank.load(tmp_path / "windows" / folder_after(progress) / bank_file("sarm")).vectors.numpy()
    ids, vectors, _ = served_now(settings)
    catalog = load(Artifacts(settings.open().storage), "sarm").catalog
    assert set(ids) < set(catalog.author_ids)
    assert np.array_equal(vectors[1:], held[catalog.author_rows(ids)])


def test_the_next_full_bank_of_what_was_trained_is_the_one_before_and_its_deltas(
    served: Settings, tmp_path: Path
) -> None:
    settings = by_windows(served, delta_s=2 * HOUR_S)
    follow_here(settings, [DAYS[2]], tmp_path / "follow")
    ids, vectors, anchor_day = served_now(settings)
    last = deltas_of(settings)[1][-1]
    figures = run_job(publish, replace(settings, publish=replace(settings.publish, vectors="trained")))
    assert figures["how"] == "published" and figures["until"] == DAYS[1]
    artifacts = Artifacts(settings.open().storage)
    full = bank.read(artifacts.fetch("bank"))
    rows = np.append(0, load(artifacts, "sarm").catalog.author_rows(ids))
    assert np.array_equal(full.states["sarm"][rows], vectors)
    assert np.array_equal(full.anchor_day[rows], anchor_day)
    assert artifacts.manifest("bank").made_from[UNTIL] == str(last.until_ts_ms)


def test_a_run_that_dies_publishes_its_deltas_again_to_the_same_bits(served: Settings, tmp_path: Path) -> None:
    settings = by_windows(served, delta_s=2 * HOUR_S, checkpoint_rows=300)
    apart = another(settings, tmp_path / "apart")
    follow_here(settings, [DAYS[2]], tmp_path / "whole")
    with pytest.raises(Killed):
        follow_here(apart, [DAYS[2]], tmp_path / "killed", die_after=2)
    killed = deltas_of(apart)[1]
    folders = sorted((tmp_path / "killed").iterdir(), key=lambda folder: folder.stat().st_mtime_ns)
    follow_here(apart, [DAYS[2]], tmp_path / "resumed", resume=folders[0])
    assert 0 < len(killed) < len(deltas_of(apart)[1])
    assert_equal_deltas(deltas_of(apart)[1], deltas_of(settings)[1])


def test_a_run_that_begins_again_publishes_the_same_deltas(served: Settings, tmp_path: Path) -> None:
    settings = by_windows(served, delta_s=2 * HOUR_S, checkpoint_rows=300)
    with pytest.raises(Killed):
        follow_here(settings, [DAYS[2]], tmp_path / "killed", die_after=2)
    killed = deltas_of(settings)[1]
    follow_here(settings, [DAYS[2]], tmp_path / "again")
    assert_equal_deltas(deltas_of(settings)[1][: len(killed)], killed)


def assert_equal_deltas(mine: Sequence[BankDelta], its: Sequence[BankDelta]) -> None:
    assert len(mine) == len(its)
    for one, two in zip(mine, its, strict=True):
        assert (one.number, one.until_ts_ms) == (two.number, two.until_ts_ms)
        assert np.array_equal(one.rows, two.rows) and np.array_equal(one.anchor_day, two.anchor_day)
        assert all(np.array_equal(state, two.states[name]) for name, state in one.states.items())


def test_an_older_bank_first_learns_what_has_changed_since(served: Settings, tmp_path: Path) -> None:
    run_job(publish, replace(served, publish=replace(served.publish, until=DAYS[0])))
    settings = by_windows(served, delta_s=2 * HOUR_S)
    follow_here(settings, [DAYS[2]], tmp_path / "follow")
    first = deltas_of(settings)[1][0]
    assert first.until_ts_ms % 86_400_000 == 0 and len(first.rows) > 0
    ids, vectors, _ = served_now(settings)
    catalog = load(Artifacts(settings.open().storage), "sarm").catalog
    state = Artifacts(settings.open().storage).fetch(state_kind("sarm"))
    assert (state / CATALOG).is_file()
    held = MemoryBank.load(state / bank_file("sarm")).vectors.numpy()
    assert np.array_equal(vectors[1:], held[catalog.author_rows(ids)])


def test_deltas_do_not_take_a_bank_back_to_what_it_knew_before(served: Settings, tmp_path: Path) -> None:
    run_job(publish, replace(served, publish=replace(served.publish, until=DAYS[2])))
    with pytest.raises(ArtifactError, match=f"publish.until: {DAYS[1]}"):
        follow_here(by_windows(served, delta_s=HOUR_S), [DAYS[2]], tmp_path)


def test_deltas_want_the_bank_of_the_ranker_that_goes_on(served: Settings, tmp_path: Path) -> None:
    settings = by_windows(served, delta_s=HOUR_S)
    follow_here(settings, [DAYS[2]], tmp_path / "one")
    storage = settings.open().storage
    artifacts = Artifacts(storage)
    assert artifacts.current("sarm") != artifacts.manifest("bank").made_from["model"]
    unlearnt = another(served, tmp_path / "apart")
    train_here(unlearnt, number=2)
    with pytest.raises(ArtifactError, match="run the job publish first"):
        follow_here(by_windows(unlearnt, delta_s=HOUR_S), [DAYS[2]], tmp_path / "two")


def test_a_new_ranker_of_which_nothing_is_served_begins_without_deltas(told: Settings, tmp_path: Path) -> None:
    progress = follow_here(by_windows(told, delta_s=HOUR_S), DAYS[:1], tmp_path)
    assert progress.done == [DAYS[0]] and (progress.bank, progress.deltas) == ("", 0)


def test_days_without_window_examples_are_named(tiny: Settings, tmp_path: Path) -> None:
    with pytest.raises(ContractError, match="2026-01-01, 2026-01-02, 2026-01-03.*run the jobs windows and window_ex"):
        follow_here(by_windows(tiny), DAYS, tmp_path)


def test_a_task_without_a_label_is_named(tiny: Settings, tmp_path: Path) -> None:
    fewer = replace(tiny, windows=replace(tiny.windows, tasks=("click", "follow", "long_view")))
    run_job(windows, fewer)
    window_examples.run(ExamplesConfig(history_length=6), tiny.open())
    with pytest.raises(ContractError, match="no gift; name it in windows.tasks"):
        follow_here(by_windows(tiny), DAYS, tmp_path)


@pytest.mark.parametrize(
    "keys", [{"by": "weeks"}, {"delta_s": 60.0}, {"by": "windows", "window_s": 0.0}, {"by": "windows", "delta_s": 0.0}]
)
def test_keys_that_cannot_be(keys: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        build(FollowConfig, keys)


@pytest.mark.ray
def test_two_workers_follow_windows_and_one_publishes_the_deltas(served: Settings) -> None:
    settings = by_windows(served, delta_s=2 * HOUR_S)
    figures = follow.run(settings.train, settings.open())["rankers"]["sarm"]
    assert figures["days"] == [DAYS[2]]
    (judged,) = figures["judged"]
    storage = settings.open().storage
    assert judged["examples"] == storage.dataset("examples", DAYS[2]).count_rows()
    state = Artifacts(storage).fetch(state_kind("sarm"))
    held = MemoryBank.load(state / bank_file("sarm")).vectors.numpy()
    ids, vectors, _ = served_now(settings)
    rows = load(Artifacts(storage), "sarm").catalog.author_rows(ids)
    assert len(deltas_of(settings)[1]) >= 4 and np.array_equal(vectors[1:], held[rows])
    assert figures["examples"] == storage.dataset("window_examples", DAYS[2]).count_rows()
