"""Tables with the truth about impressions and segments of a simulated platform."""

import pyarrow as pa

from models import TASKS
from pipelines.tables.spec import TableSpec, schema

KNOWLEDGE = ("present", "past", "author")
"""What a probability may be given beside the author's law, from most to least: the act on screen and since when; that
of the newest segment that has ended, as a point-in-time model knows it at best; nothing."""

TABLES = (
    TableSpec(
        name="oracle_impressions",
        row="true probabilities of an impression (simulated platforms only)",
        key=("impression_id",),
        oracle=True,
        schema=schema(
            impression_id=pa.int64(),
            **dict.fromkeys(TASKS, pa.float32()),
        ),
    ),
    TableSpec(
        name="oracle_live",
        row="true probabilities of an impression given what is on screen now, given past segments alone, "
        "given the author alone (simulated live worlds only)",
        key=("impression_id",),
        oracle=True,
        schema=schema(
            impression_id=pa.int64(),
            **{f"{known}_{task}": pa.float32() for known in KNOWLEDGE for task in TASKS},
        ),
    ),
    TableSpec(
        name="oracle_segments",
        row="what a segment really shows (simulated live worlds only)",
        key=("author_id", "live_id", "segment"),
        oracle=True,
        schema=schema(
            author_id=pa.int64(),
            live_id=pa.int64(),
            segment=pa.int32(),
            act=pa.int32(),
            **dict.fromkeys(("theme", "category", "scene"), pa.string()),
            intensity=pa.int32(),
        ),
    ),
)
