"""Window examples: rows of `windows` with the histories that their impressions have in `examples`.

What the job follow learns by windows. Reads windows, impressions and anchors, writes window_examples, one day after
another, by the section `examples`; rows come in the order in which they were reported (within a shard).
Run: python -m pipelines window_examples --config pipelines/configs/demo.yaml
"""

import logging
import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from pipelines.runtime.run import Run
from pipelines.samples.event_reader import DAY_MS
from pipelines.samples.examples import (
    ExamplesConfig,
    anchor_days,
    in_shard,
    read_clicks,
    say_known,
    screens_of,
    window,
    with_histories,
    with_screens,
)
from pipelines.samples.on_screen import Screen
from pipelines.tables.contract import ContractError
from pipelines.tables.days import day_name
from pipelines.tables.due import due_days
from pipelines.tables.fingerprint import digest
from pipelines.tables.storage import Storage

log = logging.getLogger(__name__)
_ORDER = [("window_end_ms", "ascending"), ("impression_id", "ascending"), ("reason", "ascending")]
_MOST_DAYS_BACK = 7
"""Days before its report on which an impression may have been shown, at most."""


def run(config: ExamplesConfig, run: Run) -> dict[str, Any]:
    """Writes the `window_examples` of every day of `windows` that is not current yet."""
    storage = run.storage
    screens = screens_of(storage, config)
    made_from = _made_from(storage, config, screens)
    if not made_from:
        raise ContractError("table windows: wanted at least one day, got none; run the job windows first")
    written: dict[str, int] = {}
    for day in due_days(storage, "window_examples", made_from):
        started = time.perf_counter()
        written[day] = storage.write(
            "window_examples", day, _chunks(storage, config, day, screens), made_from[day]
        ).rows
        log.info("window examples of %s | %d rows | %.1f s", day, written[day], time.perf_counter() - started)
    figures = {"days": list(made_from), "days_written": sorted(written), "window_examples": sum(written.values())}
    return figures | ({"on_screen": say_known(screens)} if screens and written else {})


def _made_from(storage: Storage, config: ExamplesConfig, screens: Sequence[Screen]) -> dict[str, dict[str, str]]:
    windows, impressions, anchors = (storage.listing(name) for name in ("windows", "impressions", "anchors"))
    found = {}
    for day in windows.days:
        read = window(day, impressions.days, config.history_days + _MOST_DAYS_BACK)
        found[day] = {
            "config": config.fingerprint,
            "windows": windows.stamp(day),
            "impressions": digest([[d, impressions.stamp(d)] for d in read]),
            "anchors": anchors.history(before=day),
        }
        for screen in screens:
            found[day] |= screen.made_from([*read, day])
    return found


def _chunks(storage: Storage, config: ExamplesConfig, day: str, screens: Sequence[Screen]) -> Iterator[pa.Table]:
    """`chunk_rows` at a time."""
    anchors, days = anchor_days(storage, day), storage.days("impressions")
    for shard in range(config.shards):
        rows = storage.read("windows", day, where=in_shard(config, shard)).sort_by(_ORDER)
        if not rows.num_rows:
            continue
        rows = with_screens(rows, screens)
        parts = []
        shown = rows["ts_ms"].to_numpy() // DAY_MS
        for number in np.unique(shown):
            # The clicks that the examples of that day have, so that the histories are the same.
            known = window(day_name(int(number)), days, config.history_days)
            clicks = read_clicks(storage, known, in_shard(config, shard), screens)
            of_day = rows.filter(pa.array(shown == number))
            for start in range(0, of_day.num_rows, config.chunk_rows):
                parts.append(with_histories(of_day.slice(start, config.chunk_rows), clicks, anchors, config))
        made = pa.concat_tables(parts).sort_by(_ORDER)
        for start in range(0, made.num_rows, config.chunk_rows):
            yield made.slice(start, config.chunk_rows)
