"""Windows: the labels of impressions as a training stream learns them, each once, at the end of a window of seconds.

Reads events (and impressions, for their ids), writes windows, one day after another; label_rules.py has the rules. A
day of windows holds what was reported on it, in the order of time; an impression of the evening may be reported on the
next day. A day is made from its own events and the last hours of the days before, so nothing but tables is kept between
runs: a day that was committed is done, any other is made again as a whole. Memory is a batch of events, and those of
visits that are not over; storage.write adds the keys of the day's rows.
Run: python -m pipelines windows --config pipelines/configs/demo.yaml
"""

import logging
import time
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from pipelines.runtime.cluster import connected
from pipelines.runtime.run import Run
from pipelines.samples import kafka_events
from pipelines.samples.day_of_windows import DayOfWindows, Totals
from pipelines.samples.event_reader import DAY_MS, day_start_ms
from pipelines.samples.examples import window
from pipelines.samples.kafka_events import Taken
from pipelines.samples.kafka_reader import RayKafka
from pipelines.samples.label_figures import LabelFigures
from pipelines.samples.windows_config import WindowsConfig
from pipelines.tables import contract
from pipelines.tables.days import day_name, day_number
from pipelines.tables.due import due_days
from pipelines.tables.fingerprint import digest
from pipelines.tables.storage import Storage

log = logging.getLogger(__name__)


def run(config: WindowsConfig, run: Run) -> dict[str, Any]:
    """Writes the `windows` of every day of `events` that is not current yet, and of days between on which visits ended.

    Returns {days, days_written, labels, windows, events, late, duplicates, unmatched}, and the figures of LabelFigures
    for the days written; from a topic also what was taken in of it.
    """
    storage = run.storage
    taken = {"taken": asdict(_take_in(run, config))} if config.source.kind == "kafka" else {}
    made_from = _made_from(storage, config)
    if not made_from:
        raise contract.ContractError(
            "table events: wanted at least one day, got none; run the job that writes events first"
        )
    totals = Totals(LabelFigures(config.tasks))
    written = list[str]()
    for day in due_days(storage, "windows", made_from):
        started = time.perf_counter()
        rows = storage.write("windows", day, DayOfWindows(storage, config, day).chunks(totals), made_from[day]).rows
        totals.windows += rows
        written.append(day)
        log.info("windows of %s | %s | %d rows | %.1f s", day, config.labels, rows, time.perf_counter() - started)
    counts = {name: getattr(totals, name) for name in ("windows", "events", "late", "duplicates", "unmatched")}
    figures = totals.figures.as_dict()
    _log(figures, counts)
    return {"days": list(made_from), "days_written": written, "labels": config.labels, **taken, **counts, **figures}


def _take_in(run: Run, config: WindowsConfig) -> Taken:
    source = config.source
    reader = RayKafka(servers=source.servers, topic=source.topic, consumer=source.consumer)
    reader.bounds()  # what is wrong with the topic is said before Ray starts
    with connected(run.cluster):
        taken = kafka_events.take_in(
            run.storage,
            reader,
            topic=source.topic,
            batch_rows=config.batch_rows,
            lateness_ms=round(config.lateness_s * 1000),
            listed=config.listed_late,
        )
    counts = (taken.events, taken.repeated, taken.late, taken.bad)
    log.info("windows | %s | %d events, %d repeated, %d late, %d bad", source.topic, *counts)
    return taken


def _made_from(storage: Storage, config: WindowsConfig) -> dict[str, dict[str, str]]:
    """By day of windows, what they are made from, and up to which moment."""
    order = config.source.order
    events, impressions = storage.listing("events"), storage.listing("impressions")
    passing = ("batch_rows", "listed_late", "chunk_rows", "source")  # change no row, but for the order
    rule = digest({key: value for key, value in asdict(config).items() if key not in passing} | {"order": order})
    until = kafka_events.watermark_ms(storage)
    back, made_from = config.days_back, dict[str, dict[str, str]]()
    for day in _days(events.days, back):
        of = {"config": rule, "until": str(min(until, day_start_ms(day) + DAY_MS))}
        for listing, name in ((events, "events"), (impressions, "impressions")):
            of[name] = digest([[d, listing.stamp(d)] for d in window(day, listing.days, back)])
        made_from[day] = of
    return made_from


def _days(days: list[str], back: int) -> list[str]:
    """Days that hold events, and those between on which visits of the days before may end."""
    numbers = {day_number(day) for day in days}
    last = max(numbers, default=0)
    between = {number + later for number in numbers for later in range(1, back + 1) if number + later < last}
    return [day_name(number) for number in sorted(numbers | between)]


def _log(figures: Mapping[str, Any], counts: Mapping[str, int]) -> None:
    for task, of in figures["tasks"].items():
        if of["reported"]:
            right, found = f"{of['reported']} labels, {of['accuracy']:.4f} right", f"{of['found']} of {of['happened']}"
            delay = f", {of['delay_mean_s']} s later, p90 {of['delay_p90_s']} s" if of["found"] else ""
            log.info("windows | %-9s | %s | %s found%s", task, right, found, delay)
    reasons = " | ".join(f"{count} {reason}" for reason, count in figures["rows_by_reason"].items())
    log.info("windows | %d visits over | rows: %s", figures["visits"], reasons)
    log.info("windows | %d events, %d late, %d repeated, %d of no visit", *list(counts.values())[1:])
