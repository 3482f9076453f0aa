"""The bank snapshot: what is in it, and what never becomes CURRENT."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from models.artifacts import bank as bank_files
from models.artifacts import probe
from models.artifacts.bank import StoredBank
from models.artifacts.manifest import ArtifactError
from models.history import HistoryRule, known_at
from pipelines.ranking import evaluate, publish, published
from pipelines.samples import examples
from pipelines.samples.batches import read_examples
from pipelines.settings import Settings
from pipelines.tables import newest
from pipelines.tables.artifacts import Artifacts
from pipelines.tables.contract import ContractError
from pipelines.tables.days import NO_ANCHOR, day_number
from pipelines.tables.storage import Storage
from tests.pipelines.jobs import run_job


def _artifacts(settings: Settings) -> Artifacts:
    return Artifacts(Storage.open(settings.storage.root))


def _bank(settings: Settings) -> StoredBank:
    return bank_files.read(_artifacts(settings).fetch("bank"))


def _until(settings: Settings, day: str) -> Settings:
    return replace(settings, publish=replace(settings.publish, until=day))


def test_the_bank_holds_every_author_and_the_day_of_its_anchor(trained: Settings) -> None:
    metrics = run_job(publish, trained)
    stored, catalog = _bank(trained), published.load(_artifacts(trained), "sarm").catalog
    assert set(stored.states) == {"sarm"}
    assert stored.states["sarm"].shape == (catalog.num_authors + 1, 2, 8) and stored.states["sarm"].dtype == np.float32
    assert stored.anchor_day.dtype == np.int32 and stored.anchor_day[0] == NO_ANCHOR
    storage = Storage.open(trained.storage.root)
    newest = {a: day for day in storage.days("anchors") for a in storage.read("anchors", day)["author_id"].to_pylist()}
    wanted = [day_number(newest[a]) if a in newest else NO_ANCHOR for a in catalog.author_ids.tolist()]
    assert stored.anchor_day[1:].tolist() == wanted
    assert metrics["authors_with_anchor"] == len(newest)


def test_the_bank_of_the_day_before_gives_the_scores_of_evaluation(trained: Settings) -> None:
    run_job(evaluate, trained)
    run_job(publish, _until(trained, "2026-01-02"))
    bank = np.array(_bank(trained).states["sarm"])
    columns = read_examples(Storage.open(trained.storage.root), "2026-01-03")
    sarm = published.load(_artifacts(trained), "sarm")
    scores = published.score(sarm.model, sarm.catalog, columns, {"sarm": bank})
    with np.load(Path(trained.run_dir) / "scores-sarm.npz") as file:
        assert np.array_equal(file["scores"], scores)


def test_a_bank_of_float16_is_the_other_one_rounded_and_moves_no_score_far(trained: Settings) -> None:
    scores, states = {}, {}
    for dtype in ("float32", "float16"):
        run_job(publish, replace(trained, publish=replace(trained.publish, dtype=dtype)))
        folder = _artifacts(trained).fetch("bank")
        scores[dtype], states[dtype] = probe.read(folder).probabilities, bank_files.read(folder).states["sarm"]
    assert np.array_equal(states["float32"].astype(np.float16), states["float16"])
    assert 0 < np.abs(scores["float32"] - scores["float16"]).max() < 1e-3


def test_numbers_that_float16_does_not_hold_are_refused(trained: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    from models.sarm.model import SARM

    table = SARM.table
    monkeypatch.setattr(SARM, "table", lambda self, inputs, ids: 1e5 * table(self, inputs, ids))
    with pytest.raises(ArtifactError, match="holds NaN or infinity"):
        run_job(publish, replace(trained, publish=replace(trained.publish, dtype="float16")))


def test_newer_anchors_make_another_bank(trained: Settings) -> None:
    run_job(publish, _until(trained, "2026-01-02"))
    old = _bank(trained).states["sarm"]
    assert run_job(publish, trained)["how"] == "published"
    assert not np.array_equal(_bank(trained).states["sarm"], old)


def test_a_second_run_publishes_nothing(trained: Settings) -> None:
    first = run_job(publish, trained)
    assert run_job(publish, trained) == {"run_id": first["run_id"], "how": "current"}


def test_the_manifest_names_model_tokenizer_and_anchors(trained: Settings) -> None:
    storage = Storage.open(trained.storage.root)
    run_job(publish, trained)
    artifacts = _artifacts(trained)
    made_from, model = artifacts.manifest("bank").made_from, artifacts.manifest("sarm")
    assert (made_from["ranker"], made_from["model"]) == ("sarm", model.run_id)
    assert made_from["model_weights"] == model.files["model.safetensors"]
    assert made_from["sarm/anchors"] == newest.fingerprint(storage, "anchors", until="2026-01-03")


def _clicks_by_user(settings: Settings) -> dict[int, list[dict[str, Any]]]:
    """Every click, oldest first."""
    storage = Storage.open(settings.storage.root)
    shown = storage.read_days("impressions", storage.days("impressions")).to_pylist()
    by_user: dict[int, list[dict[str, Any]]] = {}
    for row in sorted((r for r in shown if r["click"]), key=lambda r: (r["ts_ms"], r["impression_id"])):
        by_user.setdefault(row["user_id"], []).append(row)
    return by_user


def test_histories_are_each_users_newest_clicks(trained: Settings) -> None:
    run_job(publish, trained)
    histories, clicks = _bank(trained).histories, _clicks_by_user(trained)
    length = trained.examples.history_length
    assert histories.rule == HistoryRule(length=length, days=trained.examples.history_days, delay_ms=0)
    assert histories.user_ids.tolist() == sorted(clicks)
    for row, user in enumerate(histories.user_ids.tolist()):
        newest = clicks[user][-length:]
        pad = length - len(newest)
        assert histories.author_ids[row].tolist() == [-1] * pad + [r["author_id"] for r in newest]
        assert histories.ts_ms[row].tolist() == [0] * pad + [r["ts_ms"] for r in newest]
        assert histories.watch_s[row].tolist() == [0.0] * pad + [r["watch_time_s"] for r in newest]


def test_with_a_delay_a_full_history_remains_when_the_young_clicks_are_dropped(trained: Settings) -> None:
    delayed = replace(trained, examples=replace(trained.examples, delay_s=3600.0, history_length=2))
    run_job(examples, delayed)
    run_job(publish, delayed)
    histories, clicks, dropped = _bank(delayed).histories, _clicks_by_user(delayed), 0
    for user, of_user in clicks.items():
        moment = of_user[-1]["ts_ms"] + 1
        known = [r["author_id"] for r in of_user if r["ts_ms"] < moment - 3_600_000][-2:]
        authors, times, watched = histories.of_user(user)
        assert authors[known_at(moment, times, watched, 2, 3_600_000)[0]].tolist() == known
        dropped += len(times) > 2
    assert dropped > 5


def test_histories_can_be_left_out(trained: Settings) -> None:
    run_job(publish, replace(trained, publish=replace(trained.publish, histories=False)))
    names = {path.name for path in _artifacts(trained).fetch("bank").glob("[!p]*.npy")}
    assert names == {"source_sarm.npy", "anchor_day.npy"}
    assert _bank(trained).histories.rule.length == trained.examples.history_length


def test_a_refused_bank_does_not_become_current(trained: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    good = run_job(publish, _until(trained, "2026-01-02"))["run_id"]
    from models.sarm.model import SARM

    monkeypatch.setattr(SARM, "table", lambda self, inputs, ids: torch.zeros(len(inputs[0]), 2, 8))
    with pytest.raises(ArtifactError):
        run_job(publish, trained)
    assert _artifacts(trained).current("bank") == good


def test_no_anchors_by_that_day_is_an_error(trained: Settings) -> None:
    with pytest.raises(ContractError, match="2000-01-01"):
        run_job(publish, _until(trained, "2000-01-01"))


def test_the_bank_of_what_was_trained_wants_a_ranker_that_followed_windows(trained: Settings) -> None:
    with pytest.raises(ArtifactError, match="run the job follow with train.follow.by: windows"):
        run_job(publish, replace(trained, publish=replace(trained.publish, ranker="sarm", vectors="trained")))
