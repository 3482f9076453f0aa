"""Rows of examples as requests, and what is served beside what was computed offline."""

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.serving import offline as served
from pipelines.tables.contract import TASKS_COLUMNS
from tests.pipelines.serving.endpoint import Endpoint


def columns(count: int = 3) -> dict[str, np.ndarray]:
    """Rows of `examples`: user 100+i, author 10+i, one click 1.5 s and one 2 s before."""
    return {
        "user_id": np.arange(count) + 100,
        "author_id": np.arange(count) + 10,
        "ts_ms": np.full(count, 1_767_225_600_000),
        "history_author_ids": np.tile([-1, 7, 8], (count, 1)),
        "history_age_s": np.tile(np.array([0, 2, 1.5], np.float32), (count, 1)),
        "history_watch_s": np.tile(np.array([0, 0.25, 1.5], np.float32), (count, 1)),
    }


def test_a_row_becomes_a_request():
    assert served.example_request(columns(), 1, [5, 6]) == {
        "user_id": 101,
        "candidates": [5, 6],
        "history": [
            {"author_id": 7, "ts_ms": 1_767_225_598_000, "watch_time_s": 0.25},
            {"author_id": 8, "ts_ms": 1_767_225_598_500, "watch_time_s": 1.5},
        ],
        "context": {"ts_ms": 1_767_225_600_000},
    }
    json.dumps(served.example_request(columns(), 1, [5, 6]))


@given(st.lists(st.integers(1, 10 * 86_400_000), min_size=1, max_size=20), st.integers(1, 2**41))
def test_ages_survive_the_way_through_times(ages_ms: list[int], ts_ms: int):
    """What the endpoint computes from the times is, to the last bit of float32, the age the model was trained on."""
    age_s = (np.array(ages_ms) / 1000).astype(np.float32)
    row = {
        "user_id": [1],
        "ts_ms": [ts_ms],
        "history_author_ids": [[1] * len(age_s)],
        "history_age_s": [age_s],
        "history_watch_s": [[0.0] * len(age_s)],
    }
    times = np.array([h["ts_ms"] for h in served.example_request(row, 0, [2])["history"]])
    assert (((ts_ms - times) / 1000).astype(np.float32) == age_s).all()
    short = np.array(ages_ms) < 2**13 * 1000  # float32 tells milliseconds apart
    assert (times[short] == ts_ms - np.array(ages_ms)[short]).all()


def test_the_largest_difference_is_found(endpoint: Endpoint):
    offline = np.random.default_rng(0).random((3, 4))
    shown = offline.copy()
    shown[0, 2] += 0.001
    shown[2, 3] -= 0.25
    shown[1] += 0.5  # not asked for

    def answer(path: str, body: Any) -> tuple[int, Any]:
        row = body["user_id"] - 100
        assert path == "/rank" and body["candidates"] == [row + 10]
        return 200, {"candidates": [dict(zip(TASKS_COLUMNS, shown[row].tolist(), strict=True))]}

    endpoint.answer = answer
    assert served.compare(endpoint.url, columns(), offline, [0], TASKS_COLUMNS) == pytest.approx(0.001)
    assert served.compare(endpoint.url, columns(), offline, [0, 2], TASKS_COLUMNS) == pytest.approx(0.25)
    assert served.compare(endpoint.url, columns(), shown, [0, 1, 2], TASKS_COLUMNS) == 0
    assert [body for _, _, body in endpoint.asked[:2]] == [
        served.example_request(columns(), row, [row + 10]) for row in (0, 0)
    ]
