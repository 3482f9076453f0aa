"""The one definition of every table: columns, types, keys, and the validation whose errors a user can act on.

Knows nothing about storage. Tables are Hive-partitioned by `day=YYYY-MM-DD`; the day is in the path, not in the files.
"""

from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType

import pyarrow as pa
import pyarrow.compute as pc

from models import HISTORY, MASK, ON_SCREEN, TASKS
from models.visits import EVENT_KINDS
from pipelines.tables import casting, truth
from pipelines.tables.spec import TableSpec
from pipelines.tables.spec import schema as _schema
from pipelines.tables.spec import strings as _strings

FIELDS = ("point_of_interest", "theme", "topic", "target_audience", "format", "scene")
"""The six dimensions of a semantic anchor, in canonical order (SARM, Appendix B)."""

FIELD_LIMITS = MappingProxyType(
    {"point_of_interest": 3, "theme": 1, "topic": 2, "target_audience": 2, "format": 2, "scene": 2}
)
"""Most values a field may hold. The paper fixes the first four; format and scene are bounded so that answers end."""

TASKS_COLUMNS = TASKS
"""Label columns that a ranker learns where it names no others."""

LABELLED = ("impressions", "examples", "windows", "window_examples")
"""Tables with labels: `click`, and every further column of type uint8 or bool, of any name."""

MASKED = ("windows", "window_examples")
"""Those of LABELLED in which each label has a mask, the column `mask_<label>`: where it is 0 the label says nothing."""

CODED = ("examples", "window_examples")
"""Tables whose rows may carry codes of what was on screen (`examples.codes`), after all other columns."""

CODE_COLUMNS = tuple(name for table in ON_SCREEN for name in (table, f"{HISTORY}{table}"))
"""The columns that they are in: of the live that was shown, [J] a row, and of each history item's, [L * J]."""

PROFILE = ("age_band", "gender", "region", "device")
"""Columns of `users` that say who a user is, in the order in which models read them."""

REASONS = (
    "unreadable_video",
    "no_frames",
    "bad_image",
    "bad_chat",
    "bad_transcript",
    "bad_row",
    "not_on_air",
    "prompt_too_long",
    "engine_error",
    "invalid_json",
    "truncated_answer",
    "late_event",
)
"""Closed list of why a row lands in `rejections`."""

WINDOW_REASONS = ("positive", "exit", "timeout")
"""Why a row of `windows` was reported: something was done, the visit ended, or the time for it ran out."""

CLOSED: Mapping[str, Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        "events": {"kind": EVENT_KINDS},
        "rejections": {"reason": REASONS},
        "windows": {"reason": WINDOW_REASONS},
        "window_examples": {"reason": WINDOW_REASONS},
        "ingest_report": {"kind": ("video", "chat", "transcript", "other")},
    }
)
"""By table and column, the values that there are."""

SEGMENT_MS = 30_000
"""Length of a segment: it ends so long after its `start_ts_ms`, however soon its frames do."""

PARTITION = "day"
"""Names the folders of a table's days; a column of this name inside files is passed over."""


class ContractError(ValueError):
    """A table breaks the contract; the message names table, day, column, wanted, got and the remedy."""


_FRAME = pa.struct([pa.field("offset_ms", pa.int32()), pa.field("jpeg", pa.binary())])
_COMMENT = pa.struct(
    [
        pa.field("user_id", pa.int64()),
        pa.field("offset_ms", pa.int32()),
        pa.field("text", pa.string()),
        pa.field("engagement", pa.float32()),
    ]
)
_SEGMENT = {"author_id": pa.int64(), "live_id": pa.int64(), "segment": pa.int32()}
_SIX = {field: _strings() for field in FIELDS}
_EXPOSURE = dict.fromkeys(("impression_id", "user_id", "author_id", "live_id", "ts_ms"), pa.int64())
_HISTORY = {
    "history_author_ids": pa.list_(pa.int64()),
    **dict.fromkeys(("history_age_s", "history_watch_s"), pa.list_(pa.float32())),
    "anchor_day": (pa.date32(), "null"),
}
_TOLD = {"window_end_ms": pa.int64(), "reason": pa.string(), "click": pa.uint8(), "mask_click": pa.uint8()}

