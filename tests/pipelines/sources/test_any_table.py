"""Whatever types and values a user's files hold: `validate` finds what is wrong, or every job reads them, alike."""

import math
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipelines.runtime import config
from pipelines.samples import examples
from pipelines.samples.examples import read_clicks
from pipelines.semantics import author_day
from pipelines.semantics.author_day import PromptConfig
from pipelines.semantics.corpus import corpus
from pipelines.settings import Settings
from pipelines.sources import validate
from pipelines.tables import contract, newest
from pipelines.tables.contract import ContractError
from pipelines.tables.storage import Storage, batches
from tests.pipelines.jobs import run_job

DAY = "2026-01-05"
MIDNIGHT_MS = 1_767_571_200_000
TABLES = ("impressions", "authors", "users", "segments", "anchors")
Row = dict[str, Any]

_INTEGERS = [
    pa.int64(),
    pa.int32(),
    pa.int16(),
    pa.uint64(),
    pa.decimal128(20, 0),
    pa.dictionary(pa.int8(), pa.int64()),
]
_TEXTS = [pa.string(), pa.large_string(), pa.string_view(), pa.binary(), pa.dictionary(pa.int32(), pa.string())]
_MOMENTS = [pa.timestamp(unit, zone) for unit in ("ms", "us", "ns") for zone in (None, "UTC", "Asia/Tokyo")]
_BYTES = [pa.binary(), pa.large_binary(), pa.binary_view()]
_GUESSES = [pa.float64(), pa.string(), pa.bool_(), pa.timestamp("s"), pa.date32(), pa.null(), pa.list_(pa.int8())]
"""Types of which few are anything that the contract takes."""


def spellings(wanted: pa.DataType, name: str) -> list[pa.DataType]:
    """Types in which other tools write the values of a column."""
    if pa.types.is_list(wanted):
        inner = spellings(wanted.value_type, name)
        return [kind(value) for value in inner for kind in (pa.list_, pa.large_list, pa.list_view)]
    if pa.types.is_struct(wanted):
        wide = {pa.int32(): pa.int64(), pa.float32(): pa.float64(), pa.string(): pa.large_string()}
        other = [pa.field(field.name, wide.get(field.type, field.type)) for field in wanted]
        return [wanted, pa.struct(other[::-1]), pa.struct([*other, pa.field("more", pa.int8())])]
    if name.endswith("ts_ms"):
        return [pa.int64(), pa.uint64(), *_MOMENTS]
    if pa.types.is_uint8(wanted):
        return [pa.uint8(), pa.bool_(), pa.int64(), pa.decimal128(3, 0)]
    kinds = {
        pa.string(): _TEXTS,
        pa.binary(): _BYTES,
        pa.float32(): [pa.float32(), pa.float64(), pa.decimal128(12, 3)],
        pa.date32(): [pa.date32(), pa.date64(), pa.timestamp("ns")],
    }
    return [wanted, pa.null(), *kinds.get(wanted, _INTEGERS)]


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=3)
VALUES: dict[str, st.SearchStrategy[Any]] = {
    "int64": st.integers(0, 300), "int32": st.integers(0, 300), "int16": st.integers(-1, 9), "uint8": st.integers(0, 1),
    "float": st.integers(0, 40).map(lambda half: half / 2), "string": TEXT, "binary": st.binary(max_size=3),
    "date32[day]": st.dates(),
}  # fmt: skip
FAULTS: dict[str, st.SearchStrategy[Any]] = {
    "int64": st.sampled_from([None, -5, 2**40]), "int32": st.sampled_from([None, -5]),
    "int16": st.sampled_from([None, -2]), "uint8": st.sampled_from([None, 2]),
    "float": st.sampled_from([None, math.nan, math.inf, -1.0]), "string": st.none(), "binary": st.none(),
    "date32[day]": st.none(),
}  # fmt: skip


def value(kind: pa.DataType, name: str, with_faults: bool) -> st.SearchStrategy[Any]:
    """A value of a column; with faults, now and then one that the contract refuses."""
    if pa.types.is_list(kind):
        drawn = st.lists(value(kind.value_type, "", with_faults), max_size=contract.FIELD_LIMITS.get(name, 2))
    elif pa.types.is_struct(kind):
        drawn = st.fixed_dictionaries({field.name: value(field.type, field.name, with_faults) for field in kind})
    elif name.endswith("ts_ms"):
        drawn = st.integers(0, 86_399_999).map(lambda ms: MIDNIGHT_MS + ms)
        return drawn | st.sampled_from([0, 1_767_571_200, MIDNIGHT_MS - 1]) if with_faults else drawn
    else:
        drawn = VALUES[str(kind)]
        return st.one_of(drawn, drawn, drawn, FAULTS[str(kind)]) if with_faults else drawn
    return st.one_of(drawn, drawn, drawn, st.none()) if with_faults else drawn


