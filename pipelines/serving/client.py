"""A client of the running endpoint: compares its scores with offline ones, and measures how fast it answers."""

import http.client
import json
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from models.history import HISTORY_PAD


class Client:
    """One persistent connection to the endpoint, closed by `with`; not to be shared between threads."""

    def __init__(self, url: str, token: str | None = None) -> None:
        parts = urlsplit(url)
        self._connection = http.client.HTTPConnection(parts.hostname or "127.0.0.1", parts.port, timeout=30)
        self._headers = {"content-type": "application/json"} | ({"authorization": f"Bearer {token}"} if token else {})

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def get(self, path: str) -> Any:
        """JSON of a GET. Raises RuntimeError for any status but 200, with the answer's text."""
        return self._ask("GET", path, None)

    def rank(self, request: Mapping[str, Any]) -> Any:
        """JSON of POST /rank. Raises RuntimeError for any status but 200, with the answer's text."""
        return self._ask("POST", "/rank", json.dumps(request))

    def _ask(self, method: str, path: str, body: str | None) -> Any:
        self._connection.request(method, path, body, self._headers)
        answer = self._connection.getresponse()
        text = answer.read()
        if answer.status != 200:
            raise RuntimeError(f"{method} {path}: wanted status 200, got {answer.status}: {text[:300]!r}")
        return json.loads(text)


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
            answer = client.rank(example_request(columns, row, [columns["author_id"][row]]))["candidates"][0]
            served = np.array([answer[task] for task in tasks])
            worst = max(worst, float(np.abs(served - offline[row]).max()))
    return worst


def load(url: str, requests: Sequence[Mapping[str, Any]], *, clients: int, seconds: float) -> dict[str, float]:
    """Closed loop: each client sends its next request when the last is answered. Latency in ms, rate in requests/s."""
    deadline = time.perf_counter() + seconds

    def one(number: int) -> list[float]:
        took: list[float] = []
        with Client(url) as client:
            while (started := time.perf_counter()) < deadline:
                client.rank(requests[(number + len(took) * clients) % len(requests)])
                took.append(time.perf_counter() - started)
        return took

    with ThreadPoolExecutor(clients) as pool:
        latencies = [t for part in pool.map(one, range(clients)) for t in part]
    return {
        "requests": len(latencies),
        "rank_p50_ms": round(1000 * float(np.percentile(latencies, 50)), 2),
        "rank_p99_ms": round(1000 * float(np.percentile(latencies, 99)), 2),
        "qps": round(len(latencies) / seconds, 1),
    }
