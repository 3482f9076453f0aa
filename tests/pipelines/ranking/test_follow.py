"""A ranker that follows its days: run after run, and in one run."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from models import embeddings
from models.artifacts.manifest import Manifest
from models.sarm.memory_bank import MemoryBank
from models.sarm.model import SARM
from pipelines.ranking import evaluate, follow, gate, publish
from pipelines.ranking.checkpoint import (
    BEST,
    CATALOG,
    OPTIMIZER,
    SEEN,
    bank_file,
    folder_after,
    read_progress,
    state_kind,
)
from pipelines.ranking.following import follow as go_on
from pipelines.ranking.published import load
from pipelines.ranking.worker import Worker
from pipelines.runtime.config import ConfigError
from pipelines.runtime.watch import WatchConfig, watched
from pipelines.samples.batches import build_catalog, read_examples
from pipelines.semantics import vocabulary
from pipelines.settings import Settings
from pipelines.tables.artifacts import Artifacts
from pipelines.tables.storage import Storage
from tests.pipelines.conftest import train_here
from tests.pipelines.curves import curves
from tests.pipelines.jobs import run_job
from tests.pipelines.ranking.followed import DAYS, ROOMY, Killed, another, assert_same, follow_here, plan_of


@pytest.mark.parametrize("sparse_from", [ROOMY, 20])
@pytest.mark.parametrize("sources", [("sarm",), ()])
def test_a_run_for_each_day_does_what_one_run_over_all_does(
    tiny: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sources: tuple[str, ...], sparse_from: int
) -> None:
    monkeypatch.setattr(embeddings, "SPARSE_FROM", sparse_from)
    apart = another(tiny, tmp_path / "apart")
    whole = follow_here(tiny, DAYS, tmp_path / "whole", sources)
    for number, day in enumerate(DAYS):
        progress = follow_here(apart, [day], tmp_path / f"run-{number}", sources)
    assert progress.done == whole.done == list(DAYS) and progress.step == whole.step
    assert progress.judged == whole.judged and [of["key"] for of in whole.judged] == list(DAYS[1:])
    last = folder_after(whole)
    assert_same(tmp_path / "whole" / last, tmp_path / "run-2" / last, *sources)


@pytest.mark.parametrize("die_after", [1, 2, 4])
def test_a_run_that_dies_goes_on_within_a_day_to_the_same_bits(tiny: Settings, tmp_path: Path, die_after: int) -> None:
    settings = replace(tiny, train=replace(tiny.train, stretch_rows=500, checkpoint_rows=1))
    apart = another(settings, tmp_path / "apart")
    whole = follow_here(settings, DAYS, tmp_path / "whole")
    with pytest.raises(Killed):
        follow_here(apart, DAYS, tmp_path / "killed", die_after=die_after)
    left = sorted((tmp_path / "killed").iterdir(), key=lambda folder: folder.stat().st_mtime_ns)
    resumed = follow_here(apart, DAYS, tmp_path / "resumed", resume=left[-1])
    assert resumed.judged == whole.judged and resumed.step == whole.step
    assert_same(tmp_path / "whole" / folder_after(whole), tmp_path / "resumed" / folder_after(whole), "sarm")


def test_what_a_day_showed_before_it_was_learnt_is_told_once_and_stands_in_its_lines(
    tiny: Settings, tmp_path: Path
) -> None:
    """Also where a run dies after it has told it, and goes on from the checkpoint before the day."""
    lines: list[str] = []
    killed, resumed = tmp_path / "killed", tmp_path / "resumed"
    first, second = killed / f"after-1-{DAYS[0]}", resumed / f"after-2-{DAYS[1]}"
    with watched(WatchConfig(), tmp_path, "run", "sarm", {}) as watch, pytest.raises(Killed):
        follow_here(tiny, DAYS, killed, die_after=2, watch=watch)
    with watched(WatchConfig(), tmp_path, "run", "sarm", {}) as watch:
        progress = follow_here(tiny, DAYS, resumed, lines=lines, watch=watch, resume=first)
    found = curves(tmp_path / "tensorboard" / "run")
    assert [step for step, _ in found["loss/click"]] == [point["step"] for point in progress.curve]
    ends = [read_progress(folder).step for folder in (first, second)]
    for name in ("auc", "gauc", "normalised_entropy", "calibration"):
        told = [(end + 1, pytest.approx(of["click"][name])) for end, of in zip(ends, progress.judged, strict=True)]
        assert found[f"before_learning/click_{name}"] == told
    said = [line for line in lines if "| step " in line]
    for day, of in zip(DAYS[1:], progress.judged, strict=True):
        (of_day,) = {line.partition("click GAUC before ")[2][:6] for line in said if f"| {day} |" in line}
        assert of_day == f"{of['click']['gauc']:.4f}"


def test_a_day_is_scored_before_it_is_learnt_as_the_ranker_of_the_days_before_scores_it(
    tiny: Settings, tmp_path: Path
) -> None:
    follow_here(tiny, DAYS[:2], tmp_path / "before")
    storage = tiny.open().storage
    ranker = load(Artifacts(storage), "sarm")
    columns = read_examples(storage, DAYS[2])
    scores = evaluate.score_day(ranker, ranker.states(storage, Artifacts(storage)), DAYS[2], columns)
    wanted = evaluate.measured(columns, scores, ranker.tasks)
    judged = follow_here(tiny, [DAYS[2]], tmp_path / "after").judged[-1]
    assert judged["examples"] == len(columns["user_id"])
    for task, of in wanted.items():
        assert judged[task]["auc"] == pytest.approx(of["auc"], abs=1e-6)
        assert judged[task]["gauc"] == pytest.approx(of["gauc"], abs=1e-6)
        assert judged[task]["calibration"] == pytest.approx(
            scores[:, list(wanted).index(task)].sum() / columns[task].sum(), rel=1e-4
        )


def test_users_and_authors_are_admitted_with_their_day_and_forgotten_when_they_stay_away(
    tiny: Settings, tmp_path: Path
) -> None:
    lines: list[str] = []
    follows = replace(tiny.train.follow, forget_days=1)
    settings = replace(tiny, train=replace(tiny.train, follow=follows))
    follow_here(settings, DAYS[:1], tmp_path / "one", lines=lines)
    storage = tiny.open().storage
    first = load(Artifacts(storage), "sarm").catalog
    assert first.author_ids.tolist() == build_catalog(storage, DAYS[0])[0].author_ids.tolist()
    follow_here(settings, DAYS[1:], tmp_path / "two", lines=lines)
    last = load(Artifacts(storage), "sarm").catalog
    known = build_catalog(storage, DAYS[2])[0].author_ids
    new = set(known.tolist()) - set(first.author_ids.tolist())
    assert new and new <= set(last.author_ids.tolist())
    gone = set(known.tolist()) - set(last.author_ids.tolist())
    lately = [read_examples(storage, day) for day in DAYS[1:2]]
    shown = {int(a) for day in lately for name in ("author_id", "history_author_ids") for a in day[name].ravel()}
    assert gone and not gone & shown
    said = [line for line in lines if "forgotten" in line]
    assert len(said) == 3 and f"authors {len(last.author_ids)}:" in said[-1]


def test_what_an_author_has_learnt_stays_his_when_others_come(tiny: Settings, tmp_path: Path) -> None:
    """Rows are places among sorted ids: an id that comes between moves all behind it."""
    plan, made_from = plan_of(tiny, DAYS[:1], ())
    settings = replace(tiny, train=replace(tiny.train, follow=replace(tiny.train.follow, rate=1e-9)))
    follow_here(settings, DAYS[:1], tmp_path / "one", ())
    before = load(Artifacts(tiny.open().storage), "base")
    follow_here(settings, DAYS[1:], tmp_path / "two", ())
    after = load(Artifacts(tiny.open().storage), "base")
    stay = np.intersect1d(before.catalog.author_ids, after.catalog.author_ids)
    assert len(stay) == len(before.catalog.author_ids) < len(after.catalog.author_ids)
    weights = [r.model.ranker.authors.weight[torch.from_numpy(r.catalog.author_rows(stay))] for r in (before, after)]
    torch.testing.assert_close(weights[0], weights[1], atol=1e-5, rtol=0.0)
    assert (before.catalog.author_rows(stay) != after.catalog.author_rows(stay)).any(), "nobody had to move"


def test_it_goes_on_from_a_ranker_that_was_trained(tiny: Settings, tmp_path: Path) -> None:
    train_here(replace(tiny, train=replace(tiny.train, base=False)))
    storage = tiny.open().storage
    trained, columns = load(Artifacts(storage), "sarm"), read_examples(storage, DAYS[2])
    scores = evaluate.score_day(trained, trained.states(storage, Artifacts(storage)), DAYS[2], columns)
    progress = follow_here(tiny, DAYS, tmp_path / "follow")
    assert progress.done == list(DAYS) and [of["key"] for of in progress.judged] == [DAYS[2]]
    wanted = evaluate.measured(columns, scores, trained.tasks)["click"]
    assert progress.judged[0]["click"]["auc"] == pytest.approx(wanted["auc"], abs=1e-6)
    assert load(Artifacts(storage), "sarm").days == list(DAYS)
    bank = MemoryBank.load(tmp_path / "follow" / folder_after(progress) / bank_file("sarm"))
    assert (bank.written_step >= 0).all(), "an author who is not shown keeps what serving reads of him"


def test_a_run_that_died_before_it_published_the_ranker_is_ended_by_the_next(tiny: Settings, tmp_path: Path) -> None:
    settings = replace(tiny, train=replace(tiny.train, base=False))
    follow_here(settings, DAYS[:2], tmp_path / "one")
    artifacts = Artifacts(tiny.open().storage)
    plan, made_from = plan_of(settings, DAYS, ("sarm",))
    progress = go_on(
        plan, tiny.open().storage, made_from,
        work=tmp_path / "two", worker=Worker(), report=lambda *_: None, log_line=lambda _: None,
    )  # fmt: skip
    artifacts.publish(state_kind("sarm"), tmp_path / "two" / folder_after(progress), "ahead", made_from)
    assert artifacts.current("sarm") == f"{DAYS[1]}-x"
    assert run_follow(settings)["rankers"]["sarm"] == {"run_id": "ahead", "how": "published"}
    assert artifacts.current("sarm") == "ahead"
    assert run_follow(settings)["rankers"]["sarm"] == {"run_id": "ahead", "how": "current"}


def run_follow(settings: Settings) -> dict[str, Any]:
    return follow.run(settings.train, settings.open())


def test_sources_whose_codes_are_those_of_their_days_are_refused(tiny: Settings) -> None:
    settings = replace(tiny, train=replace(tiny.train, sources=("tags",)))
    with pytest.raises(ConfigError, match="tags cannot be followed"):
        run_follow(settings)


def test_what_only_following_needs_is_not_published_with_the_ranker(tiny: Settings, tmp_path: Path) -> None:
    follow_here(tiny, DAYS[:1], tmp_path / "one")
    artifacts = Artifacts(tiny.open().storage)
    published = {file.name for file in artifacts.fetch("sarm").iterdir()}
    assert CATALOG in published and not published & {OPTIMIZER, SEEN, BEST, bank_file("sarm")}
    assert {OPTIMIZER, SEEN, bank_file("sarm")} <= {file.name for file in artifacts.fetch(state_kind("sarm")).iterdir()}
    Manifest.verify(artifacts.fetch("sarm"))


@pytest.mark.ray
def test_the_job_follows_both_rankers_and_a_bank_goes_out_by_what_the_day_showed(tiny: Settings) -> None:
    settings = replace(
        tiny, publish=replace(tiny.publish, ranker="sarm", gate=gate.GateConfig(rule="floor", floor=0.3))
    )
    figures = run_follow(settings)["rankers"]
    assert figures.keys() == {"sarm", "base"}
    for name, of in figures.items():
        assert of["how"] == "begun" and of["days"] == list(DAYS) and len(of["judged"]) == 2, name
    assert {of["how"] for of in run_follow(settings)["rankers"].values()} == {"current"}
    published = run_job(publish, settings)
    assert published["how"] == "published" and published["model"] == figures["sarm"]["run_id"]
    storage = Storage.open(settings.storage.root)
    assert Artifacts(storage).current(state_kind("sarm")) == figures["sarm"]["run_id"]


def test_an_extended_vocabulary_is_gone_on_with(tiny: Settings, tmp_path: Path) -> None:
    """A longer token begins with what the tokens that it takes the place of have learnt, before the day is scored."""
    storage = tiny.open().storage
    newest = DAYS[-1]
    held = tmp_path / "held"
    shutil.move(storage.folder("anchors", newest), held)
    shutil.rmtree(Path(storage.root) / "artifacts" / "tokenizer")
    run_job(vocabulary, replace(tiny, vocabulary=replace(tiny.vocabulary, test_days=0)))
    follow_here(tiny, DAYS[:2], tmp_path / "before")
    before = load(Artifacts(storage), "sarm").model.source("sarm")
    shutil.move(held, storage.folder("anchors", newest))
    more = replace(tiny.vocabulary, test_days=0, min_frequency=10)
    extended = run_job(vocabulary, replace(tiny, vocabulary=more))
    assert extended["how"] in ("extended", "trained")
    progress = follow_here(tiny, [newest], tmp_path / "after")
    after = load(Artifacts(storage), "sarm").model.source("sarm")
    assert isinstance(before, SARM) and isinstance(after, SARM)
    assert after.rows.num_live_rows > before.rows.num_live_rows
    assert np.isfinite(progress.judged[-1]["click"]["normalised_entropy"])