@st.composite
def days(draw: st.DrawFn, with_faults: bool) -> tuple[str, list[pa.Table], list[Row]]:
    """A table, the files of a day of it, and their rows as they were meant. One column of a file may have faults."""
    name = draw(st.sampled_from(TABLES))
    schema = contract.schema_with(name, ["follow"] if name == "impressions" else [])
    sizes = draw(st.lists(st.integers(1, 3), min_size=1, max_size=3))
    wrong = (draw(st.integers(0, len(sizes) - 1)), draw(st.sampled_from(schema.names))) if with_faults else None
    files, meant = [], []
    for number, size in enumerate(sizes):
        held, arrays = {}, {}
        for field in schema:
            has_faults = (number, field.name) == wrong
            drawn = value(field.type, field.name, has_faults)
            cell = drawn | st.none() if field.nullable else drawn
            held[field.name] = draw(st.lists(cell, min_size=size, max_size=size))
            if field.name == contract.spec(name).key[0] and not has_faults:
                held[field.name] = [100 * number + index for index in range(size)]
            arrays[field.name] = draw(spelled(field, held[field.name], has_faults))
        meant += [{column: values[index] for column, values in held.items()} for index in range(size)]
        files.append(pa.table({column: arrays[column] for column in draw(st.permutations(schema.names))}))
    return name, [file.append_column("day", pa.array(["yesterday"] * len(file))) for file in files], meant


def spelled(field: pa.Field, held: list[Any], with_faults: bool) -> st.SearchStrategy[pa.Array]:
    """The values in one of the types that can hold them."""
    plain = pa.array(held, field.type)
    arrays = [plain]
    for kind in spellings(field.type, field.name) + (_GUESSES if with_faults else []):
        try:
            if pa.types.is_timestamp(kind) and field.name.endswith("ts_ms"):
                arrays.append(pa.array(held, pa.timestamp("ms", "UTC")).cast(kind))
            else:
                arrays.append(pa.array(held, kind) if pa.types.is_nested(kind) else plain.cast(kind))
        except (pa.ArrowException, TypeError, OverflowError):
            continue
    return st.sampled_from(arrays)


def read_as_the_jobs_do(storage: Storage, name: str) -> list[Row]:
    """Everything that reads the table without an engine; the rows as they are read."""
    whole = storage.read(name, DAY)
    for column in whole.column_names:
        assert storage.read(name, DAY, [column])[column].equals(whole[column])
        pieces = [piece[column] for piece in batches(storage.dataset(name, DAY), 2, [column])]
        assert pa.chunked_array([c for p in pieces for c in p.chunks], whole[column].type).equals(whole[column])
    key = contract.spec(name).key[0]
    first = whole[key][0].as_py()
    assert storage.read(name, DAY, where=pc.field(key) == first).num_rows >= 1
    if name in contract.CARRIED:
        assert newest.read(storage, name)[key].to_pylist() == sorted(whole[key].to_pylist())
    if name == "anchors":
        assert len(list(corpus(storage, [DAY]))) == whole.num_rows
    if name == "segments":
        streamed = list(author_day.stream(storage, DAY))
        for author_id, rows in [*author_day.group(whole), *streamed]:
            author_day.gather(str(author_id), rows, PromptConfig())
    if name == "impressions":
        assert storage.labels(name, DAY) == ["click", "follow"]
        assert len(read_clicks(storage, [DAY]).ts_ms) == sum(whole["click"].to_pylist())
        written = run_job(examples, settings_of(storage.url))["examples"]
        assert written == whole.num_rows
    return whole.to_pylist()


def settings_of(root: str) -> Settings:
    return config.build(
        Settings, {"storage": {"root": root}, "run_dir": f"{root}/run", "validate": {"sample_frames": 0}}
    )


def bring(root: str, name: str, files: list[pa.Table]) -> Storage:
    storage = Storage.open(root)
    folder = Path(storage.folder(name, DAY))
    folder.mkdir(parents=True)
    for number, file in enumerate(files):
        pq.write_table(file, folder / f"{number}.parquet")
    return storage


@settings(max_examples=40, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(days(with_faults=False))
def test_a_sound_day_is_read_in_whatever_types_it_is_written(day: tuple[str, list[pa.Table], list[Row]]) -> None:
    name, files, meant = day
    with TemporaryDirectory() as root:
        storage = bring(root, name, files)
        run_job(validate, settings_of(root))
        assert read_as_the_jobs_do(storage, name) == meant


@settings(max_examples=80, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(days(with_faults=True))
def test_any_day_that_passes_is_read_by_every_job(day: tuple[str, list[pa.Table], list[Row]]) -> None:
    name, files, meant = day
    with TemporaryDirectory() as root:
        storage = bring(root, name, files)
        try:
            run_job(validate, settings_of(root))
        except ContractError:
            with suppress(ContractError):  # a job says no more than that, whatever is wrong
                storage.read(name, DAY)
                if name == "impressions":
                    run_job(examples, settings_of(root))
        else:
            assert read_as_the_jobs_do(storage, name) == meant
