"""Dataclasses from mappings and back, with errors that name the key and list what is valid."""

import dataclasses
import json
from collections.abc import Mapping
from datetime import date, datetime
from typing import Any

import pytest

from models.config import ConfigError, build, to_dict


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Inner:
    rate: float = 0.1
    sizes: tuple[int, ...] = ()


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    kind: str
    width: int = 8


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Outer:
    name: str = "a"
    count: int = 1
    day: date = date(2026, 1, 1)
    limit: int | None = None
    either: int | str = 0
    inner: Inner = dataclasses.field(default_factory=Inner)
    other: Inner | None = None
    sources: tuple[Source, ...] = ()
    pair: tuple[float, str] = (0.0, "")
    by_name: Mapping[str, Source] = dataclasses.field(default_factory=dict)
    points: dict[str, tuple[float, float]] = dataclasses.field(default_factory=dict)
    passed_on: dict[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.count < 0:
            raise ValueError(f"count: wanted 0 or more, got {self.count}")


FULL = Outer(
    limit=3,
    either="x",
    other=Inner(sizes=(4,)),
    sources=(Source(kind="tags"), Source(kind="sarm", width=2)),
    pair=(1.0, "b"),
    by_name={"first": Source(kind="tags")},
    points={"click": (0.5, 1.0)},
    passed_on={"deep": {"list": [1, None]}},
)


def test_a_mapping_becomes_nested_dataclasses() -> None:
    built = build(Outer, {"count": 3, "inner": {"rate": 2, "sizes": [1, 2]}, "day": date(2026, 2, 3)})
    assert built == Outer(count=3, day=date(2026, 2, 3), inner=Inner(rate=2.0, sizes=(1, 2)))
    assert type(built.inner.rate) is float


def test_what_is_inside_tuples_and_mappings_is_built_too() -> None:
    raw = {
        "sources": [{"kind": "tags"}, {"kind": "sarm", "width": 2}],
        "by_name": {"first": {"kind": "tags"}},
        "points": {"click": [0.5, 1]},
        "pair": [1, "b"],
        "other": {"sizes": [4]},
    }
    assert build(Outer, raw) == dataclasses.replace(FULL, limit=None, either=0, passed_on={})


def test_dict_and_back_is_the_same_through_json() -> None:
    plain = {key: value for key, value in to_dict(FULL).items() if key != "day"}
    assert build(Outer, json.loads(json.dumps(plain))) == FULL
    assert build(Outer, to_dict(FULL)) == FULL


@pytest.mark.parametrize("empty", [{"inner": None}, {"by_name": None}, {"limit": None}, {"other": None}])
def test_an_empty_section_means_defaults(empty: dict[str, None]) -> None:
    assert build(Outer, empty) == Outer()
    assert build(Outer, None) == Outer()


def test_days_may_be_quoted_or_not() -> None:
    assert build(Outer, {"day": "2026-02-03"}).day == date(2026, 2, 3)
    assert build(Outer, {"name": date(2026, 2, 3)}).name == "2026-02-03"
    assert build(Outer, {"name": datetime(2026, 2, 3, 10, 30)}).name == "2026-02-03T10:30:00"


def test_an_exponent_without_a_point_is_a_number() -> None:
    assert build(Inner, {"rate": "1e-3"}).rate == 0.001
    with pytest.raises(ConfigError, match="wanted float, got 'fast'"):
        build(Inner, {"rate": "fast"})


@pytest.mark.parametrize(
    ("raw", "message", "key"),
    [
        ({"inner": {"speed": 1}}, r"config.inner: unknown key\(s\) speed; valid keys are rate, sizes", "inner.speed"),
        ({"sources": [{"kind": "a"}, {"knid": "a"}]}, r"config.sources\[1\]: unknown key\(s\) knid", "sources[1].knid"),
        ({"by_name": {"a": {"width": 1}}}, r"config.by_name.a: missing key\(s\) kind; got width", "by_name.a"),
        ({"sources": [{}]}, r"config.sources\[0\]: missing key\(s\) kind; got none", "sources[0]"),
        ({"by_name": {1: {"kind": "a"}}}, "config.by_name: wanted str, got 1", "by_name"),
        ({"count": "3"}, r"config.count: wanted int, got '3' \(str\)", "count"),
        ({"count": True}, "config.count: wanted int", "count"),
        ({"count": 1.0}, "config.count: wanted int", "count"),
        ({"count": None}, "config.count: wanted int, got None", "count"),
        ({"limit": "x"}, "config.limit: wanted int", "limit"),
        ({"either": 1.5}, "config.either: wanted str", "either"),
        ({"name": 3}, "config.name: wanted str", "name"),
        ({"day": "x"}, r"config.day: wanted date \(YYYY-MM-DD\), got 'x'", "day"),
        ({"day": "2026-02-30"}, "config.day: wanted date", "day"),
        ({"inner": {"rate": True}}, "config.inner.rate: wanted float", "inner.rate"),
        ({"inner": [1]}, "config.inner: wanted a mapping of Inner's keys", "inner"),
        ({"inner": {"sizes": "12"}}, "config.inner.sizes: wanted a list", "inner.sizes"),
        ({"inner": {"sizes": [1, "2"]}}, r"config.inner.sizes\[1\]: wanted int", "inner.sizes[1]"),
        ({"points": {"click": [1.0]}}, r"config.points.click: wanted a list of 2, got \[1.0\]", "points.click"),
        ({"passed_on": 3}, "config.passed_on: wanted a mapping", "passed_on"),
    ],
)
def test_an_error_names_key_and_value(raw: dict[str, Any], message: str, key: str) -> None:
    with pytest.raises(ConfigError, match=message) as error:
        build(Outer, raw)
    assert error.value.key == f"config.{key}"


def test_a_failed_check_names_section_and_value() -> None:
    with pytest.raises(ConfigError, match="config: count: wanted 0 or more, got -1"):
        build(Outer, {"count": -1})
