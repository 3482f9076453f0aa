"""Messages of a topic as rows of `events`: offsets, kills, repeats, late and bad ones.

`Topic` stands in for Kafka: a list of messages for each partition. The last test reads the messages of a real client
over TCP and through Ray, from the broker that librdkafka brings for tests; no other broker was at hand. It needs the
extra kafka, and is skipped without it.
"""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.runtime.cluster import ClusterConfig
from pipelines.runtime.config import ConfigError
from pipelines.samples import kafka_events, windows
from pipelines.samples.kafka_events import Taken
from pipelines.samples.kafka_reader import MESSAGES, Offsets, RayKafka
from pipelines.samples.windows_config import SourceConfig, WindowsConfig
from pipelines.settings import Settings
from pipelines.tables.contract import ContractError
from pipelines.tables.storage import Storage, StorageConfig
from tests.pipelines.jobs import run_job
from tests.pipelines.samples.logs import DAY, START_MS, Event, as_table, reference, rows_between, told, visit

LATENESS_S = 300
AFTER, DAY_S = "2026-01-03", 86_400


def message(event: Event) -> bytes:
    return json.dumps(as_table([event]).to_pylist()[0]).encode()


@dataclass
class Topic:
    """Partitions of (timestamp, value)."""

    partitions: list[list[tuple[int, bytes]]] = field(default_factory=lambda: [[], []])
    low: Offsets = field(default_factory=lambda: {0: 0, 1: 0})
    reads: list[tuple[Offsets, Offsets]] = field(default_factory=list)

    def send(self, events: Sequence[Event], partition: int | None = None) -> None:
        for event in events:
            self.partitions[event.user % 2 if partition is None else partition].append((event.ts_ms, message(event)))

    def bounds(self) -> tuple[Offsets, Offsets]:
        return self.low, {number: len(messages) for number, messages in enumerate(self.partitions)}

    def read(self, start: Offsets, end: Offsets) -> pa.Table:
        self.reads.append((dict(start), dict(end)))
        rows = [
            {"partition": p, "offset": offset, "timestamp": messages[offset][0], "value": messages[offset][1]}
            for p, messages in reversed(list(enumerate(self.partitions)))
            for offset in range(start[p], end[p])
        ]
        return pa.Table.from_pylist(rows, schema=MESSAGES)


def take_in(storage: Storage, topic: Topic, batch_rows: int = 1000, name: str = "events") -> Taken:
    return kafka_events.take_in(
        storage, topic, topic=name, batch_rows=batch_rows, lateness_ms=LATENESS_S * 1000, listed=3
    )


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return Storage.open(str(tmp_path / "store"))


def stored(storage: Storage) -> list[dict[str, Any]]:
    rows = storage.read_days("events", storage.days("events")).to_pylist()
    return sorted(rows, key=lambda row: (row["ts_ms"], row["user_id"], row["live_id"], row["kind"]))


def rows_of(events: Sequence[Event]) -> list[dict[str, Any]]:
    unique = {(e.ts_ms, e.user, e.live, e.kind): e for e in events}
    return as_table([unique[key] for key in sorted(unique)]).to_pylist()


LOG = [
    *visit(at=DAY_S - 400, user=1, click=1, gift=30, exit=(70, 69.0)),
    *visit(at=DAY_S - 20, user=2, click=1, exit=(400, 399.0)),
    *visit(at=DAY_S + 100, user=3),
]


@pytest.mark.parametrize("batch_rows", [1, 2, 5, 100])
def test_every_message_is_read_once_in_bounded_reads(storage: Storage, batch_rows: int) -> None:
    topic = Topic()
    topic.send(LOG)
    taken = take_in(storage, topic, batch_rows)
    assert stored(storage) == rows_of(LOG) and taken == Taken(events=len(LOG))
    assert storage.days("events") == [DAY, AFTER]
    most = batch_rows + 1  # a share of a message more, in one of two partitions
    assert all(sum(end.values()) - sum(start.values()) <= most for start, end in topic.reads)
    topic.reads.clear()
    assert take_in(storage, topic) == Taken() and topic.reads == []
    more = visit(at=DAY_S + 500, user=1)
    topic.send(more)
    assert take_in(storage, topic).events == 1
    assert topic.reads == [({0: 3, 1: 5}, {0: 3, 1: 6})]
    assert stored(storage) == rows_of([*LOG, *more])


def test_the_newest_commit_says_which_offsets_it_was_made_from(storage: Storage) -> None:
    topic = Topic()
    topic.send(LOG)
    take_in(storage, topic)
    commit = storage.commit_of("events", AFTER)
    assert commit is not None
    state = json.loads(commit.made_from["kafka"])
    assert state["offsets"] == {"0": [0, 3], "1": [0, 5]}
    assert state["watermark_ms"] == LOG[-2].ts_ms - LATENESS_S * 1000 == kafka_events.watermark_ms(storage)


