"""Windows: the labels of impressions as a training stream learns them, each once, at the end of a window of seconds.

Reads events (and impressions, for their ids), writes windows, one day after another; label_rules.py has the rules. A
day of windows holds what was reported on it, in the order of time; an impression of the evening may be reported on the
next day. A day is made from its own events and the last hours of the days before, so nothing but tables is kept between
runs: a day that was committed is done, any other is made again as a whole. Memory is a batch of events, and those of
visits that are not over.
Run: python -m pipelines windows --config pipelines/configs/demo.yaml
"""

import logging
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import pyarrow as pa

from pipelines.runtime.run import Run
from pipelines.samples.event_reader import DAY_MS, ORDERS, Batch, TableEvents, day_start_ms
from pipelines.samples.examples import window
from pipelines.samples.impression_ids import ImpressionIds
from pipelines.samples.label_figures import LabelFigures
from pipelines.samples.label_rules import LABELS, TASKS, LabelRule
from pipelines.samples.late_events import STAGE, LateEvents
from pipelines.samples.replay import Replay
from pipelines.tables import contract, rejections
from pipelines.tables.days import day_name, day_number
from pipelines.tables.due import due_days
from pipelines.tables.fingerprint import digest
from pipelines.tables.storage import Storage

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class SourceConfig:
    """Where events come from."""

    order: str = "time"
    """`time`: the events of a day are sorted by their moments, as files may hold them in any order. `arrival`: files
    hold them in the order in which they arrived, and those that are more than `lateness_s` behind are left out."""

    def __post_init__(self) -> None:
        if self.order not in ORDERS:
            raise ValueError(f"order: wanted one of {', '.join(ORDERS)}, got {self.order}")


@dataclass(frozen=True, kw_only=True, slots=True)
class WindowsConfig:
    """When labels are reported."""

    labels: str = "moment"
    """`moment`, `sliver` or `fixed`: see label_rules.py."""
    window_s: float = 30.0
    """Seconds of a window; with `fixed` 300 and 3600 are the usual ones."""
    tasks: tuple[str, ...] = ("click", "follow", "like", "comment", "gift", "long_view")
    """Labels, in the order of the columns; `click` must be there."""
    click_timeout_s: float = 60.0
    """An exposure without a click is over after so many seconds: nothing in the events says that it was passed by."""
    visit_timeout_s: float = 14_400.0
    """A visit without an exit is over so many seconds after its exposure (four hours)."""
    long_view_s: float = 60.0
    """A long view is one of so many seconds after the click, or with an exit that says so many."""
    lateness_s: float = 300.0
    """How far behind the newest event an event may arrive; rows are made so much later than they could be."""
    grace_s: float = 600.0
    """A visit is remembered so long after its last report: what happens then counts for the figures' truth alone."""
    batch_rows: int = 1_000_000
    """Events that are taken in at a time; changes no row."""
    chunk_rows: int = 524_288
    """Rows of a file."""
    listed_late: int = 1000
    """Late events of a day that become rows of `rejections`; one more row counts the others."""
    source: SourceConfig = field(default_factory=SourceConfig)
    """Where events come from."""

    def __post_init__(self) -> None:
        if self.labels not in LABELS:
            raise ValueError(f"labels: wanted one of {', '.join(LABELS)}, got {self.labels}")
        unknown = [task for task in self.tasks if task not in TASKS]
        if unknown or "click" not in self.tasks or len(set(self.tasks)) < len(self.tasks):
            raise ValueError(f"tasks: wanted click and others of {', '.join(TASKS)}, each once, got {self.tasks}")
        if min(self.window_s, self.click_timeout_s, self.long_view_s) < 0.001 or min(self.lateness_s, self.grace_s) < 0:
            raise ValueError(
                "wanted window_s, click_timeout_s and long_view_s > 0, lateness_s and grace_s >= 0, got "
                f"{self}; correct them"
            )
        if self.visit_timeout_s < self.click_timeout_s:
            raise ValueError(
                f"visit_timeout_s: wanted at least click_timeout_s ({self.click_timeout_s}), got {self.visit_timeout_s}"
            )
        if min(self.batch_rows, self.chunk_rows) < 1 or self.listed_late < 0:
            raise ValueError(f"wanted batch_rows and chunk_rows >= 1, listed_late >= 0, got {self}; correct them")

    @property
    def rule(self) -> LabelRule:
        """The same in ms."""
        return LabelRule(
            labels=self.labels,
            tasks=self.tasks,
            window_ms=round(self.window_s * 1000),
            click_timeout_ms=round(self.click_timeout_s * 1000),
            visit_timeout_ms=round(self.visit_timeout_s * 1000),
            long_view_ms=round(self.long_view_s * 1000),
            grace_ms=round(self.grace_s * 1000),
        )


@dataclass(slots=True)
class _Totals:
    """Over the days of a run."""

    figures: LabelFigures
    windows: int = 0
    events: int = 0
    late: int = 0
    duplicates: int = 0
    unmatched: int = 0


