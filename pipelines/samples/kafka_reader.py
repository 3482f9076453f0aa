"""Messages of a Kafka topic in bounded reads, by Ray Data: the only file that knows Kafka's clients.

Needs confluent-kafka, the extra `kafka` of this project, on the driver and on the workers.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

import pyarrow as pa

from pipelines.runtime.config import ConfigError

Offsets = dict[int, int]
"""By partition, the offset of the next message."""
_WAIT_S = 30.0
MESSAGES = pa.schema(
    [("partition", pa.int32()), ("offset", pa.int64()), ("timestamp", pa.int64()), ("value", pa.binary())]
)


class MessageReader(Protocol):
    """What gives the messages of one topic."""

    def bounds(self) -> tuple[Offsets, Offsets]:
        """The first offsets that are still there, and those behind the last, as of now."""

    def read(self, start: Offsets, end: Offsets) -> pa.Table:
        """All messages from `start` up to but not including `end`, as MESSAGES, in any order."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RayKafka:
    """A topic by its servers; `ray.data.read_kafka` reads each partition in a task of its own."""

    servers: str
    """As Kafka names them: host:port, separated by commas."""
    topic: str
    consumer: Mapping[str, str] = field(default_factory=dict)
    """Settings of librdkafka, for both clients."""

    def bounds(self) -> tuple[Offsets, Offsets]:
        """See MessageReader. Raises ConfigError for a topic that is not there."""
        try:
            from confluent_kafka import Consumer, KafkaException, TopicPartition
        except ImportError as error:
            raise ConfigError(
                "windows.source.kind kafka: wanted the package confluent-kafka, got none; install the extra kafka"
            ) from error
        client = Consumer(
            {**self.consumer, "bootstrap.servers": self.servers, "group.id": "windows", "enable.auto.commit": False}
        )
        try:
            found = client.list_topics(self.topic, timeout=_WAIT_S).topics[self.topic]
            if found.error is not None or not found.partitions:
                raise ConfigError(
                    f"windows.source.topic: wanted a topic of {self.servers}, got {self.topic}; create it"
                )
            both = {
                number: client.get_watermark_offsets(TopicPartition(self.topic, number), timeout=_WAIT_S)
                for number in sorted(found.partitions)
            }
        except KafkaException as error:
            raise OSError(f"Kafka at {self.servers} does not answer: {error}") from error
        finally:
            client.close()
        return {p: low for p, (low, _) in both.items()}, {p: high for p, (_, high) in both.items()}

    def read(self, start: Offsets, end: Offsets) -> pa.Table:
        """See MessageReader; Ray has to be connected."""
        import ray.data

        rows = ray.data.read_kafka(
            self.topic,
            bootstrap_servers=self.servers,
            start_offset={self.topic: start},
            end_offset={self.topic: end},
            consumer_config=dict(self.consumer) or None,
        )
        found = [batch.select(MESSAGES.names) for batch in rows.iter_batches(batch_format="pyarrow", batch_size=None)]
        return pa.concat_tables([batch.cast(MESSAGES) for batch in found] or [MESSAGES.empty_table()])
