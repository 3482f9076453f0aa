"""What the metrics are told of requests that were ranked."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from fastapi.testclient import TestClient

from serve.admission import Line
from serve.api import create_api
from serve.args import AdmissionConfig
from serve.observe import METRICS
from serve.user_sequence import UserSequence
from tests.serve.conftest import AUTHOR_IDS, USER_IDS, Published, watcher_of
from tests.serve.test_observe import Kept


@pytest.fixture
def asked(shared: Published) -> Iterator[tuple[TestClient, Kept]]:
    config, meter, authors = AdmissionConfig(), Kept(), None
    api = create_api(UserSequence(watcher_of(shared.root)), authors, Line(config), config, meter=meter)  # type: ignore[arg-type]
    with TestClient(api) as client:
        yield client, meter


def test_stages_and_what_is_not_known_are_counted(asked: tuple[TestClient, Kept]) -> None:
    client, meter = asked
    known = {"user_id": int(USER_IDS[-1]), "candidates": AUTHOR_IDS[:3].tolist()}
    assert client.post("/rank", json=known).status_code == 200
    stages = [tags["stage"] for name, _, tags in meter.observed if name == "rank_stage_seconds"]
    assert stages == ["wait", "history", "gather", "forward", "answer", "serialise"]
    assert all(0 <= value < 60 for name, value, _ in meter.observed if name == "rank_stage_seconds")
    assert ("rank_candidates", 3, {}) in meter.observed
    counted = {name: (value, tags) for name, value, tags in meter.counted}
    assert counted["rank_answers"] == (1.0, {"arm": "current", "bank": "a", "model": "m-a"})
    assert counted["rank_histories"] == (1.0, {"source": "published"})
    assert not {"rank_cold_authors", "rank_unknown_users", "rank_degraded"} & set(counted)


def test_a_batch_is_counted_by_its_requests(asked: tuple[TestClient, Kept]) -> None:
    client, meter = asked
    requests = [{"user_id": -5, "candidates": [5, -1, -2]}, {"user_id": -6, "candidates": [5], "history": []}]
    assert client.post("/rank/batch", json={"requests": requests}).status_code == 200
    assert [value for name, value, _ in meter.counted if name == "rank_cold_authors"] == [2]
    assert len([name for name, _, _ in meter.counted if name == "rank_unknown_users"]) == 2
    assert sorted(tags["source"] for name, _, tags in meter.counted if name == "rank_histories") == ["none", "request"]


def test_all_that_is_told_is_a_metric_with_these_tags(asked: tuple[TestClient, Kept]) -> None:
    client, meter = asked
    client.post("/rank", json={"user_id": -5, "candidates": [-1]})
    client.get("/healthz")
    for name, _, tags in meter.counted + meter.observed:
        assert set(tags) == set(METRICS[name].tags), name
