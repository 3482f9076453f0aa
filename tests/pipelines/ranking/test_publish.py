"""The bank snapshot: what is in it, and what never becomes CURRENT."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from models.artifacts.manifest import ArtifactError
from pipelines.ranking import evaluate, publish, published
from pipelines.ranking.publish import ANCHOR_DAY, BANK, HISTORY
from pipelines.samples.batches import read_examples
from pipelines.settings import Settings
from pipelines.tables import newest
from pipelines.tables.artifacts import Artifacts
from pipelines.tables.contract import ContractError
from pipelines.tables.days import day_number
from pipelines.tables.storage import Storage
from tests.pipelines.jobs import run_job


def _artifacts(settings: Settings) -> Artifacts:
    return Artifacts(Storage.open(settings.storage.root))


def _until(settings: Settings, day: str) -> Settings:
    return replace(settings, publish=replace(settings.publish, anchors_until=day))


def test_the_bank_holds_every_author_and_the_day_of_its_anchor(trained: Settings) -> None:
    metrics = run_job(publish, trained)
    artifacts = _artifacts(trained)
    folder = artifacts.fetch("bank")
    bank, anchor_day = np.load(folder / BANK), np.load(folder / ANCHOR_DAY)
    catalog = published.load(artifacts, "sarm").catalog
    assert bank.shape == (catalog.num_authors + 1, 2, 8) and bank.dtype == np.float32
    assert anchor_day.dtype == np.int32 and anchor_day[0] == -1
    storage = Storage.open(trained.storage.root)
    newest = {a: day for day in storage.days("anchors") for a in storage.read("anchors", day)["author_id"].to_pylist()}
    wanted = [day_number(newest[a]) if a in newest else -1 for a in catalog.author_ids.tolist()]
    assert anchor_day[1:].tolist() == wanted
    assert metrics["authors_with_anchor"] == len(newest)


def test_the_bank_of_the_day_before_gives_the_scores_of_evaluation(trained: Settings) -> None:
    run_job(evaluate, trained)
    run_job(publish, _until(trained, "2026-01-02"))
    artifacts = _artifacts(trained)
    bank = np.load(artifacts.fetch("bank") / BANK)
    columns = read_examples(Storage.open(trained.storage.root), "2026-01-03")
    sarm = published.load(artifacts, "sarm")
    scores = published.score(sarm.model, sarm.catalog, columns, bank=bank)
    with np.load(Path(trained.run_dir) / "scores-sarm.npz") as file:
        assert np.array_equal(file["scores"], scores)


def test_newer_anchors_make_another_bank(trained: Settings) -> None:
    run_job(publish, _until(trained, "2026-01-02"))
    old = np.load(_artifacts(trained).fetch("bank") / BANK).copy()
    assert run_job(publish, trained)["how"] == "published"
    assert not np.array_equal(np.load(_artifacts(trained).fetch("bank") / BANK), old)


def test_a_second_run_publishes_nothing(trained: Settings) -> None:
    first = run_job(publish, trained)
    assert run_job(publish, trained) == {"run_id": first["run_id"], "how": "current"}


def test_the_manifest_names_model_tokenizer_and_anchors(trained: Settings) -> None:
    run_job(publish, trained)
    artifacts = _artifacts(trained)
    made_from, model = artifacts.manifest("bank").made_from, artifacts.manifest("model")
    assert made_from["model"] == model.run_id
    assert made_from["model_weights"] == model.files["model.safetensors"]
    assert made_from["tokenizer"] == model.made_from["tokenizer"]
    assert made_from["anchors"] == newest.fingerprint(Storage.open(trained.storage.root), "anchors", until="2026-01-03")


def test_histories_are_each_users_newest_clicks(trained: Settings) -> None:
    run_job(publish, trained)
    folder = _artifacts(trained).fetch("bank")
    files = {name: np.load(folder / file) for name, file in HISTORY.items()}
    storage = Storage.open(trained.storage.root)
    shown = storage.read_days("impressions", storage.days("impressions")).to_pylist()
    clicked = sorted((r for r in shown if r["click"]), key=lambda r: (r["ts_ms"], r["impression_id"]))
    length = trained.examples.history_length
    assert files["user_ids"].tolist() == sorted({r["user_id"] for r in clicked})
    for row, user in enumerate(files["user_ids"].tolist()):
        mine = [r for r in clicked if r["user_id"] == user][-length:]
        pad = length - len(mine)
        assert files["author_ids"][row].tolist() == [-1] * pad + [r["author_id"] for r in mine]
        assert files["ts_ms"][row].tolist() == [0] * pad + [r["ts_ms"] for r in mine]
        assert files["watch_s"][row].tolist() == [0.0] * pad + [r["watch_time_s"] for r in mine]


def test_histories_can_be_left_out(trained: Settings) -> None:
    run_job(publish, replace(trained, publish=replace(trained.publish, histories=False)))
    assert {p.name for p in _artifacts(trained).fetch("bank").glob("*.npy")} == {BANK, ANCHOR_DAY}


@pytest.mark.parametrize(
    ("spoil", "complaint"),
    [
        (lambda bank: bank[:-1], "wanted float32"),
        (lambda bank: bank.astype(np.float64), "float64"),
        (lambda bank: np.where(np.arange(len(bank))[:, None, None] == 3, np.nan, bank), "not finite"),
        (lambda bank: np.zeros_like(bank), "the same"),
    ],
)
def test_a_bank_that_is_not_fit_to_serve_is_refused(tmp_path: Path, spoil, complaint: str) -> None:
    bank = np.random.default_rng(0).normal(size=(6, 2, 4)).astype(np.float32)
    np.save(tmp_path / ANCHOR_DAY, np.zeros(6, dtype=np.int32))
    np.save(tmp_path / BANK, bank)
    publish.verify(tmp_path, num_authors=5, width=4)
    np.save(tmp_path / BANK, spoil(bank))
    with pytest.raises(ArtifactError, match=complaint):
        publish.verify(tmp_path, num_authors=5, width=4)


def test_a_refused_bank_does_not_become_current(trained: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    good = run_job(publish, _until(trained, "2026-01-02"))["run_id"]
    from models.sarm.model import SARM

    monkeypatch.setattr(SARM, "encode_bank", lambda self, tokens: np.zeros((len(tokens), 2, 8), dtype=np.float32))
    with pytest.raises(ArtifactError):
        run_job(publish, trained)
    assert _artifacts(trained).current("bank") == good


def test_no_anchors_by_that_day_is_an_error(trained: Settings) -> None:
    with pytest.raises(ContractError, match="2000-01-01"):
        run_job(publish, _until(trained, "2000-01-01"))
