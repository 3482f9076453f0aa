"""Scores from the truth about content, for worlds of both laws."""

from dataclasses import replace

import numpy as np
import pytest

from models.metrics import gauc
from pipelines.settings import Settings
from pipelines.tables.contract import ContractError
from pipelines.tables.storage import Storage, StorageConfig
from pipelines.world import world
from pipelines.world.ceilings import IN_FORCE, TODAY, ceilings
from pipelines.world.config import LAWS, WorldConfig
from pipelines.world.laws import open_laws
from tests.pipelines.jobs import run_job

CONFIG = WorldConfig(
    num_days=3, warmup_days=2, num_authors=150, num_users=100, impressions_per_day=8000, num_points=48,
    recorded_segments=1, frame_size=16,
)  # fmt: skip
DAY = "2026-01-03"


@pytest.fixture(scope="module", params=LAWS)
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[WorldConfig, Storage]:
    config, root = replace(CONFIG, laws=request.param), tmp_path_factory.mktemp(request.param)
    run_job(world, Settings(seed=1, storage=StorageConfig(root=str(root)), world=config))
    return config, Storage.open(str(root), oracle=True)


def columns_of(storage: Storage) -> dict[str, np.ndarray]:
    table = storage.read("impressions", DAY)
    return {name: table[name].to_numpy() for name in table.column_names}


def test_more_knowledge_ranks_better_and_the_oracle_best(made: tuple[WorldConfig, Storage]):
    config, storage = made
    seen, truth = columns_of(storage), storage.read("oracle_impressions", DAY)["click"].to_numpy()
    scores = ceilings(config, 1, storage, DAY, seen)
    assert list(scores) == [IN_FORCE, TODAY]
    draws = np.random.default_rng(0).random((20, len(truth))) < truth
    quality = [np.mean([gauc(d, s, seen["user_id"]) for d in draws]) for s in (*scores.values(), truth)]
    assert 0.55 < quality[0] < quality[1] - 0.005 < quality[2] - 0.01


def test_scores_follow_the_order_of_the_impressions(made: tuple[WorldConfig, Storage]):
    config, storage = made
    seen = columns_of(storage)
    order = np.random.default_rng(0).permutation(len(seen["click"]))[:500]
    every, some = (ceilings(config, 1, storage, DAY, {"impression_id": ids}) for ids in (
        seen["impression_id"], seen["impression_id"][order]))  # fmt: skip
    for name in every:
        np.testing.assert_allclose(some[name], every[name][order], rtol=1e-5)


def test_an_author_without_an_anchor_in_force_has_no_content_in_it(made: tuple[WorldConfig, Storage]):
    """Newcomers of the day: nothing about them depends on the user but what users are like on average."""
    config, storage = made
    seen, laws = columns_of(storage), open_laws(config, 1)
    known = {p.author_id for day in range(2) for p in laws.plan(day)}
    new = ~np.isin(seen["author_id"], list(known))
    blind = ceilings(replace(config, semantic_taste=False), 1, storage, DAY, seen)
    scores = ceilings(config, 1, storage, DAY, seen)
    assert new.sum() > 20
    np.testing.assert_array_equal(scores[IN_FORCE][new], blind[IN_FORCE][new])
    assert (scores[IN_FORCE][~new] != blind[IN_FORCE][~new]).mean() > 0.99


def test_without_taste_for_content_both_say_the_same(made: tuple[WorldConfig, Storage]):
    config, storage = made
    scores = ceilings(replace(config, semantic_taste=False), 1, storage, DAY, columns_of(storage))
    np.testing.assert_array_equal(scores[IN_FORCE], scores[TODAY])


def test_impressions_of_another_day_are_refused(made: tuple[WorldConfig, Storage]):
    with pytest.raises(ContractError, match="impression 5 is not in the world's 2026-01-03"):
        ceilings(made[0], 1, made[1], DAY, {"impression_id": np.array([5])})
