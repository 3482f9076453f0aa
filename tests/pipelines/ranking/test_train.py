"""Training over the tiny platform: the same numbers again, resuming, workers, and what may be read."""

import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from models.composed import ComposedRanker
from models.sarm.live_tokenizer.tokenizer import LiveStreamingTokenizer
from pipelines.ranking import fit as train_loop
from pipelines.ranking import train
from pipelines.ranking.anchor_table import AnchorTable
from pipelines.ranking.checkpoint import Progress, folder_after
from pipelines.ranking.plan import TrainConfig, make_plan
from pipelines.ranking.worker import Worker
from pipelines.runtime.config import ConfigError, build
from pipelines.runtime.watch import WatchConfig
from pipelines.samples import examples
from pipelines.samples.batches import build_catalog, read_examples
from pipelines.semantics import vocabulary
from pipelines.semantics.corpus import corpus
from pipelines.settings import Settings
from pipelines.tables.artifacts import Artifacts
from pipelines.tables.contract import TABLES, ContractError
from pipelines.tables.days import NO_ANCHOR
from pipelines.tables.storage import Storage
from tests.pipelines.conftest import train_here
from tests.pipelines.curves import curves
from tests.pipelines.jobs import run_job
from tests.pipelines.two_workers import train_on_two


class Killed(Exception):
    """Stands for a worker that dies."""


def _weights(folder: Path) -> dict[str, torch.Tensor]:
    return ComposedRanker.load(folder).state_dict()


