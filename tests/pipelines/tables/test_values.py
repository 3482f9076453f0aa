"""What values the contract takes, and errors that say what a wrong one looks like and where it is."""

from typing import Any

import pyarrow as pa
import pytest

from pipelines.tables import contract, values
from pipelines.tables.contract import ContractError
from tests.pipelines.tables.test_contract import DAY, MIDNIGHT_MS, impressions, labelled, users

DAY_MS = 86_400_000


def watched(*seconds: float) -> pa.Table:
    return changed(impressions([0] * len(seconds)), watch_time_s=pa.array(seconds, pa.float32()))


def at(*moments: int) -> pa.Table:
    return changed(impressions([0] * len(moments)), ts_ms=pa.array(moments, pa.int64()))


def changed(table: pa.Table, **columns: pa.Array) -> pa.Table:
    for name, column in columns.items():
        index = table.schema.get_field_index(name)
        table = table.set_column(index, table.schema.field(index), column)
    return table


def table_of(name: str, *rows: dict[str, Any]) -> pa.Table:
    return pa.Table.from_pylist(list(rows), schema=contract.spec(name).schema)


def segment(**different: Any) -> dict[str, Any]:
    row = {"author_id": 1, "live_id": 2, "segment": 0, "start_ts_ms": MIDNIGHT_MS, "frames": [], "speech": None}
    return row | {"comments": [], "viewers": 0, "likes": 0, "gifts": 0} | different


def comment(**different: Any) -> dict[str, Any]:
    return {"user_id": 1, "offset_ms": 0, "text": "hi", "engagement": 0.5} | different


def refused(table: pa.Table, name: str, match: str) -> None:
    with pytest.raises(ContractError, match=match):
        values.validate(table, name, DAY)


def test_a_sound_table_passes_unchanged():
    assert values.validate(users(), "users", DAY).equals(users().cast(contract.spec("users").schema))


def test_a_null_is_found_with_its_row():
    table = users(gender=pa.array([0, None], pa.int16()))
    refused(table, "users", r"column gender: wanted no nulls, got null \(first at row 1\); fill or drop them")


def test_an_empty_day_does_not_validate():
    refused(users().slice(0, 0), "users", "wanted at least one row")


@pytest.mark.parametrize("bad, said", [("nan", "NaN"), ("inf", "inf"), ("-inf", "-inf"), ("-3", "-3.0")])
def test_seconds_watched_are_finite_and_not_negative(bad: str, said: str):
    wanted = rf"column watch_time_s: wanted finite numbers >= 0, got {said} \(first at row 1\)"
    refused(watched(0.0, float(bad), 2.0, float(bad)), "impressions", wanted)


def test_a_float_that_no_float32_can_hold_is_found():
    table = impressions([0])
    index = table.schema.get_field_index("watch_time_s")
    refused(
        table.set_column(index, "watch_time_s", pa.array([1e300])), "impressions", "wanted finite numbers >= 0, got inf"
    )


def test_numbers_in_lists_are_finite_too():
    rows = [
        {"author_id": a, "embedding": vector, "model": "m"} for a, vector in enumerate([[], [1.0], [2.0, float("nan")]])
    ]
    refused(
        table_of("anchor_embeddings", *rows), "anchor_embeddings", r"column embedding: .* got NaN \(first at row 2\)"
    )


@pytest.mark.parametrize(
    "row, wanted",
    [
        ({"frames": [{"offset_ms": 0, "jpeg": b"x"}, None]}, "frames: wanted no nulls in its lists, got null"),
        ({"frames": [{"offset_ms": 0, "jpeg": None}]}, "frames: wanted no nulls in its jpeg, got null"),
        ({"comments": [None]}, "comments: wanted no nulls in its lists, got null"),
        ({"comments": [comment(), comment(text=None)]}, "comments: wanted no nulls in its text, got null"),
        (
            {"comments": [comment(engagement=float("nan"))]},
            "comments: wanted finite numbers in its engagement.*NaN",
        ),
    ],
)
def test_what_lists_hold_is_found_with_its_row(row: dict[str, Any], wanted: str):
    table = table_of("segments", segment(), segment(segment=1, **row))
    refused(table, "segments", rf"column {wanted} \(first at row 1\)")


def test_a_null_in_a_list_of_text_is_found():
    row = {"author_id": 1, "profile": "", "category": None, "tags": ["a", None], "first_live_day": None}
    table = table_of("authors", {**row, "first_live_day": 0})
    refused(table, "authors", r"column tags: wanted no nulls in its lists, got null \(first at row 0\)")