class Killed(BaseException):
    """A kill, at a moment that a test chooses."""


@pytest.mark.parametrize("after", range(6))
@pytest.mark.parametrize("batch_rows", [3, 100])
def test_a_kill_between_two_commits_neither_loses_nor_doubles(
    storage: Storage, monkeypatch: pytest.MonkeyPatch, after: int, batch_rows: int
) -> None:
    topic, commits = Topic(), 0
    topic.send(LOG)
    real = Storage._commit

    def dies(self: Storage, *args: Any) -> None:
        nonlocal commits
        if commits == after:
            raise Killed
        commits += 1
        real(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(Storage, "_commit", dies)
        try:
            take_in(storage, topic, batch_rows)
        except Killed:
            assert commits == after
    take_in(storage, topic, batch_rows)
    assert stored(storage) == rows_of(LOG)
    for day in storage.days("events"):
        commit = storage.commit_of("events", day)
        assert commit is not None and commit.rows == storage.read("events", day).num_rows


def test_a_message_that_was_sent_twice_is_one_row(storage: Storage) -> None:
    topic = Topic()
    topic.send([*LOG, LOG[0]])
    assert take_in(storage, topic).repeated == 1
    topic.send(LOG[6:8], partition=0)
    assert take_in(storage, topic).repeated == 2
    assert stored(storage) == rows_of(LOG)


def test_partitions_of_unlike_length_and_age_make_nothing_late(storage: Storage) -> None:
    """One lags hours behind the other: within a run the reads end together, and nothing was told before it ends."""
    topic = Topic()
    topic.send([Event(10.0 * n, "exposure", user=1, live=n) for n in range(100)], partition=0)
    topic.send([Event(20_000.0 + n, "exposure", user=2, live=n) for n in range(10)], partition=1)
    assert take_in(storage, topic, 7) == Taken(events=110)


def test_what_comes_behind_the_watermark_of_the_last_run_is_late(storage: Storage) -> None:
    topic = Topic()
    topic.send(LOG)
    take_in(storage, topic)
    edge = LOG[-2].s - LATENESS_S
    topic.send([Event(edge, "like", user=2), Event(edge - 0.001, "gift", user=2)])
    assert take_in(storage, topic) == Taken(events=1, late=1)
    (row,) = storage.read("rejections", AFTER).to_pylist()
    assert row["reason"] == "late_event" and row["key"] == "events, partition 0, offset 4" and row["stage"] == "kafka"


BAD = (
    b"",
    b"{",
    b"[1]",
    b'{"user_id": 1}',
    message(Event(1, "wave")),
    message(Event(1, "click")).replace(b'"user_id": 1', b'"user_id": "one"'),
    message(Event(1 + DAY_S, "click")),
    message(Event(1, "exit")).replace(b'"value": 0.0', b'"value": 1e60'),
)


@given(st.lists(st.sampled_from([*BAD, message(Event(5, "like")), message(Event(6, "gift"))]), max_size=12))
def test_bad_messages_cost_no_good_one(values: list[bytes]) -> None:
    times = [START_MS + 6000] * len(values)
    messages = pa.table(
        {"partition": [0] * len(values), "offset": range(len(values)), "timestamp": times, "value": values},
        schema=MESSAGES,
    )
    events, is_bad = kafka_events._parsed(messages, LATENESS_S * 1000)
    assert is_bad.tolist() == [value in BAD for value in values]
    kinds = [events["kind"][row].as_py() for row in range(len(values)) if not is_bad[row]]
    assert kinds == ["like" if b"like" in value else "gift" for value in values if value not in BAD]


def test_bad_messages_are_rejected_by_their_place_and_the_others_counted(storage: Storage) -> None:
    topic = Topic()
    topic.partitions[0] += [(START_MS + 10_000, value) for value in BAD]
    topic.send(visit(at=5, user=1, click=1))
    assert take_in(storage, topic, 4) == Taken(events=2, bad=len(BAD))
    rejected = {row["key"]: row["attempts"] for row in storage.read("rejections", DAY).to_pylist()}
    assert rejected["messages not listed"] == len(BAD) - 3 and len(rejected) == 4
    assert take_in(storage, topic) == Taken()


def test_newlines_within_a_message_are_space_and_value_may_be_left_out(storage: Storage) -> None:
    topic = Topic()
    event = as_table([Event(5, "click")]).to_pylist()[0]
    event.pop("value")
    topic.partitions[0].append((START_MS + 5000, json.dumps(event, indent=1).encode()))
    assert take_in(storage, topic).events == 1 and stored(storage)[0]["value"] == 0.0


def test_messages_that_kafka_deleted_are_told_of(storage: Storage, caplog: pytest.LogCaptureFixture) -> None:
    topic = Topic()
    topic.send(LOG)
    take_in(storage, topic)
    topic.send([Event(DAY_S + 1000.0, "exposure", user=1, live=n) for n in range(4)])
    topic.low[1] = 7
    assert take_in(storage, topic).events == 2
    assert "Kafka deleted 2 message(s) before they were read" in caplog.text


def test_another_topic_and_days_that_a_user_brought_are_refused(storage: Storage) -> None:
    topic = Topic()
    topic.send(LOG)
    take_in(storage, topic)
    with pytest.raises(ContractError, match="wanted events of the topic other, got those of events"):
        take_in(storage, topic, name="other")
    folder = Path(storage.root) / "tables" / "events" / "day=2026-01-04"
    folder.mkdir()
    (folder / "mine.parquet").write_bytes(b"")
    topic.send([Event(2 * DAY_S + 5.0, "exposure", user=1)])
    with pytest.raises(ContractError, match="wanted a day that a job wrote"):
        storage.append("events", "2026-01-04", [])


def of_topic(root: Path) -> Settings:
    source = SourceConfig(kind="kafka", topic="events", servers="nowhere:1")
    return Settings(
        run_dir=str(root / "run"),
        storage=StorageConfig(root=str(root / "store")),
        windows=WindowsConfig(source=source),
        cluster=ClusterConfig(num_cpus=3, object_store_gb=0.1),
    )


def test_labels_follow_a_topic_run_by_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each run tells what is known by then; what was told stays as it was, and in the end all is told."""
    settings, topic = of_topic(tmp_path), Topic()
    storage = Storage.open(settings.storage.root)
    monkeypatch.setattr(RayKafka, "bounds", lambda _: topic.bounds())
    monkeypatch.setattr(RayKafka, "read", lambda _, start, end: topic.read(start, end))
    monkeypatch.setattr(windows, "connected", lambda _: open(os.devnull))
    log = sorted([*LOG, Event(DAY_S + 20_000.0, "exposure", user=4)], key=lambda e: e.s)
    before: dict[Any, Any] = {}
    for event in log:
        topic.send([event])
        run_job(windows, settings)
        rows = [storage.read("windows", day) for day in storage.days("windows")]
        known = (kafka_events.watermark_ms(storage) - START_MS) / 1000
        now = told(pa.concat_tables(rows), settings.windows.tasks) if rows else {}
        assert now == rows_between(reference(log, settings.windows), 0, known + 0.001)
        assert all(now[key][task] == said for key, tasks in before.items() for task, said in tasks.items())
        before = now
    assert set(before) == set(reference(LOG, settings.windows))
    assert run_job(windows, settings)["days_written"] == []


def test_without_the_package_a_topic_cannot_be_read() -> None:
    try:
        import confluent_kafka  # noqa: F401
    except ImportError:
        with pytest.raises(ConfigError, match="wanted the package confluent-kafka"):
            RayKafka(servers="localhost:1", topic="events").bounds()


@pytest.mark.parametrize("wrong", [{"kind": "files"}, {"kind": "kafka"}, {"order": "any"}])
def test_wrong_sources_are_refused(wrong: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="wanted"):
        SourceConfig(**wrong)


@pytest.mark.ray
def test_a_topic_is_read_over_the_wire(tmp_path: Path, ray_cluster: None) -> None:
    client = pytest.importorskip("confluent_kafka", reason="the extra kafka is not installed")
    producer = client.Producer({"test.mock.num.brokers": 1, "bootstrap.servers": "mock"})
    broker = next(iter(producer.list_topics(timeout=10).brokers.values()))
    settings = of_topic(tmp_path)
    servers = f"{broker.host}:{broker.port}"
    source = replace(settings.windows.source, servers=servers)
    settings = replace(settings, windows=replace(settings.windows, source=source, batch_rows=3))
    storage, sent = Storage.open(settings.storage.root), list[Event]()
    for part in (LOG[:4], LOG[4:], []):
        for event in part:
            producer.produce("events", message(event), partition=event.user % 2, timestamp=event.ts_ms)
        assert producer.flush(30) == 0
        sent += part
        run_job(windows, settings)
        assert stored(storage) == rows_of(sent)
    known = (kafka_events.watermark_ms(storage) - START_MS) / 1000
    rows = pa.concat_tables([storage.read("windows", day) for day in storage.days("windows")])
    expected = rows_between(reference(LOG, settings.windows), 0, known + 0.001)
    assert told(rows, settings.windows.tasks) == expected and expected
