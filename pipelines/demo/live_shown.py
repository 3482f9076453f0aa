"""What the report shows of the live part: one live's screens and codes, and what the endpoint finds for a user."""

import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pipelines.demo import live
from pipelines.demo.config import LiveDemoConfig
from pipelines.runtime.run import Run
from pipelines.samples.batches import read_examples
from pipelines.serving import offline
from pipelines.serving.client import Client
from pipelines.tables.columns import Columns
from pipelines.tables.storage import Storage

_WAIT_S = 60.0
_CLICKED_BEFORE_MS = 1_000


def moving_live(shown: Columns, storage: Storage) -> tuple[dict[str, Any], list[bytes]]:
    """The live of the newest day whose screen changes most often, segment by segment; a frame of each act."""
    lives = {int(live_id): np.flatnonzero(shown["live_id"] == live_id) for live_id in np.unique(shown["live_id"])}
    rows = max(lives.values(), key=lambda rows: int((np.diff(shown["act"][rows]) != 0).sum()))
    _, first = np.unique(shown["act"][rows], return_index=True)
    told = {
        "author_id": int(shown["author_id"][rows[0]]),
        "live_id": int(shown["live_id"][rows[0]]),
        "segments": [
            {
                "segment": int(shown["segment"][row]),
                "act": int(shown["act"][row]),
                "theme": str(shown["theme"][row]),
                "scene": str(shown["scene"][row]),
                "intensity": int(shown["intensity"][row]),
                "codes": shown["codes"][row].tolist(),
            }
            for row in rows
        ],
    }
    return told, [_frame(storage, shown, int(rows[at])) for at in np.sort(first)]


def _frame(storage: Storage, shown: Columns, row: int) -> bytes:
    import pyarrow.compute as pc

    where = (pc.field("live_id") == int(shown["live_id"][row])) & (pc.field("segment") == int(shown["segment"][row]))
    found = storage.read("segments", storage.days("segments")[-1], ["live_id", "segment", "frames"], where)
    frame: bytes = found["frames"][0].as_py()[0]["jpeg"]
    return frame


def retrieved(config: LiveDemoConfig, run: Run, beside: Storage, url: str) -> dict[str, Any]:
    """The nearest lives to a user on the newest day, by the endpoint: at a moment, later, and after one more click.

    `run` is that of `live.own`; the index of the first moment is in use when this begins.
    """
    storage = run.storage.with_oracle()
    shown = live.newest_segments_of(storage)
    later_ms = round(1000 * config.later_s)
    first_ms = live.busiest_moment(shown, later_ms)
    moments = [first_ms, first_ms + later_ms]
    request = _request(storage, run.seed)
    with Client(url) as endpoint:
        before = _ask(endpoint, request, moments[0])
        made = live.publish(run, beside, moments[1])
        _wait_for(endpoint, made["run_id"])
        after = _ask(endpoint, request, moments[1])
        clicked = after["author_ids"][-1]
        click = {"author_id": clicked, "ts_ms": moments[1] - _CLICKED_BEFORE_MS, "watch_time_s": 1.0}
        again = _ask(endpoint, request | {"history": [*request["history"], click]}, moments[1])
    answers = [before, after, again]
    authors = dict(zip(after["live_ids"], after["author_ids"], strict=True))
    last = after["live_ids"][-1]
    lives = [each for each in dict.fromkeys([*after["live_ids"][: config.found], last])]
    return {
        "user_id": request["user_id"],
        "history": len(request["history"]),
        "later_s": config.later_s,
        "on_air": [answer["on_air"] for answer in answers],
        "clicked": clicked,
        "lives": [
            {
                "author_id": authors[each],
                "live_id": each,
                "screens": [_screen(shown, each, moment) for moment in moments],
                "places": [_place(answer, each) for answer in answers],
                "scores": [_score(answer, each) for answer in answers],
            }
            for each in lives
        ],
    }


def first_moment(config: LiveDemoConfig, run: Run) -> int:
    """When the endpoint is asked first."""
    shown = live.newest_segments_of(run.storage.with_oracle())
    return live.busiest_moment(shown, round(1000 * config.later_s))


def _request(storage: Storage, seed: int) -> dict[str, Any]:
    """A user of the newest day with a history, as of the first time that they were shown anything on that day."""
    columns = read_examples(storage, storage.days("examples")[-1])
    used = (columns["history_author_ids"] >= 0).sum(axis=1)
    rows = np.flatnonzero(used >= min(10, used.max()))
    row = int(np.random.default_rng([seed, 14]).choice(rows))
    request = offline.example_request(columns, row, [])
    return {"user_id": request["user_id"], "history": request["history"]}


def _ask(endpoint: Client, request: Mapping[str, Any], ts_ms: int) -> dict[str, Any]:
    answer: dict[str, Any] = endpoint.post("/retrieve", {**request, "context": {"ts_ms": ts_ms}})
    return answer


def _wait_for(endpoint: Client, run_id: str) -> None:
    """Returns once the endpoint answers from the index. Raises TimeoutError naming both versions."""
    deadline = time.monotonic() + _WAIT_S
    while (got := endpoint.get("/index")["index_version"]) != run_id:
        if time.monotonic() > deadline:
            raise TimeoutError(f"serve: wanted index {run_id} within {_WAIT_S:.0f} s, it still answers from {got}")
        time.sleep(0.2)


def _screen(shown: Columns, live_id: int, ts_ms: int) -> str:
    """What the newest segment of a live that had ended really shows; "" before the first."""
    rows = np.flatnonzero((shown["live_id"] == live_id) & (shown["end_ts_ms"] <= ts_ms))
    return f"{shown['theme'][rows[-1]]}, {shown['scene'][rows[-1]]}" if len(rows) else ""


def _place(answer: Mapping[str, Any], live_id: int) -> int | None:
    """From 1; None where it was not found."""
    ids: Sequence[int] = answer["live_ids"]
    return ids.index(live_id) + 1 if live_id in ids else None


def _score(answer: Mapping[str, Any], live_id: int) -> float | None:
    place = _place(answer, live_id)
    return None if place is None else float(answer["scores"][place - 1])