_WRITTEN: MappingProxyType[str, TableSpec] = MappingProxyType(
    {
        spec.name: spec
        for spec in (
            TableSpec(
                name="authors",
                row="author, as new or changed on that day",
                key=("author_id",),
                schema=_schema(
                    author_id=pa.int64(),
                    profile=pa.string(),
                    category=(pa.string(), "null"),
                    tags=_strings(),
                    first_live_day=pa.date32(),
                ),
            ),
            TableSpec(
                name="users",
                row="user, as new or changed on that day; profile codes from 0, -1 = unknown",
                key=("user_id",),
                schema=_schema(user_id=pa.int64(), **dict.fromkeys(PROFILE, pa.int16())),
            ),
            TableSpec(
                name="segments",
                row="30-second slice of a live",
                key=("author_id", "live_id", "segment"),
                schema=_schema(
                    **_SEGMENT,
                    start_ts_ms=pa.int64(),
                    frames=pa.list_(_FRAME),
                    speech=(pa.string(), "null"),
                    comments=pa.list_(_COMMENT),
                    **dict.fromkeys(("viewers", "likes", "gifts"), pa.int32()),
                ),
            ),
            TableSpec(
                name="events",
                row="raw behaviour",
                key=("user_id", "live_id", "ts_ms", "kind"),
                schema=_schema(
                    user_id=pa.int64(),
                    author_id=pa.int64(),
                    live_id=pa.int64(),
                    ts_ms=pa.int64(),
                    kind=pa.string(),
                    value=pa.float32(),
                ),
            ),
            TableSpec(
                name="impressions",
                row="exposure with its labels",
                key=("impression_id",),
                schema=_schema(**_EXPOSURE, click=pa.uint8(), watch_time_s=pa.float32()),
            ),
            TableSpec(
                name="anchors",
                row="author and day",
                key=("author_id",),
                schema=_schema(
                    author_id=pa.int64(),
                    **_SIX,
                    **dict.fromkeys(("text", "model", "prompt_hash", "schema_hash"), pa.string()),
                    num_frames=pa.int32(),
                    num_comments=pa.int32(),
                ),
            ),
            TableSpec(
                name="anchor_embeddings",
                row="anchor's text as a frozen vector of the multimodal model",
                key=("author_id",),
                schema=_schema(author_id=pa.int64(), embedding=pa.list_(pa.float32()), model=pa.string()),
            ),
            TableSpec(
                name="segment_answers",
                row="question about a segment, and a teacher's answer",
                key=("author_id", "live_id", "segment", "question"),
                schema=_schema(**_SEGMENT, question=pa.string(), answer=pa.string()),
            ),
            TableSpec(
                name="segment_embeddings",
                row="segment as a frozen vector of the multimodal model; of one width within a day",
                key=("author_id", "live_id", "segment"),
                schema=_schema(**_SEGMENT, end_ts_ms=pa.int64(), embedding=pa.list_(pa.float16()), model=pa.string()),
            ),
            TableSpec(
                name="segment_codes",
                row="segment as codes of a codebook, one per level",
                key=("author_id", "live_id", "segment"),
                schema=_schema(**_SEGMENT, end_ts_ms=pa.int64(), codes=pa.list_(pa.int32()), codebook=pa.string()),
            ),
            TableSpec(
                name="item_vectors",
                row="segment as the vector of its live in retrieval; model = the version of the towers that made it",
                key=("author_id", "live_id", "segment"),
                schema=_schema(**_SEGMENT, end_ts_ms=pa.int64(), embedding=pa.list_(pa.float16()), model=pa.string()),
            ),
            TableSpec(
                name="item_codes",
                row="segment as codes of its vector in retrieval, one per level",
                key=("author_id", "live_id", "segment"),
                schema=_schema(**_SEGMENT, end_ts_ms=pa.int64(), codes=pa.list_(pa.int32()), codebook=pa.string()),
            ),
            TableSpec(
                name="rejections",
                row="input that failed, and why",
                key=("key", "stage"),
                schema=_schema(
                    key=pa.string(), stage=pa.string(), reason=pa.string(), detail=pa.string(), attempts=pa.int32()
                ),
            ),
            TableSpec(
                name="ingest_report",
                row="file that ingest found; of its segments, comments or lines: found = used + left_out",
                key=("file",),
                schema=_schema(
                    **dict.fromkeys(("file", "kind", "why"), pa.string()),
                    **dict.fromkeys(("found", "used", "left_out"), pa.int64()),
                ),
            ),
            TableSpec(
                name="examples",
                row="impression with its point-in-time history (newest last, padded left with -1)",
                key=("impression_id",),
                schema=_schema(**_EXPOSURE, click=pa.uint8(), **_HISTORY),
            ),
            TableSpec(
                name="windows",
                row="training sample of an impression, reported when a window ends; further labels as `click`",
                key=("impression_id", "window_end_ms", "reason"),
                schema=_schema(**_EXPOSURE, **_TOLD),
            ),
            TableSpec(
                name="window_examples",
                row="row of windows with the history of its impression, as it is in examples",
                key=("impression_id", "window_end_ms", "reason"),
                schema=_schema(**_EXPOSURE, **_TOLD, **_HISTORY),
            ),
            TableSpec(
                name="oracle_anchors",
                row="true anchor of an author on a day (simulated platforms only)",
                key=("author_id",),
                oracle=True,
                schema=_schema(author_id=pa.int64(), **_SIX),
            ),
            *truth.TABLES,
        )
    }
)

