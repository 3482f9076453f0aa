"""Histories at serving are those of training, a delay included: served scores equal offline ones."""

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from models import TASKS
from pipelines.ranking import evaluate, publish
from pipelines.samples import examples
from pipelines.samples.batches import read_examples, take
from pipelines.samples.examples import Clicks, read_clicks
from pipelines.serving.offline import example_request
from pipelines.settings import Settings
from pipelines.tables.storage import Storage
from serve.schema import RankRequest
from serve.user_sequence import UserSequence
from tests.pipelines.conftest import tiny_settings, train_here
from tests.pipelines.jobs import run_job
from tests.serve.conftest import watcher_of

DELAY_MS = 600_000


@pytest.fixture(scope="module")
def delayed(tiny_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """SARM trained, evaluated and published on examples whose clicks are known after ten minutes."""
    root = tmp_path_factory.mktemp("delayed") / "tiny"
    shutil.copytree(tiny_store, root)
    tiny = tiny_settings(root)
    settings = replace(
        tiny,
        examples=replace(tiny.examples, delay_s=DELAY_MS / 1000),
        train=replace(tiny.train, base=False),
        publish=replace(tiny.publish, until="2026-01-02"),
    )
    run_job(examples, settings)
    train_here(settings)
    run_job(evaluate, settings)
    run_job(publish, settings)
    return settings


@pytest.fixture(scope="module")
def sequence(delayed: Settings) -> UserSequence:
    return UserSequence(watcher_of(Path(delayed.storage.root)))


@pytest.fixture(scope="module")
def clicks(delayed: Settings) -> Clicks:
    storage = Storage.open(delayed.storage.root)
    return read_clicks(storage, storage.days("impressions"))


def rows(settings: Settings) -> Iterator[tuple[dict[str, Any], list[float]]]:
    """Examples of the day of evaluation, each with its offline scores."""
    columns = read_examples(Storage.open(settings.storage.root), "2026-01-03")
    with np.load(Path(settings.run_dir) / "scores-sarm.npz") as file:
        scores = file["scores"]
    for row in range(len(scores)):
        yield take(columns, slice(row, row + 1)), scores[row]


def served(sequence: UserSequence, row: dict[str, Any], history: list[dict[str, Any]] | None) -> list[float]:
    request = example_request(row, 0, [row["author_id"][0]]) | {"history": history}
    (candidate,) = sequence.rank(RankRequest.model_validate(request)).candidates
    return [getattr(candidate, task) for task in TASKS]


def clicks_of(clicks: Clicks, user_id: int) -> list[dict[str, Any]]:
    mine = clicks.user_ids[clicks.user] == user_id
    named = zip(clicks.author_id[mine], clicks.ts_ms[mine], clicks.watch_time_s[mine], strict=True)
    return [{"author_id": int(a), "ts_ms": int(t), "watch_time_s": float(w)} for a, t, w in named]


def is_delayed(row: dict[str, Any], of_user: list[dict[str, Any]]) -> bool:
    """True where the delay hides a click from this impression."""
    moment = int(row["ts_ms"][0])
    return any(moment - DELAY_MS <= click["ts_ms"] < moment for click in of_user)


def test_scores_of_a_request_that_brings_all_clicks_are_the_offline_ones(
    delayed: Settings, sequence: UserSequence, clicks: Clicks
) -> None:
    hidden = 0
    for row, wanted in rows(delayed):
        of_user = clicks_of(clicks, int(row["user_id"][0]))
        hidden += is_delayed(row, of_user)
        np.testing.assert_allclose(served(sequence, row, of_user), wanted, atol=1e-5)
    assert hidden > 100


def test_scores_of_published_histories_are_the_offline_ones(
    delayed: Settings, sequence: UserSequence, clicks: Clicks
) -> None:
    """Of impressions after the user's newest click: what was published holds no more than was known by then."""
    compared = hidden = 0
    for row, wanted in rows(delayed):
        of_user = clicks_of(clicks, int(row["user_id"][0]))
        if of_user and of_user[-1]["ts_ms"] < row["ts_ms"][0]:
            compared, hidden = compared + 1, hidden + is_delayed(row, of_user)
            np.testing.assert_allclose(served(sequence, row, None), wanted, atol=1e-5)
    assert compared > 50 and hidden > 10
