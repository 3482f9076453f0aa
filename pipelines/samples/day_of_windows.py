"""The rows of `windows` of one day, from the events of that day and the last of the days before."""

from collections.abc import Iterator
from dataclasses import dataclass

import pyarrow as pa

from pipelines.samples import kafka_events
from pipelines.samples.event_reader import DAY_MS, Batch, TableEvents, day_start_ms
from pipelines.samples.examples import window
from pipelines.samples.impression_ids import ImpressionIds
from pipelines.samples.label_figures import LabelFigures
from pipelines.samples.late_events import STAGE, LateEvents
from pipelines.samples.replay import Replay
from pipelines.samples.windows_config import WindowsConfig
from pipelines.tables import rejections
from pipelines.tables.storage import Storage


@dataclass(slots=True)
class Totals:
    """Over the days of a run."""

    figures: LabelFigures
    windows: int = 0
    events: int = 0
    late: int = 0
    duplicates: int = 0
    unmatched: int = 0


@dataclass(frozen=True, slots=True)
class DayOfWindows:
    """The rows of one day."""

    storage: Storage
    config: WindowsConfig
    day: str

    def chunks(self, totals: Totals) -> Iterator[pa.Table]:
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
        if late.count or rejections.of_stage(self.storage, self.day, STAGE).num_rows:
            rejections.replace(self.storage, self.day, STAGE, late.rows())
        totals.late += late.count
        totals.duplicates += replay.duplicates
        totals.unmatched += replay.unmatched

    def _rows(self, replay: Replay, late: LateEvents, totals: Totals) -> Iterator[pa.Table]:
        last_ms = min(replay.since_ms + DAY_MS - 1, kafka_events.watermark_ms(self.storage))
        for batch in self._batches():
            is_late = replay.take(batch.events, batch.floor_ms, batch.ceiling_ms)
            if batch.day in ("", self.day):
                late.add(batch.events, is_late)
            totals.events += int((batch.events["ts_ms"] >= replay.since_ms).sum())
            yield replay.rows(min(replay.watermark_ms, last_ms))
        # A day that is there is there as a whole, unless a topic still fills it: later events stand in later days.
        yield replay.rows(last_ms)

    def _batches(self) -> Iterator[Batch]:
        days = self.storage.days("events")
        start = day_start_ms(self.day)
        reader = TableEvents(
            storage=self.storage,
            day=self.day,
            days=window(self.day, days, self.config.days_back),
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
