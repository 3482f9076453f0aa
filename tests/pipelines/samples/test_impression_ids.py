"""Ids of impressions: those of the table, else a hash of user, live and moment."""

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from pipelines.samples.impression_ids import ImpressionIds, hashed
from pipelines.tables import contract
from pipelines.tables.storage import Storage

DAY, START_MS = "2026-01-02", 1_767_312_000_000


def columns(*rows: tuple[int, int, int]) -> dict[str, np.ndarray]:
    return dict(zip(("user_id", "live_id", "ts_ms"), np.array(rows, np.int64).T, strict=True))


def test_the_hash_is_the_same_on_every_machine() -> None:
    assert hashed(*(np.array([number], np.int64) for number in (1, 10, START_MS))).tolist() == [3100858504916602729]


@given(st.lists(st.tuples(*[st.integers(-(2**63), 2**63 - 1)] * 3), unique=True, min_size=1, max_size=50))
def test_hashes_differ_and_are_positive(rows: list[tuple[int, int, int]]) -> None:
    ids = hashed(*columns(*rows).values())
    assert len(set(ids.tolist())) == len(rows) and (ids >= 0).all()


def test_it_depends_on_the_order_of_the_three() -> None:
    assert hashed(*columns((1, 2, 3)).values()) != hashed(*columns((2, 1, 3)).values())


def test_rows_of_the_table_win_and_of_two_the_smaller_id(tmp_path) -> None:
    storage = Storage.open(str(tmp_path))
    schema = contract.spec("impressions").schema
    shown = [
        {**dict.fromkeys(schema.names, 0), "impression_id": i, "user_id": u, "live_id": 10, "ts_ms": START_MS + s}
        for i, u, s in [(9, 1, 0), (8, 1, 0), (7, 2, 5), (6, 3, 90)]
    ]
    storage.write("impressions", DAY, [pa.Table.from_pylist(shown, schema=schema)])
    wanted = columns((2, 10, START_MS + 5), (1, 10, START_MS), (1, 11, START_MS), (2, 10, START_MS - 1))
    ids = ImpressionIds(storage)(wanted)
    assert ids[:2].tolist() == [7, 8] and ids[2:].tolist() == hashed(*wanted.values())[2:].tolist()
    none = {name: values[:0] for name, values in wanted.items()}
    assert ImpressionIds(storage)(none).tolist() == []
