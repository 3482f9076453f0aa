"""The job that splits users among banks."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from models.artifacts import arms
from models.artifacts.arms import Arm, Arms
from models.artifacts.manifest import ArtifactError
from models.artifacts.store import ArtifactStore
from pipelines.ranking import split
from pipelines.ranking.split import SplitConfig
from pipelines.runtime.config import ConfigError
from pipelines.settings import Settings, read_settings
from pipelines.tables.storage import StorageConfig
from tests.pipelines.jobs import run_job
from tests.serve.conftest import Published, fill_with_nan


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    made = Published(tmp_path / "store")
    made.publish("a")
    made.publish("b", point=False)
    made.bank("broken", "m-b", point=False, change=fill_with_nan)
    return Settings(storage=StorageConfig(root=str(made.root)), run_dir=str(tmp_path / "run"))


def test_arms_are_verified_and_written_and_end(settings: Settings) -> None:
    store = ArtifactStore.open(settings.storage.root)
    chosen = SplitConfig(arms={"b": Arm(bank="b", share=0.25)}, salt="one")
    assert run_job(split, replace(settings, split=chosen))["arms"]["b"]["share"] == 0.25
    assert arms.read(store) == Arms(by_name=chosen.arms, salt="one")
    assert store.current("bank") == "a"
    run_job(split, settings)
    assert arms.read(store) == Arms()


@pytest.mark.parametrize("bank", ["broken", "none"])
def test_a_bank_that_cannot_be_served_is_refused_and_the_arms_stay(settings: Settings, bank: str) -> None:
    store = ArtifactStore.open(settings.storage.root)
    run_job(split, replace(settings, split=SplitConfig(arms={"b": Arm(bank="b")})))
    with pytest.raises(ArtifactError):
        run_job(split, replace(settings, split=SplitConfig(arms={"c": Arm(bank=bank)})))
    assert list(arms.read(store).by_name) == ["b"]


def test_the_configuration_names_what_is_wrong(tmp_path: Path) -> None:
    file = tmp_path / "job.yaml"
    file.write_text("split: {arms: {b: {bank: x, share: 0.1}}}")
    assert read_settings(file).split.arms == {"b": Arm(bank="x", share=0.1)}
    with pytest.raises(ConfigError, match="split.*add up to 1 at most, got 1.1"):
        read_settings(file, ["split.arms={b: {bank: x, share: 0.6}, c: {bank: x, share: 0.5}}"])
    with pytest.raises(ConfigError, match="split.arms"):
        read_settings(file, ["split.arms={b: {bank: x, shar: 0.6}}"])
