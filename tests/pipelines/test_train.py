"""Training over the tiny platform: resuming, sharing among workers, and what may be read."""

from pathlib import Path

import pytest

from models.manifest import Manifest
from pipelines import train
from pipelines.artifacts import Artifacts
from pipelines.settings import Settings
from pipelines.storage import Storage


@pytest.mark.ray
def test_two_workers_train_and_publish_both_variants(tiny: Settings) -> None:
    metrics = train.run(tiny)
    storage = Storage.open(tiny.storage.root)
    for variant, kind in (("sarm", "model"), ("base", "base")):
        folder = Artifacts(storage).fetch(kind)
        manifest = Manifest.verify(Path(folder))
        print(manifest, metrics["variants"][variant])
