"""The section `windows` of a configuration: which labels, and when."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from pipelines.samples.event_reader import DAY_MS, ORDERS
from pipelines.samples.label_rules import LABELS, TASKS, LabelRule

KINDS = ("table", "kafka")


@dataclass(frozen=True, kw_only=True, slots=True)
class SourceConfig:
    """Where events come from."""

    kind: str = "table"
    """`table`: the table `events` as it is. `kafka`: what is new in a topic becomes rows of it first (kafka_events)."""
    topic: str = ""
    """Of Kafka; a message is a JSON object with the columns of `events`."""
    servers: str = ""
    """Of Kafka: host:port, separated by commas."""
    consumer: Mapping[str, str] = field(default_factory=dict)
    """Settings of librdkafka, such as security.protocol. They are written to <run_dir>/config as they are."""
    order: str = "time"
    """`time`: the events of a day are sorted by their moments, as files may hold them in any order. `arrival`: files
    hold them in the order in which they arrived, and those that are more than `lateness_s` behind are left out."""

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"kind: wanted one of {', '.join(KINDS)}, got {self.kind}")
        if self.order not in ORDERS:
            raise ValueError(f"order: wanted one of {', '.join(ORDERS)}, got {self.order}")
        if self.kind == "kafka" and not (self.topic and self.servers and self.order == "time"):
            raise ValueError(f"kind kafka: wanted topic, servers and the order time, got {self}; set them")


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
    batch_rows: int = 262_144
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

    @property
    def days_back(self) -> int:
        """How many days before a day may hold events of visits that are remembered on it: an event stands in the day of
        its exposure, up to a day before its own."""
        return -(-self.rule.longest_ms // DAY_MS) + 1