CARRIED = ("authors", "users", "anchors", "anchor_embeddings")
"""Tables whose newest row of every author, or user, is carried from day to day: see newest.py."""

BY_ROW = ("segments", "segment_embeddings", "item_vectors")
"""Tables of which a bad row costs no more than itself: the jobs that read them set it aside and go on. `validate` finds
it; a job that writes or reads it refuses no more than nulls in it, or in its key."""


def newest_of(name: str) -> str:
    """The table that holds the newest rows of a table of CARRIED."""
    return f"newest_{name}"


def _newest(spec: TableSpec) -> TableSpec:
    since = pa.field("since", pa.date32(), nullable=False)
    return TableSpec(
        name=newest_of(spec.name),
        row=f"newest row of {spec.name} for its key, as of that day; since = the day that it was written on",
        key=spec.key,
        schema=spec.schema.append(since),
    )


TABLES: MappingProxyType[str, TableSpec] = MappingProxyType(
    _WRITTEN | {newest_of(name): _newest(_WRITTEN[name]) for name in CARRIED}
)


def spec(name: str) -> TableSpec:
    """The table's definition. Raises ContractError for an unknown name, listing the known ones."""
    if name not in TABLES:
        raise ContractError(f"unknown table {name!r}; the contract has {', '.join(TABLES)}")
    return TABLES[name]


def schema_with(name: str, labels: Iterable[str]) -> pa.Schema:
    """The table's columns, with further labels (of MASKED: and masks) after `click` and its mask."""
    fixed, further = list(spec(name).schema), [pa.field(label, pa.uint8(), nullable=False) for label in labels]
    last = f"{MASK}click" if name in MASKED else "click"
    at = [field.name for field in fixed].index(last) + 1 if further else 0
    return pa.schema([*fixed[:at], *further, *fixed[at:]])


