"""Choosing how rows of a study are trained."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipelines.runtime.config import ConfigError
from pipelines.settings import Settings
from pipelines.studies import tune
from pipelines.studies.config import StudyConfig, TuneConfig, Variant, trained_with
from tests.pipelines.conftest import tiny_settings, tiny_train

VARIANTS = {"base": Variant(train=tiny_train(())), "sarm": Variant(train=tiny_train())}


def _settings(root: Path, tiny_store: Path, **tuned: Any) -> Settings:
    settings = tiny_settings(root)
    vocabulary = replace(settings.vocabulary, base_tokenizer=str(tiny_store / "tokenizer.json"))
    study = StudyConfig(seeds=1, variants=VARIANTS)
    return replace(settings, study=study, vocabulary=vocabulary, tune=TuneConfig(**tuned))


@pytest.mark.ray
def test_every_row_gets_its_own_settings_and_as_many_draws(tiny_store: Path, tmp_path: Path) -> None:
    kept: Any = (["cls", "tar"], ["cls"])  # values may be lists
    spaces = {"base": {"lr_ids": (0.0, 0.05), "ranker.cross_layers": (1, 2), "models.sarm.representations": kept}}
    settings = _settings(tmp_path, tiny_store, samples=3, spaces=spaces)
    said = tune.run(settings)
    folder = Path(settings.run_dir)
    found = json.loads((folder / "tune.json").read_text())["base"]
    assert len(found) == 3 and [draw["value"] for draw in found] == sorted((d["value"] for d in found), reverse=True)
    train = VARIANTS["base"].train
    own = {"lr_ids": train.lr_ids, "ranker.cross_layers": train.ranker.cross_layers}
    own["models.sarm.representations"] = list(train.models.sarm.representations)
    assert own in [draw["drawn"] for draw in found]
    assert said["best"]["base"]["drawn"] == found[0]["drawn"]
    best = yaml.safe_load((folder / "best-base.yaml").read_text())["train"]
    assert best["lr_ids"] == found[0]["drawn"]["lr_ids"]
    assert best["ranker"]["cross_layers"] == found[0]["drawn"]["ranker.cross_layers"]
    again = tune.run(settings)
    assert again["best"] == said["best"]


def test_the_day_that_studies_score_is_neither_learnt_nor_scored(
    tiny: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[str | None, int]] = []

    def trial(settings: Settings, variant: Variant) -> tuple[dict[str, Any], dict[str, Any]]:
        seen.append((settings.evaluate.day, variant.train.test_days))
        return {"metrics": {"click": {"gauc": 0.5}}, "cost": {"cpu_s": 1.0}}, {}

    monkeypatch.setattr(tune, "run_trial", trial)
    value = tune._value({}, VARIANTS["base"], {0: tune._validated(tiny)})
    assert value == {"value": 0.5, "seeds": {0: 0.5}, "cpu_s": 1.0}
    assert seen == [("2026-01-02", 2)]  # of three days the last is the study's


def test_a_job_without_spaces_is_refused(tiny_store: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="got none"):
        tune.run(_settings(tmp_path, tiny_store))


@pytest.mark.parametrize(
    "spaces, message",
    [
        ({"best": {"lr_ids": (0.1,)}}, "study.variants"),
        ({"base": {"lr_idz": (0.1,)}}, "lr_idz"),
        ({"base": {"lr_ids": ("fast",)}}, "lr_ids"),
        ({"base": {"ranker.cross_layers": (1, -1)}}, "cross_layers"),
        ({"base": {"lr_ids": ()}}, "at least one value"),
    ],
)
def test_spaces_that_cannot_be_are_refused_when_they_are_read(
    tiny_store: Path, tmp_path: Path, spaces: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        _settings(tmp_path, tiny_store, spaces=spaces)


def test_a_draw_changes_its_keys_alone() -> None:
    drawn = trained_with(VARIANTS["sarm"].train, {"models.sarm.num_layers": 3, "epochs": 7})
    sarm = replace(VARIANTS["sarm"].train.models.sarm, num_layers=3)
    models = replace(VARIANTS["sarm"].train.models, sarm=sarm)
    assert drawn == replace(VARIANTS["sarm"].train, epochs=7, models=models)