def run(config: WindowsConfig, run: Run) -> dict[str, Any]:
    """Writes the `windows` of every day of `events` that is not current yet, and of days between on which visits ended.

    Returns {days, days_written, labels, windows, events, late, duplicates, unmatched}, and the figures of LabelFigures
    for the days written.
    """
    storage = run.storage
    made_from = _made_from(storage, config)
    if not made_from:
        raise contract.ContractError(
            "table events: wanted at least one day, got none; run the job that writes events first"
        )
    totals = _Totals(LabelFigures(config.tasks))
    written = list[str]()
    for day in due_days(storage, "windows", made_from):
        started = time.perf_counter()
        rows = storage.write("windows", day, _DayOfWindows(storage, config, day).chunks(totals), made_from[day]).rows
        totals.windows += rows
        written.append(day)
        log.info("windows of %s | %s | %d rows | %.1f s", day, config.labels, rows, time.perf_counter() - started)
    counts = {name: getattr(totals, name) for name in ("windows", "events", "late", "duplicates", "unmatched")}
    figures = totals.figures.as_dict()
    _log(figures, counts)
    return {"days": list(made_from), "days_written": written, "labels": config.labels, **counts, **figures}


def _days_back(config: WindowsConfig) -> int:
    """How many days before a day may hold events of visits that are remembered on it: an event stands in the day of its
    exposure, up to a day before its own."""
    return -(-config.rule.longest_ms // DAY_MS) + 1


def _made_from(storage: Storage, config: WindowsConfig) -> dict[str, dict[str, str]]:
    """By day of windows, what they are made from."""
    events, impressions = storage.listing("events"), storage.listing("impressions")
    passing = ("batch_rows", "listed_late", "chunk_rows")  # change no row
    rule = digest({key: value for key, value in asdict(config).items() if key not in passing})
    back, made_from = _days_back(config), dict[str, dict[str, str]]()
    for day in _days(events.days, back):
        of = {"config": rule}
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


@dataclass(frozen=True, slots=True)
class _DayOfWindows:
    """The rows of one day."""

    storage: Storage
    config: WindowsConfig
    day: str

    def chunks(self, totals: _Totals) -> Iterator[pa.Table]:
        """The rows in the order of time, `chunk_rows` at a time. Late events become `rejections` with the last."""
        replay = Replay(
            rule=self.config.rule,
            lateness_ms=round(self.config.lateness_s * 1000),
            ids=ImpressionIds(self.storage),
            since_ms=day_start_ms(self.day),
            figures=totals.figures,
        )
        late = LateEvents(self.config.listed_late, self.config.lateness_s)
        yield from _of_equal_size(self._rows(replay, late, totals), self.config.chunk_rows)
        if late.count or self.storage.holds(rejections.TABLE, self.day):
            rejections.replace(self.storage, self.day, STAGE, late.rows())
        totals.late += late.count
        totals.duplicates += replay.duplicates
        totals.unmatched += replay.unmatched

    def _rows(self, replay: Replay, late: LateEvents, totals: _Totals) -> Iterator[pa.Table]:
        last_ms = replay.since_ms + DAY_MS - 1
        for batch in self._batches():
            is_late = replay.take(batch.events, batch.floor_ms, batch.ceiling_ms)
            if batch.day in ("", self.day):
                late.add(batch.events, is_late)
            totals.events += int((batch.events["ts_ms"] >= replay.since_ms).sum())
            yield replay.rows(min(replay.watermark_ms, last_ms))
        # What comes later stands in later days: a day that is there is there as a whole.
        yield replay.rows(last_ms)

    def _batches(self) -> Iterator[Batch]:
        days = self.storage.days("events")
        start = day_start_ms(self.day)
        reader = TableEvents(
            storage=self.storage,
            day=self.day,
            days=window(self.day, days, _days_back(self.config)),
            since_ms=start - self.config.rule.longest_ms,
            until_ms=start + DAY_MS,
            batch_rows=self.config.batch_rows,
            order=self.config.source.order,
        )
        return reader.batches()


def _of_equal_size(tables: Iterator[pa.Table], chunk_rows: int) -> Iterator[pa.Table]:
    """The same rows, `chunk_rows` at a time: files do not depend on how the rows came."""
    held: list[pa.Table] = []
    count = 0
    for table in tables:
        held.append(table)
        count += table.num_rows
        while count >= chunk_rows:
            rows = pa.concat_tables(held)
            yield rows.slice(0, chunk_rows).combine_chunks()
            held, count = [rows.slice(chunk_rows)], count - chunk_rows
    if count:
        yield pa.concat_tables(held).combine_chunks()


def _log(figures: Mapping[str, Any], counts: Mapping[str, int]) -> None:
    for task, of in figures["tasks"].items():
        if of["reported"]:
            right, found = f"{of['reported']} labels, {of['accuracy']:.4f} right", f"{of['found']} of {of['happened']}"
            delay = f", {of['delay_mean_s']} s later, p90 {of['delay_p90_s']} s" if of["found"] else ""
            log.info("windows | %-9s | %s | %s found%s", task, right, found, delay)
    reasons = " | ".join(f"{count} {reason}" for reason, count in figures["rows_by_reason"].items())
    log.info("windows | %d visits over | rows: %s", figures["visits"], reasons)
    log.info("windows | %d events, %d late, %d repeated, %d of no visit", *list(counts.values())[1:])
