"""Casts keep every value, or are refused."""

from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest

from pipelines.tables.casting import cast

NOON = datetime(2026, 1, 5, 12, 0, 0, 250_000)
NOON_MS = 1_767_614_400_250
TEXTS = pa.list_(pa.string())
STRUCT = pa.struct([("offset_ms", pa.int32()), ("jpeg", pa.binary())])


def made(array: pa.Array, wanted: pa.DataType, name: str = "x") -> list[Any]:
    column = cast(pa.chunked_array([array]), pa.field(name, wanted))
    assert column.type == wanted
    return column.to_pylist()


@pytest.mark.parametrize("unit", ["ms", "us", "ns"])
@pytest.mark.parametrize("zone", [None, "UTC"])
def test_a_timestamp_becomes_milliseconds_by_its_unit(unit: str, zone: str | None):
    moment = NOON if zone is None else NOON.replace(tzinfo=UTC)
    assert made(pa.array([moment], pa.timestamp(unit, zone)), pa.int64(), "ts_ms") == [NOON_MS]


def test_a_timestamp_of_another_zone_is_the_same_moment():
    array = pa.array([NOON.replace(tzinfo=UTC)], pa.timestamp("us", "Asia/Tokyo"))
    assert made(array, pa.int64(), "start_ts_ms") == [NOON_MS]


def test_a_timestamp_in_seconds_and_what_is_finer_than_milliseconds():
    assert made(pa.array([NOON_MS // 1000], pa.timestamp("s")), pa.int64(), "ts_ms") == [NOON_MS // 1000 * 1000]
    assert made(pa.array([NOON_MS * 1000 + 999], pa.timestamp("us")), pa.int64(), "ts_ms") == [NOON_MS]
    with pytest.raises(ValueError, match="out of bounds"):
        made(pa.array([2**60], pa.timestamp("s")), pa.int64(), "ts_ms")


@pytest.mark.parametrize(
    "array, wanted, values",
    [
        (pa.array([5, 6], pa.int8()), pa.int64(), [5, 6]),
        (pa.array([5], pa.uint64()), pa.int64(), [5]),
        (pa.array([Decimal(5)], pa.decimal128(20, 0)), pa.int64(), [5]),
        (pa.array([Decimal("1.500")]), pa.float32(), [1.5]),
        (pa.array([1.5], pa.float64()), pa.float32(), [1.5]),
        (pa.array([True, False]), pa.uint8(), [1, 0]),
        (pa.array(["a", None]).dictionary_encode(), pa.string(), ["a", None]),
        (pa.array(["a"], pa.large_string()), pa.string(), ["a"]),
        (pa.array(["a"], pa.string_view()), pa.string(), ["a"]),
        (pa.array([b"a"]), pa.string(), ["a"]),
        (pa.array([7]), pa.string(), ["7"]),
        (pa.array([b"a"], pa.binary_view()), pa.binary(), [b"a"]),
        (pa.array([None, None]), pa.string(), [None, None]),
        (pa.array([None]), pa.list_(STRUCT), [None]),
        (pa.array([date(2026, 1, 5)], pa.date64()), pa.date32(), [date(2026, 1, 5)]),
        (pa.array([datetime(2026, 1, 5)], pa.timestamp("ns")), pa.date32(), [date(2026, 1, 5)]),
        (pa.array([["a"], []], pa.large_list(pa.large_string())), TEXTS, [["a"], []]),
        (pa.array([["a", "b"]], pa.list_(pa.string(), 2)), TEXTS, [["a", "b"]]),
        (pa.array([["a", "b"], None, []], pa.list_view(pa.string())), TEXTS, [["a", "b"], None, []]),
        (pa.array([[], []], pa.list_(pa.null())), TEXTS, [[], []]),
        (pa.array([[{"jpeg": b"x", "w": 1, "offset_ms": 3}]]), pa.list_(STRUCT), [[{"offset_ms": 3, "jpeg": b"x"}]]),
    ],
)  # fmt: skip
def test_the_same_values_in_another_type_are_taken(array: pa.Array, wanted: pa.DataType, values: list[Any]):
    assert made(array, wanted) == values


@pytest.mark.parametrize(
    "array, wanted",
    [
        (pa.array([1.0]), pa.int64()),
        (pa.array([1.0]), pa.uint8()),
        (pa.array(["1"]), pa.int64()),
        (pa.array(["1.5"]), pa.float32()),
        (pa.array([True]), pa.int64()),
        (pa.array([1.5]), pa.string()),
        (pa.array(["aGk="]), pa.binary()),
        (pa.array([NOON]), pa.int64()),
        (pa.array([1], pa.duration("s")), pa.int64()),
        (pa.array([1], pa.time32("s")), pa.int32()),
        (pa.array([1], pa.date32()), pa.int32()),
        (pa.array(["2026-01-05"]), pa.date32()),
        (pa.array([20_000], pa.int32()), pa.date32()),
        (pa.array([["1"]]), pa.list_(pa.float32())),
        (pa.array([[1.0]]), pa.list_(pa.int64())),
        (pa.array(["a"]), pa.list_(pa.string())),
        (pa.array([[1]]), pa.list_(STRUCT)),
    ],
)
def test_what_would_have_to_be_guessed_is_refused(array: pa.Array, wanted: pa.DataType):
    with pytest.raises(ValueError):
        made(array, wanted)


@pytest.mark.parametrize(
    "array, wanted",
    [
        (pa.array([2**63], pa.uint64()), pa.int64()),
        (pa.array([70_000]), pa.int16()),
        (pa.array([Decimal("5.5")]), pa.int64()),
        (pa.array([b"\xff"]), pa.string()),
        (pa.array([2**24 + 1]), pa.float32()),
    ],
)
def test_a_value_that_does_not_fit_is_refused_by_name(array: pa.Array, wanted: pa.DataType):
    with pytest.raises(ValueError, match="range|data loss|UTF8"):
        made(array, wanted)
