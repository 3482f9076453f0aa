"""Rows of `examples` as requests: what is served beside what was computed offline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from models.history import HISTORY_PAD
from pipelines.serving.client import Client


def example_request(columns: Mapping[str, Any], row: int, candidates: Sequence[int]) -> dict[str, Any]:
    """A row of `examples` as a request: the history as it was known then, ages turned back into times."""
    ts_ms = int(columns["ts_ms"][row])
    history = [
        {
            "author_id": int(author),
            "ts_ms": ts_ms - round(float(age) * 1000),
            "watch_time_s": float(watch),
        }
        for author, age, watch in zip(
            columns["history_author_ids"][row],
            columns["history_age_s"][row],
            columns["history_watch_s"][row],
            strict=True,
        )
        if author != HISTORY_PAD
    ]
    return {
        "user_id": int(columns["user_id"][row]),
        "candidates": [int(c) for c in candidates],
        "history": history,
        "context": {"ts_ms": ts_ms},
    }


def compare(url: str, columns: Mapping[str, Any], offline: Any, rows: Sequence[int], tasks: Sequence[str]) -> float:
    """Largest difference between served and offline probabilities [n, K] of `tasks`, for rows of `examples`."""
    worst = 0.0
    with Client(url) as client:
        for row in rows:
            answer = client.post("/rank", example_request(columns, row, [columns["author_id"][row]]))["candidates"][0]
            served = np.array([answer[task] for task in tasks])
            worst = max(worst, float(np.abs(served - offline[row]).max()))
    return worst
