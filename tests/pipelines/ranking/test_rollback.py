"""Rolling back: CURRENT moves to an older bank that is whole, and no file of any version is written."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from models.artifacts import bank
from models.artifacts.manifest import ArtifactError
from pipelines.ranking import publish, rollback
from pipelines.ranking.rollback import RollbackConfig
from pipelines.settings import Settings
from pipelines.tables.artifacts import Artifacts
from pipelines.tables.storage import Storage
from tests.pipelines.jobs import run_job


def artifacts(settings: Settings) -> Artifacts:
    return Artifacts(Storage.open(settings.storage.root))


def back_to(settings: Settings, version: str | None) -> Settings:
    return replace(settings, rollback=RollbackConfig(version=version))


def publish_until(settings: Settings, day: str) -> str:
    return str(run_job(publish, replace(settings, publish=replace(settings.publish, until=day)))["run_id"])


def files(root: Path) -> dict[Path, tuple[int, int]]:
    return {p: (p.stat().st_ino, p.stat().st_mtime_ns) for p in root.rglob("v=*/*")}


def test_current_moves_back_and_on_under_a_mapped_reader(trained: Settings) -> None:
    store = artifacts(trained)
    old, new = publish_until(trained, "2026-01-02"), publish_until(trained, "2026-01-03")
    mapped = {run_id: bank.read(store.fetch("bank", run_id)).states["sarm"] for run_id in (old, new)}
    held = {run_id: np.array(state) for run_id, state in mapped.items()}
    before = files(Path(trained.storage.root) / "artifacts" / "bank")
    assert run_job(rollback, trained) == {"run_id": old, "how": "rolled back", "before": new}
    assert store.current("bank") == old
    # The job itself, too: the same bank made again is stored already.
    assert publish_until(trained, "2026-01-03") == new and store.current("bank") == new
    assert run_job(rollback, back_to(trained, old))["run_id"] == old
    assert files(Path(trained.storage.root) / "artifacts" / "bank") == before
    assert all(np.array_equal(mapped[run_id], held[run_id]) for run_id in held)


def test_without_an_older_bank_there_is_nothing_to_go_back_to(trained: Settings) -> None:
    with pytest.raises(ArtifactError, match="wanted a bank that was published before CURRENT, None, got none"):
        run_job(rollback, trained)
    only = publish_until(trained, "2026-01-03")
    with pytest.raises(ArtifactError, match=f"before CURRENT, {only}"):
        run_job(rollback, trained)


@pytest.mark.parametrize("kind", ["bank", "sarm"])
def test_a_bank_that_is_damaged_or_without_its_ranker_is_refused(trained: Settings, kind: str) -> None:
    old, new = publish_until(trained, "2026-01-02"), publish_until(trained, "2026-01-03")
    store = artifacts(trained)
    folder = store.fetch("bank", old) if kind == "bank" else store.fetch("sarm")
    file = folder / ("source_sarm.npy" if kind == "bank" else "model.safetensors")
    content = bytearray(file.read_bytes())
    content[-5] ^= 1
    file.write_bytes(content)
    with pytest.raises(ArtifactError, match=f"{file.name} wanted sha256"):
        run_job(rollback, trained)
    assert store.current("bank") == new


def test_a_version_that_is_not_there_is_named(trained: Settings) -> None:
    publish_until(trained, "2026-01-03")
    with pytest.raises(ArtifactError, match="bank/v=nowhere: wanted MANIFEST.json, got none"):
        run_job(rollback, back_to(trained, "nowhere"))