def _same(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> bool:
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


def _train(settings: Settings, work: Path, report: object = None, resume: Path | None = None) -> Progress:
    run = settings.open()
    plan, made_from = make_plan(settings.train, run, Artifacts(run.storage), settings.train.sources)
    return train_loop.train(
        plan,
        run.storage,
        made_from,
        work=work,
        worker=Worker(),
        report=report or (lambda metrics, folder: None),
        log_line=lambda line: None,
        resume=resume,
    )


def test_the_same_plan_gives_the_same_weights_and_another_seed_others(tiny: Settings, tmp_path: Path) -> None:
    for name, settings in (("a", tiny), ("b", tiny), ("c", replace(tiny, seed=tiny.seed + 1))):
        _train(settings, tmp_path / name)
    last = "after-2-2026-01-02"
    assert _same(_weights(tmp_path / "a" / last), _weights(tmp_path / "b" / last))
    assert not _same(_weights(tmp_path / "a" / last), _weights(tmp_path / "c" / last))


@pytest.mark.parametrize("encode_window", [1, 4])  # of 10 batches a day: the last one is shorter
def test_a_run_that_was_killed_goes_on_after_its_last_day(tiny: Settings, tmp_path: Path, encode_window: int) -> None:
    tiny = replace(tiny, train=replace(tiny.train, encode_window=encode_window))

    def die(metrics: object, folder: Path) -> None:
        raise Killed

    whole = _train(tiny, tmp_path / "whole")
    with pytest.raises(Killed):
        _train(tiny, tmp_path / "killed", report=die)
    resumed = _train(tiny, tmp_path / "resumed", resume=tmp_path / "killed" / "after-1-2026-01-01")
    last = "after-2-2026-01-02"
    assert not (tmp_path / "resumed" / "after-1-2026-01-01").exists()
    assert _same(_weights(tmp_path / "whole" / last), _weights(tmp_path / "resumed" / last))
    assert [p["main_loss"] for p in resumed.curve] == [p["main_loss"] for p in whole.curve]


def test_training_learns(tiny: Settings, tmp_path: Path) -> None:
    curve = _train(replace(tiny, train=replace(tiny.train, batch_size=32)), tmp_path).curve
    assert curve[-1]["main_loss"] < curve[0]["main_loss"] - 0.3


def test_every_day_is_reported_with_a_checkpoint(tiny: Settings, tmp_path: Path) -> None:
    reported = []
    progress = _train(tiny, tmp_path, report=lambda metrics, folder: reported.append((metrics["key"], folder.name)))
    assert reported == [(day, f"after-{number}-{day}") for number, day in enumerate(progress.done, 1)]
    assert progress.done == ["2026-01-01", "2026-01-02"]


def test_jobs_from_vocabulary_to_train_never_read_the_oracle(tiny: Settings, tmp_path: Path) -> None:
    before = train_here(replace(tiny, run_dir=str(tmp_path / "with")))
    for table in (name for name, spec in TABLES.items() if spec.oracle):
        folder = Path(tiny.storage.root) / "tables" / table
        for file in folder.rglob("*.parquet"):
            file.write_bytes(b"poison")
    shutil.rmtree(Path(tiny.storage.root) / "artifacts")
    shutil.rmtree(Path(tiny.storage.root) / "tables" / "examples")
    run_job(vocabulary, tiny)
    run_job(examples, tiny)
    train_here(replace(tiny, run_dir=str(tmp_path / "without")))
    last = Path("sarm") / folder_after(before["sarm"])
    assert _same(_weights(tmp_path / "with" / last), _weights(tmp_path / "without" / last))


def test_a_store_opened_without_the_oracle_refuses_its_tables(tiny: Settings) -> None:
    storage = Storage.open(tiny.storage.root)
    for table in (name for name, spec in TABLES.items() if spec.oracle):
        with pytest.raises(ContractError, match="truth"):
            storage.read(table, storage.days("impressions")[0])


def test_the_last_days_anchors_and_impressions_do_not_reach_training(tiny: Settings, tmp_path: Path) -> None:
    _train(tiny, tmp_path / "with")
    for table in ("anchors", "impressions"):
        shutil.rmtree(Path(tiny.storage.root) / "tables" / table / "day=2026-01-03")
    _train(tiny, tmp_path / "without")
    last = "after-2-2026-01-02"
    assert _same(_weights(tmp_path / "with" / last), _weights(tmp_path / "without" / last))


def test_categories_are_numbered_by_their_names_and_may_be_missing(tiny: Settings) -> None:
    storage = Storage.open(tiny.storage.root)
    shown = [storage.read("authors", day).select(["author_id", "category"]) for day in storage.days("authors")]
    newest = {row["author_id"]: row["category"] for day in shown for row in day.to_pylist()}
    catalog, names = build_catalog(storage, "2026-01-03")
    assert names == sorted({name for name in newest.values() if name is not None}) and None in newest.values()
    rows = catalog.author_category[catalog.author_rows(list(newest))]
    assert [None if code == 0 else names[code - 1] for code in rows.tolist()] == list(newest.values())


def test_anchors_in_force_are_the_newest_strictly_before(tiny: Settings) -> None:
    storage = Storage.open(tiny.storage.root)
    catalog, _ = build_catalog(storage, "2026-01-03")
    tokenizer = LiveStreamingTokenizer.load(Artifacts(storage).fetch("tokenizer"))
    table = AnchorTable(storage, catalog, tokenizer)
    assert (table.anchor_day == NO_ANCHOR).all() and (table.tokens.lengths == 1).all()
    table.advance(before="2026-01-02")
    first = storage.read("anchors", "2026-01-01")
    rows = catalog.author_rows(first["author_id"].to_numpy())
    assert sorted(np.flatnonzero(table.anchor_day >= 0)) == sorted(rows)
    wanted = tokenizer.encode(list(corpus(storage, ["2026-01-01"])))
    width = wanted.base.shape[1]
    assert (table.tokens.base[rows][:, :width] == wanted.base).all()
    assert (table.tokens.live[rows][:, :width] == wanted.live).all()


def test_a_table_of_live_tokens_holds_the_merged_sequence_alone(tiny: Settings) -> None:
    storage = Storage.open(tiny.storage.root)
    catalog, _ = build_catalog(storage, "2026-01-03")
    tokenizer = LiveStreamingTokenizer.load(Artifacts(storage).fetch("tokenizer"))
    table = AnchorTable(storage, catalog, tokenizer, tokens="live").advance(before="2026-01-02")
    rows = catalog.author_rows(storage.read("anchors", "2026-01-01")["author_id"].to_numpy())
    wanted = tokenizer.encode_live(list(corpus(storage, ["2026-01-01"])))
    assert (table.tokens.base[rows][:, : wanted.base.shape[1]] == wanted.base).all()
    assert wanted.base.max() >= tokenizer.rows.num_base_rows and not table.tokens.live.any()
    assert table.rows == tokenizer.live_rows


def test_examples_joined_with_other_anchors_are_refused(tiny: Settings, tmp_path: Path) -> None:
    storage = Storage.open(tiny.storage.root)
    day = storage.days("anchors")[0]
    storage.write("anchors", day, [storage.read("anchors", day).slice(5)])
    with pytest.raises(ContractError, match="run the job examples again"):
        _train(tiny, tmp_path)


@pytest.mark.parametrize("encode_window", [1, 4])
def test_two_workers_end_with_one_model_and_one_bank(tiny: Settings, tmp_path: Path, encode_window: int) -> None:
    """They learn what one learns, from batches of other rows of the same stretches."""
    sarm = replace(tiny.train.models.sarm, encode_budget=None)
    models = replace(tiny.train.models, sarm=sarm)
    tiny = replace(tiny, train=replace(tiny.train, encode_window=encode_window, models=models))
    banks, weights = train_on_two(tiny, tmp_path)
    assert torch.equal(banks[0], banks[1]) and banks[0].abs().sum() > 0
    assert _same(weights[0], weights[1])
    _train(tiny, tmp_path / "alone")
    alone = _weights(tmp_path / "alone" / "after-2-2026-01-02")
    apart = torch.cat([(tensor - weights[0][name]).float().abs().flatten() for name, tensor in alone.items()])
    assert apart.median() < 1e-2


def test_a_window_encodes_its_authors_once_and_ends_with_its_day(tiny: Settings, tmp_path: Path) -> None:
    sarm = replace(tiny.train.models.sarm, encode_budget=None)
    models = replace(tiny.train.models, sarm=sarm)
    storage = Storage.open(tiny.storage.root)
    days = [read_examples(storage, day)["author_id"] for day in ("2026-01-01", "2026-01-02")]
    train = replace(tiny.train, encode_window=1000, models=models)
    progress = _train(replace(tiny, train=train), tmp_path)
    assert progress.encoded == sum(len(np.unique(authors)) for authors in days)


def test_no_window_is_refused() -> None:
    with pytest.raises(ValueError, match="encode_window"):
        TrainConfig(encode_window=0)


def test_unknown_model_keys_are_refused() -> None:
    with pytest.raises(ConfigError, match="train.models.sarm: unknown key.*wdith"):
        build(TrainConfig, {"models": {"sarm": {"wdith": 8}}}, "train")


def test_unknown_sources_are_refused() -> None:
    with pytest.raises(ValueError, match="sarm.*tags"):
        TrainConfig(sources=("larm",))
    with pytest.raises(ValueError, match="each once"):
        TrainConfig(sources=("tags", "tags"))


def test_an_unknown_place_of_id_tables_is_refused() -> None:
    with pytest.raises(ConfigError, match="id_tables: wanted one of replicated, sharded, got 'split'"):
        build(TrainConfig, {"id_tables": "split"}, "train")


def test_too_few_days_are_refused(tiny: Settings) -> None:
    with pytest.raises(ContractError, match="test_days=3"):
        run_job(train, replace(tiny, train=replace(tiny.train, test_days=3)))


def test_mlflow_that_is_not_installed_is_said_before_ray_starts(
    tiny: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "mlflow", None)
    monkeypatch.setattr(train, "connected", lambda config: pytest.fail("Ray was started"))
    watch = build(WatchConfig, {"mlflow": "http://there"})
    with pytest.raises(ConfigError, match="train.watch.mlflow http://there"):
        run_job(train, replace(tiny, train=replace(tiny.train, watch=watch)))


def test_unknown_keys_of_the_watch_are_refused() -> None:
    with pytest.raises(ConfigError, match="train.watch: unknown key.*tensorbord"):
        build(TrainConfig, {"watch": {"tensorbord": False}}, "train")


@pytest.mark.ray
def test_ray_train_publishes_both_rankers_and_then_leaves_them(tiny: Settings) -> None:
    metrics = run_job(train, tiny)["rankers"]
    artifacts = Artifacts(Storage.open(tiny.storage.root))
    assert {v: m["run_id"] for v, m in metrics.items()} == {
        "sarm": artifacts.current("sarm"),
        "base": artifacts.current("base"),
    }
    assert metrics["sarm"]["steps"] == metrics["base"]["steps"] == metrics["sarm"]["curve"][-1]["step"]
    assert metrics["sarm"]["encoded_authors"] > 0 == metrics["base"]["encoded_authors"]
    assert artifacts.manifest("sarm").made_from["tokenizer"] == artifacts.current("tokenizer")
    for name, of in metrics.items():
        found = curves(Path(tiny.run_dir) / "tensorboard" / f"{name}-{of['run_id']}")
        points = [(point["step"], pytest.approx(point["main_loss"])) for point in of["curve"]]
        assert found["loss/main"] == points
    assert {m["how"] for m in run_job(train, tiny)["rankers"].values()} == {"current"}
