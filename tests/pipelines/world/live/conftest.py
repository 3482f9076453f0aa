"""A small live world."""

from typing import Any

import pytest

from pipelines.settings import Settings
from pipelines.tables.storage import Storage, StorageConfig
from pipelines.world import world
from pipelines.world.config import WorldConfig
from pipelines.world.laws import open_laws
from pipelines.world.live.config import LiveConfig
from pipelines.world.live.laws import Live
from tests.pipelines.jobs import run_job

CONFIG = WorldConfig(
    laws="platform", live=LiveConfig(), num_days=2, num_authors=120, num_users=200, on_air_share=0.8,
    impressions_per_day=6000, num_points=48, recorded_segments=0, frame_size=16,
)  # fmt: skip
SEED = 1


def make(root: str, config: WorldConfig = CONFIG, seed: int = SEED) -> dict[str, Any]:
    return run_job(world, Settings(seed=seed, storage=StorageConfig(root=root), world=config))


def laws_of(config: WorldConfig = CONFIG, seed: int = SEED) -> Live:
    laws = open_laws(config, seed)
    assert isinstance(laws, Live)
    return laws


@pytest.fixture(scope="session")
def live_world(tmp_path_factory: pytest.TempPathFactory) -> tuple[Storage, dict[str, Any]]:
    root = str(tmp_path_factory.mktemp("live"))
    counts = make(root)
    return Storage.open(root, oracle=True), counts