def schema_of(name: str, found: pa.Schema, columns: Sequence[str] | None = None) -> pa.Schema:
    """The table's columns, or those of `columns`, with the labels that files of the schema `found` hold.

    A further column of LABELLED is a label by its type, or because it is asked for by its name; those of CODED may have
    CODE_COLUMNS.
    """
    coded = CODE_COLUMNS if name in CODED else ()
    fixed, named = spec(name).schema.names, TASKS_COLUMNS if columns is None else columns
    further = [field for field in found if name in LABELLED and field.name not in (*fixed, *coded, PARTITION)]
    labels = [f.name for f in further if f.type in (pa.uint8(), pa.bool_()) or f.name in named]
    codes = [pa.field(of, pa.list_(pa.int32()), nullable=False) for of in coded if of in found.names]
    return pa.schema([f for f in (*schema_with(name, labels), *codes) if columns is None or f.name in columns])


def is_label(name: str, column: str) -> bool:
    """Whether a column of the table holds labels."""
    is_further = column == "click" or column not in (*spec(name).schema.names, *CODE_COLUMNS)
    return name in LABELLED and is_further and not is_mask(name, column)


def is_mask(name: str, column: str) -> bool:
    """Whether a column of the table says where a label counts."""
    return name in MASKED and column.startswith(MASK)


def conform(data: pa.Table, name: str, day: str, columns: Sequence[str] | None = None) -> pa.Table:
    """`data` with exactly the contract's columns (or those asked for) and their types, or ContractError.

    Further labels are kept, other extra columns dropped, and lossless casts (see casting.py) made; anything else is an
    error that names table, day, column, wanted and got. What the values are is the matter of values.py.
    """
    fields = schema_of(name, data.schema, columns)
    missing = [field.name for field in fields if field.name not in data.column_names]
    if columns is None:
        missing += _without_partner(name, fields.names)
    if missing:
        raise missing_columns(name, day, missing, data.column_names)
    return pa.table([_typed(data.column(f.name), f, name, day) for f in fields], schema=fields)


def _without_partner(name: str, columns: Sequence[str]) -> list[str]:
    """Masks that labels lack, and labels that masks lack."""
    masks = {column for column in columns if is_mask(name, column)}
    wanted = {f"{MASK}{column}" for column in columns if is_label(name, column)} if name in MASKED else set()
    return sorted(wanted - masks) + sorted(mask.removeprefix(MASK) for mask in masks - wanted)


def missing_columns(name: str, day: str, missing: Sequence[str], got: Sequence[str]) -> ContractError:
    """The error for a day whose files lack columns."""
    return ContractError(
        f"table {name}, day {day}: missing column(s) {', '.join(missing)}; got {', '.join(got)}; "
        "add the column(s) to the Parquet files of that day"
    )


def _typed(column: pa.ChunkedArray, field: pa.Field, name: str, day: str) -> pa.ChunkedArray:
    if column.type == field.type:
        return column
    try:
        return casting.cast(column, field)
    except ValueError as error:
        why, what = f" ({error})" if str(error) else "", "ms since 1970" if field.name.endswith("_ms") else "it"
        raise ContractError(
            f"table {name}, day {day}, column {field.name}: wanted {field.type}, got {column.type}{why}; "
            f"write {what} as {field.type}"
        ) from error


def check_keys(data: pa.Table, name: str, day: str) -> None:
    """ContractError if two rows of `data` share the table's key; names the first such key."""
    key = spec(name).key
    groups = data.select(list(key)).group_by(list(key)).aggregate([([], "count_all")])
    repeated = groups.filter(pc.greater(groups["count_all"], 1))
    if repeated.num_rows:
        first = {column: repeated[column][0].as_py() for column in key}
        raise ContractError(
            f"table {name}, day {day}: wanted unique ({', '.join(key)}), got {repeated.num_rows} repeated key(s), "
            f"first {first}; remove the duplicates of that day"
        )


def empty_day(name: str, day: str) -> ContractError:
    """The error for a day without rows."""
    return ContractError(f"table {name}, day {day}: wanted at least one row, got an empty day; remove or refill it")
