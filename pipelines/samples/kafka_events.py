"""Messages of a Kafka topic as rows of the table `events`, each once, in bounded reads.

A message is a JSON object with the columns of `events` (`value` may be left out). A run reads what was there when it
began. Each read becomes rows of the days of its events, and the commit of the newest of these days says, in
`made_from`, from which offset to which was read: a run that is killed goes on from there, and what the kill had written
of the other days is known by its keys and not written twice.

What was told stays told: the last commit of a run says the watermark, up to which labels may be reported, and later
runs leave events before it out as late.
"""

import io
import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.json as pj

from models.visits import EVENT_KINDS, NEVER, Bools
from pipelines.samples.kafka_reader import MessageReader, Offsets
from pipelines.tables import contract, rejections
from pipelines.tables.days import day_name
from pipelines.tables.storage import Storage

log = logging.getLogger(__name__)
STAGE = "kafka"
_TOPIC = "topic"
"""In the commit of every day that a topic fills."""
_STATE = "kafka"
"""In those that say how far it was read, the newest one among them."""
_DAY_MS = 86_400_000
_SCHEMA = pa.schema([pa.field(field.name, field.type) for field in contract.spec("events").schema])
_OTHERS = "messages not listed"


@dataclass(kw_only=True, slots=True)
class Position:
    """How far a topic was read."""

    topic: str
    end: Offsets
    """Of the next messages."""
    newest_ms: int = -NEVER
    """The newest event so far."""
    watermark_ms: int = -NEVER
    """Events before it are late."""

    def made_from(self, start: Offsets) -> dict[str, str]:
        """For the commit of what was read from `start` on."""
        offsets = {str(partition): [start.get(partition, 0), end] for partition, end in self.end.items()}
        state = {
            "topic": self.topic,
            "offsets": offsets,
            "newest_ms": self.newest_ms,
            "watermark_ms": self.watermark_ms,
        }
        return {_TOPIC: self.topic, _STATE: json.dumps(state, sort_keys=True)}


@dataclass(kw_only=True, slots=True)
class Taken:
    """What a run took in: counts of messages."""

    events: int = 0
    repeated: int = 0
    late: int = 0
    bad: int = 0


def position(storage: Storage) -> tuple[str, Position] | None:
    """The newest day whose commit says how far a topic was read, and that; None where none does."""
    for day in reversed(storage.days("events")):
        commit = storage.commit_of("events", day)
        if commit is None or _TOPIC not in commit.made_from:
            return None
        if _STATE in commit.made_from:
            state = json.loads(commit.made_from[_STATE])
            end = {int(partition): both[1] for partition, both in state.pop("offsets").items()}
            return day, Position(end=end, **state)
    return None


def watermark_ms(storage: Storage) -> int:
    """Up to which moment all events of the table are there: any, where no topic fills it."""
    known = position(storage)
    return NEVER if known is None else known[1].watermark_ms


def take_in(
    storage: Storage, reader: MessageReader, *, topic: str, batch_rows: int, lateness_ms: int, listed: int
) -> Taken:
    """Takes in all messages that are there now. Raises ContractError where the table was filled from another topic."""
    day, at = position(storage) or ("", Position(topic=topic, end={}))
    if at.topic != topic:
        raise contract.ContractError(
            f"table events, day {day}: wanted events of the topic {topic}, got those of {at.topic}; take another "
            "storage.root for another topic"
        )
    low, high = reader.bounds()
    _warn_of_lost(at.end, low, topic)
    at.end = {partition: max(at.end.get(partition, 0), low[partition]) for partition in high}
    take = _Take(storage, at, lateness_ms, listed, day)
    for end in _reads(at.end, high, batch_rows):
        take.read(reader, end, is_last=end == high)
    return take.taken