@pytest.mark.parametrize(
    "moment, said",
    [
        (MIDNIGHT_MS // 1000 + 5, "which looks like seconds.*multiply by 1,000"),
        (MIDNIGHT_MS * 1000 + 5, "which looks like microseconds.*divide by 1,000"),
        (MIDNIGHT_MS * 1_000_000, "which looks like nanoseconds.*divide by 1,000,000"),
        (MIDNIGHT_MS // 1000 - 9 * 86_400, "which looks like seconds"),
        (0, "got 0, which is in 1970"),
        (86_399_000, "which is in 1970"),
        (2**62, "which looks like nanoseconds|which is no date"),
        (MIDNIGHT_MS + DAY_MS, "which is 2026-01-02T00:00:00 UTC.*folder of their day"),
        (MIDNIGHT_MS - 1, "which is 2025-12-31T23:59:59 UTC.*folder of their day"),
    ],
)
def test_a_moment_outside_the_day_is_called_what_it_looks_like(moment: int, said: str):
    wanted = rf"column ts_ms: wanted milliseconds since 1970 that lie within the day.*{said}"
    refused(at(MIDNIGHT_MS, moment), "impressions", wanted)


def test_a_day_goes_from_midnight_to_midnight():
    values.validate(at(MIDNIGHT_MS, MIDNIGHT_MS + DAY_MS - 1), "impressions", DAY)


def test_a_live_that_began_on_the_day_may_run_past_midnight():
    late = segment(segment=3, start_ts_ms=MIDNIGHT_MS + DAY_MS + 30_000)
    values.validate(table_of("segments", segment(), late), "segments", DAY)
    refused(table_of("segments", segment(start_ts_ms=MIDNIGHT_MS + DAY_MS)), "segments", "which is 2026-01-02")
    refused(table_of("segments", late | {"start_ts_ms": MIDNIGHT_MS - 1}), "segments", "which is 2025-12-31")


def test_an_exit_belongs_to_the_day_of_its_exposure():
    row = {"user_id": 1, "author_id": 1, "live_id": 1, "kind": "exit", "value": 1.0}
    values.validate(table_of("events", row | {"ts_ms": MIDNIGHT_MS + DAY_MS + 5}), "events", DAY)
    refused(table_of("events", row | {"ts_ms": MIDNIGHT_MS + 2 * DAY_MS}), "events", "which is 2026-01-03")


def test_a_profile_code_is_minus_one_or_more():
    refused(
        users(region=pa.array([0, -2], pa.int16())),
        "users",
        r"column region: wanted numbers >= -1, got -2 \(first at row 1\)",
    )


def test_text_is_utf8():
    text = pa.StringArray.from_buffers(2, pa.py_buffer(b"\0\0\0\0\2\0\0\0\3\0\0\0"), pa.py_buffer(b"ok\xff"))
    rows = [{"author_id": a, "profile": "", "category": None, "tags": [], "first_live_day": 0} for a in (1, 2)]
    table = changed(table_of("authors", *rows), profile=text)
    refused(table, "authors", r"column profile: wanted UTF-8 text, got b'\\xff' \(first at row 1\)")


def test_a_date_is_one_that_a_calendar_has():
    row = {"author_id": 1, "profile": "", "category": None, "tags": [], "first_live_day": 4_000_000}
    refused(table_of("authors", row), "authors", "column first_live_day: wanted dates")


def test_labels_are_zero_or_one():
    values.validate(impressions([0, 1]), "impressions", DAY)
    refused(impressions([0, 2]), "impressions", r"column click: wanted 0 or 1, got 2 \(first at row 1\)")


def test_any_label_is_zero_or_one_and_never_null():
    refused(labelled(stay=pa.array([0, 2], pa.uint8())), "impressions", "column stay: wanted 0 or 1, got 2")
    refused(labelled(stay=pa.array([True, None])), "impressions", "column stay: wanted no nulls")


def test_reasons_of_rejections_are_a_closed_list():
    row = {"key": "a/b", "stage": "ingest", "reason": "mood", "detail": "", "attempts": 1}
    refused(table_of("rejections", row), "rejections", "column reason: wanted one of unreadable_video.*got mood")


def test_an_anchor_field_holds_no_more_than_its_limit():
    row = {"author_id": 1, **{field: ["x"] for field in contract.FIELDS}, "theme": ["x", "y"]}
    refused(table_of("oracle_anchors", row), "oracle_anchors", r"column theme: wanted at most 1 value\(s\), got 2")


def test_every_column_with_a_fault_is_named_once():
    table = users(gender=pa.array([0, None], pa.int16()), region=pa.array([-9, -9], pa.int16()))
    found = values.faults(contract.conform(table, "users", DAY), "users", DAY)
    assert [(fault.column, fault.row) for fault in found] == [("gender", 1), ("region", 0)]
