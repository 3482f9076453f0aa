"""Rankers that read what was on screen: trained, resumed, on two workers, followed, evaluated; refused where due."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from models.artifacts.manifest import ArtifactError
from models.artifacts.store import ArtifactStore
from pipelines.ranking import evaluate, fit, publish
from pipelines.ranking.checkpoint import folder_after
from pipelines.ranking.evaluate import score_day
from pipelines.ranking.gate import GateConfig
from pipelines.ranking.plan import FollowConfig, make_plan
from pipelines.ranking.published import load
from pipelines.ranking.worker import Worker
from pipelines.samples import examples, window_examples, windows
from pipelines.samples.batches import read_examples
from pipelines.settings import Settings
from pipelines.tables.artifacts import Artifacts
from pipelines.tables.contract import ContractError
from serve.loading import load_snapshot
from tests.pipelines.conftest import tiny_settings, tiny_train, train_here
from tests.pipelines.jobs import run_job
from tests.pipelines.ranking.coded import CLUSTERS, STACK, publish_codebook, with_codes
from tests.pipelines.ranking.followed import DAYS, another, assert_same, follow_here
from tests.pipelines.ranking.sharded_runs import Run, on_workers, weights
from tests.pipelines.samples.screens import write_codes

NAME = "+".join(STACK)
SCREENS = tuple(CLUSTERS)


@pytest.fixture(scope="module")
def store(tiny_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("coded") / "tiny"
    shutil.copytree(tiny_store, root)
    with_codes(tiny_settings(root))
    return root


@pytest.fixture
def coded(store: Path, tmp_path: Path) -> Settings:
    """A private copy."""
    shutil.copytree(store, tmp_path / "tiny")
    settings = tiny_settings(tmp_path / "tiny")
    return replace(settings, examples=replace(settings.examples, codes=SCREENS), train=tiny_train(STACK))


def changed(settings: Settings, day: str, table: str, **values: Any) -> None:
    """Other rows of codes, and examples of them."""
    storage = settings.open().storage
    rows = storage.read(table, day).to_pylist()
    write_codes(storage, day, [row | values for row in rows], table)
    run_job(examples, settings)


def test_they_train_and_are_measured_beside_sarm_and_base(coded: Settings) -> None:
    train_here(coded)
    found = run_job(evaluate, coded)["metrics"]
    assert list(found) == [NAME, "base", "oracle"] and found[NAME]["click"]["auc"] != found["base"]["click"]["auc"]
    made_from = Artifacts(coded.open().storage).manifest(NAME).made_from
    assert made_from["llm_codes/codebook"] == made_from["larm_codes/codebook"] == "v1"


def test_scores_depend_on_each_table_and_on_the_screen_of_each_moment(coded: Settings) -> None:
    train_here(replace(coded, train=replace(coded.train, base=False)))
    storage, day = coded.open().storage, DAYS[2]
    artifacts = Artifacts(storage)
    ranker, columns = load(artifacts, NAME), read_examples(storage, day, SCREENS)
    before = score_day(ranker, ranker.states(storage, artifacts), day, columns)
    for table in SCREENS:
        for column in (table, f"history_{table}"):
            other = columns | {column: np.where(columns[column] < 0, 0, -1).astype(np.int32)}
            after = score_day(ranker, ranker.states(storage, artifacts), day, other)
            assert (np.abs(after - before).max(axis=1) > 0).mean() > 0.5, column


def test_a_killed_run_goes_on_to_the_same_bits(coded: Settings, tmp_path: Path) -> None:
    run = coded.open()
    plan, made_from = make_plan(coded.train, run, Artifacts(run.storage), STACK)

    def train(work: Path, resume: Path | None = None) -> Path:
        done = fit.train(
            plan, run.storage, made_from, work=work, worker=Worker(), report=lambda *_: None, log_line=print,
            resume=resume,
        )  # fmt: skip
        return work / folder_after(done)

    whole = weights(train(tmp_path / "whole"))
    resumed = weights(train(tmp_path / "on", resume=tmp_path / "whole" / f"after-1-{DAYS[0]}"))
    assert whole.keys() == resumed.keys() and all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_two_workers_with_whole_and_spread_tables_learn_the_same(coded: Settings, tmp_path: Path) -> None:
    train: dict[str, Any] = {"batch_size": 64, "sources": ("llm_codes", "larm_codes")}
    runs = [Run(name="whole", sharded=False, train=train), Run(name="spread", sharded=True, train=train)]
    on_workers(coded, tmp_path, runs)
    last = f"after-2-{DAYS[1]}"
    whole, spread = (weights(tmp_path / name / last) for name in ("whole", "spread"))
    assert whole.keys() == spread.keys()
    apart = {name: float((whole[name].double() - spread[name].double()).abs().mean()) for name in whole}
    assert max(apart.values()) < 1e-5, apart


@pytest.mark.parametrize("by", ["days", "windows"])
def test_they_are_followed_and_a_run_for_each_day_does_what_one_over_all_does(
    coded: Settings, tmp_path: Path, by: str
) -> None:
    if by == "windows":
        run_job(windows, coded)
        window_examples.run(coded.examples, coded.open())
    train = replace(coded.train, batch_size=64, follow=FollowConfig(by=by, window_s=3600.0), base=False)
    settings = replace(coded, train=train)
    apart, sources = another(settings, tmp_path / "apart"), ("sarm", "larm_codes")
    whole = follow_here(settings, DAYS, tmp_path / "whole", sources)
    for number, day in enumerate(DAYS):
        follow_here(apart, [day], tmp_path / f"run-{number}", sources)
    last = folder_after(whole)
    assert_same(tmp_path / "whole" / last, tmp_path / "run-2" / last, "sarm")
    if by == "windows":
        trained = replace(settings.publish, ranker="sarm+larm_codes", vectors="trained")
        run_job(publish, replace(settings, publish=replace(trained, gate=GateConfig(rule="off"))))
        served = load_snapshot(
            ArtifactStore.open(settings.storage.root), str(Artifacts(settings.open().storage).current("bank"))
        )
        ids = served.model.ranker.authors(torch.arange(served.bank.num_authors + 1)).detach().numpy()
        assert np.array_equal(served.bank.states["larm_codes"], ids) and list(served.screens) == ["item_codes"]


def test_another_codebook_does_not_go_on_quietly(coded: Settings, tmp_path: Path) -> None:
    sources = ("llm_codes",)
    settings = replace(coded, train=replace(tiny_train(sources), base=False))
    follow_here(settings, DAYS[:1], tmp_path / "first", sources)
    publish_codebook(coded, "segment_codes", "v2")
    with pytest.raises(ContractError, match="wanted codes of the codebook v2 in segment_codes, .* got v1; run the job"):
        train_here(settings)
    for day in DAYS:
        storage = coded.open().storage
        write_codes(storage, day, [row | {"codebook": "v2"} for row in storage.read("segment_codes", day).to_pylist()])
    run_job(examples, settings)
    with pytest.raises(ValueError, match="source llm_codes: wanted the codebook v1, as the ranker has learnt, got v2"):
        follow_here(settings, DAYS, tmp_path / "second", sources)
    train_here(settings, number=2)


def test_codes_that_a_level_does_not_have_are_refused(coded: Settings) -> None:
    changed(coded, DAYS[1], "item_codes", codes=[4, 0])
    with pytest.raises(
        ContractError, match=r"column item_codes: wanted codes of levels of 4, 2, got up to \[4, [01]\]"
    ):
        train_here(coded)


def test_examples_without_codes_are_told_with_what_to_do(tiny: Settings) -> None:
    settings = replace(tiny, train=tiny_train(("llm_codes",)))
    with pytest.raises(ContractError, match="day 2026-01-01: wanted the codes .* segment_codes.*examples.codes"):
        publish_codebook(tiny, "segment_codes", "v1")
        train_here(settings)


def test_without_a_codebook_there_is_none_to_read(coded: Settings) -> None:
    storage = coded.open().storage
    storage.filesystem.delete_dir(f"{storage.root}/artifacts/codebook.items")
    with pytest.raises(ArtifactError, match="codebook.items"):
        train_here(coded)