def _reads(start: Offsets, high: Offsets, batch_rows: int) -> Iterator[Offsets]:
    """Where each read ends: about `batch_rows` messages further, the same share of what is left in each partition, so
    that partitions of unlike length come to their ends together."""
    left = {partition: high[partition] - start[partition] for partition in high}
    reads = -(-sum(left.values()) // batch_rows)
    for number in range(1, reads + 1):
        yield {partition: start[partition] + left[partition] * number // reads for partition in high}


def _warn_of_lost(end: Offsets, low: Offsets, topic: str) -> None:
    lost = {partition: low[partition] - at for partition, at in end.items() if low.get(partition, 0) > at}
    if lost:
        log.warning(
            "%s | Kafka deleted %d message(s) before they were read: keep them longer", topic, sum(lost.values())
        )


class _Take:
    """One run."""

    def __init__(self, storage: Storage, at: Position, lateness_ms: int, listed: int, newest_day: str) -> None:
        self.taken = Taken()
        self._storage, self._at, self._lateness_ms, self._listed = storage, at, lateness_ms, listed
        self._newest_day = newest_day

    def read(self, reader: MessageReader, end: Offsets, *, is_last: bool) -> None:
        """Takes in the messages up to `end`: rejections first, then days, the one that says the offsets last."""
        start, at = self._at.end, self._at
        messages = reader.read(start, end)
        if messages.num_rows > 1:  # as they arrived
            messages = messages.sort_by([(name, "ascending") for name in ("timestamp", "partition", "offset")])
        events, is_bad = _parsed(messages, self._lateness_ms)
        is_late = ~is_bad & (events["ts_ms"].to_numpy() < at.watermark_ms)
        self._reject(messages, is_bad, is_late)
        events = events.filter(pa.array(~is_bad & ~is_late))
        if events.num_rows:
            at.newest_ms = max(at.newest_ms, pc.max(events["ts_ms"]).as_py())
        at.end = end
        if is_last:
            at.watermark_ms = max(at.watermark_ms, at.newest_ms - self._lateness_ms)
        self._write(events, start)

    def _write(self, events: pa.Table, start: Offsets) -> None:
        numbers = events["ts_ms"].to_numpy() // _DAY_MS
        by_day = {day_name(int(number)): events.filter(pa.array(numbers == number)) for number in np.unique(numbers)}
        self._newest_day = max([self._newest_day, *by_day])
        if not self._newest_day:
            return  # nothing but what was rejected, and no day to say so: it is read again
        for day in sorted({*by_day, self._newest_day}):
            chunks = [new] if day in by_day and (new := self._new(by_day[day], day)).num_rows else []
            is_newest = day == self._newest_day
            commit = self._storage.commit_of("events", day)
            before = dict(commit.made_from) if commit else {_TOPIC: self._at.topic}
            made_from = self._at.made_from(start) if is_newest else before
            if chunks or is_newest:
                self._storage.append("events", day, chunks, made_from)

    def _new(self, events: pa.Table, day: str) -> pa.Table:
        """The first row of each key, without those that the day holds."""
        key = list(contract.spec("events").key)
        place = pa.array(np.arange(events.num_rows))
        first = events.select(key).append_column("_at", place).group_by(key).aggregate([("_at", "min")])
        if self._storage.holds("events", day):
            moments = pc.min_max(events["ts_ms"]).as_py()
            within = (pc.field("ts_ms") >= moments["min"]) & (pc.field("ts_ms") <= moments["max"])
            first = first.join(self._storage.read("events", day, key, within), key, join_type="left anti")
        new = events.take(first["_at_min"].sort())
        self.taken.events += new.num_rows
        self.taken.repeated += events.num_rows - new.num_rows
        return new

    def _reject(self, messages: pa.Table, is_bad: Bools, is_late: Bools) -> None:
        """Adds to the rejections of the days on which messages came: some by their place, the others as a number."""
        self.taken.bad += int(is_bad.sum())
        self.taken.late += int(is_late.sum())
        rows = messages.filter(pa.array(is_bad | is_late))
        late = is_late[is_bad | is_late]
        numbers = rows["timestamp"].to_numpy() // _DAY_MS
        for number in np.unique(numbers):
            day = day_name(int(number))
            known = {row["key"]: row for row in rejections.of_stage(self._storage, day, STAGE).to_pylist()}
            others = known.pop(_OTHERS, {"attempts": 0})["attempts"]
            for row in np.flatnonzero(numbers == number).tolist():
                new = self._rejection(rows.slice(row, 1).to_pylist()[0], bool(late[row]))
                if new["key"] in known or len(known) < self._listed:
                    known[new["key"]] = new
                else:
                    others += 1
            if others:
                detail = f"{others} more messages, beyond windows.listed_late ({self._listed})"
                known[_OTHERS] = {"key": _OTHERS, "reason": "bad_row", "detail": detail, "attempts": others}
            rejections.replace(self._storage, day, STAGE, known.values())

    def _rejection(self, message: dict[str, Any], is_late: bool) -> dict[str, Any]:
        key = f"{self._at.topic}, partition {message['partition']}, offset {message['offset']}"
        if is_late:
            detail = f"an event before {self._at.watermark_ms} ms, up to which labels were reported; raise lateness_s"
            return {"key": key, "reason": "late_event", "detail": detail}
        detail = (
            f"wanted a JSON object with {', '.join(_SCHEMA.names)}, kind one of {', '.join(EVENT_KINDS)}, ts_ms in ms "
            f"and not behind the message's own time, got {message['value'][:200]!r}; correct what sends it"
        )
        return {"key": key, "reason": "bad_row", "detail": detail}


def _parsed(messages: pa.Table, lateness_ms: int) -> tuple[pa.Table, Bools]:
    """The events of messages, and which messages are none, [M] both; a row of such a message says nothing."""
    events = _json([value or b"" for value in messages["value"].to_pylist()])
    events = events.set_column(_SCHEMA.get_field_index("value"), "value", pc.fill_null(events["value"], 0.0))
    is_bad = np.zeros(messages.num_rows, bool)
    for name in _SCHEMA.names:
        is_bad |= pc.is_null(events[name]).to_numpy()
    is_bad |= ~pc.is_in(events["kind"], pa.array(EVENT_KINDS)).to_numpy()
    is_bad |= ~pc.is_finite(events["value"]).to_numpy()
    # A clock that is wrong must not move the watermark for all others.
    ahead_ms = pc.fill_null(events["ts_ms"], 0).to_numpy() - messages["timestamp"].to_numpy()
    filled = events.set_column(_SCHEMA.get_field_index("ts_ms"), "ts_ms", pc.fill_null(events["ts_ms"], 0))
    return filled, is_bad | (ahead_ms > lateness_ms) | (filled["ts_ms"].to_numpy() < 0)


def _json(lines: list[bytes]) -> pa.Table:
    """A row for each line, of nulls where it is no object with the right types: found by halves, as Arrow reads many
    lines at once or none."""
    if not lines:
        return _SCHEMA.empty_table()
    options = pj.ParseOptions(explicit_schema=_SCHEMA, unexpected_field_behavior="ignore")
    text = b"\n".join(line.replace(b"\n", b" ").replace(b"\r", b" ") for line in lines)
    try:
        table = pj.read_json(io.BytesIO(text), parse_options=options)
        if table.num_rows == len(lines):
            return pa.table(table.columns, schema=_SCHEMA)
    except pa.ArrowInvalid as error:
        log.debug("%d message(s): %s", len(lines), error)
    if len(lines) == 1:
        return pa.Table.from_pylist([{}], schema=_SCHEMA)
    middle = len(lines) // 2
    return pa.concat_tables([_json(lines[:middle]), _json(lines[middle:])])
