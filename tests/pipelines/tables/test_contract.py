"""The contract of tables: what passes, and errors that say table, day, column, wanted, got."""

import pyarrow as pa
import pytest

from pipelines.tables import contract
from pipelines.tables.contract import ContractError

DAY = "2026-01-01"
MIDNIGHT_MS = 1_767_225_600_000


def users(**changed: pa.Array) -> pa.Table:
    columns = {
        "user_id": pa.array([1, 2], pa.int64()),
        "age_band": pa.array([0, 1], pa.int16()),
        "gender": pa.array([0, -1], pa.int16()),
        "region": pa.array([3, 4], pa.int16()),
        "device": pa.array([0, 0], pa.int16()),
    }
    return pa.table({**columns, **changed})


def impressions(click: list[int]) -> pa.Table:
    schema = contract.spec("impressions").schema
    row = dict.fromkeys(schema.names, 0) | {"ts_ms": MIDNIGHT_MS}
    return pa.Table.from_pylist(
        [{**row, "impression_id": number, "click": value} for number, value in enumerate(click)], schema=schema
    )


def test_extra_columns_are_dropped_and_lossless_casts_made():
    wide = users(user_id=pa.array([1, 2], pa.int32())).append_column("note", pa.array(["a", "b"]))
    made = contract.conform(wide, "users", DAY)
    assert made.schema == contract.spec("users").schema
    assert made["user_id"].to_pylist() == [1, 2]


def test_a_missing_column_is_named_with_those_present():
    with pytest.raises(
        ContractError, match=r"table users, day 2026-01-01: missing column\(s\) region; got user_id, age"
    ):
        contract.conform(users().drop_columns("region"), "users", DAY)


@pytest.mark.parametrize("values", [pa.array(["1", "2"]), pa.array([1.0, 2.5])])
def test_a_wrong_type_is_never_guessed_at(values: pa.Array):
    with pytest.raises(ContractError, match=rf"column user_id: wanted int64, got {values.type}"):
        contract.conform(users(user_id=values), "users", DAY)


def test_a_value_that_does_not_fit_is_an_error():
    with pytest.raises(ContractError, match="column age_band: wanted int16, got int64"):
        contract.conform(users(age_band=pa.array([0, 70_000], pa.int64())), "users", DAY)


def test_a_repeated_key_is_named():
    with pytest.raises(
        ContractError, match=r"wanted unique \(user_id\), got 1 repeated key\(s\), first {'user_id': 7}"
    ):
        contract.check_keys(users(user_id=pa.array([7, 7])), "users", DAY)


def labelled(**labels: pa.Array) -> pa.Table:
    table = impressions([0, 1])
    for name, values in labels.items():
        table = table.append_column(name, values)
    return table


def test_labels_of_any_name_are_kept_as_uint8_and_others_dropped():
    table = labelled(stay=pa.array([True, False]), buy=pa.array([0, 1], pa.uint8()), price=pa.array([3, 900]))
    made = contract.conform(table, "impressions", DAY)
    assert made.schema.names[-4:] == ["click", "stay", "buy", "watch_time_s"]
    assert made["stay"].type == pa.uint8() and made["stay"].to_pylist() == [1, 0]
    assert (
        contract.conform(users().append_column("buy", table["buy"]), "users", DAY).schema.names == users().schema.names
    )


def test_a_label_of_the_default_tasks_may_be_a_wider_integer():
    made = contract.conform(labelled(gift=pa.array([0, 1], pa.int64())), "impressions", DAY)
    assert made["gift"].type == pa.uint8()


def test_an_unknown_table_lists_the_known_ones():
    with pytest.raises(ContractError, match="unknown table 'fans'; the contract has authors, users, segments"):
        contract.spec("fans")


@pytest.mark.parametrize("name", contract.TABLES)
def test_keys_are_columns_that_hold_no_null(name: str):
    spec = contract.spec(name)
    assert all(not spec.schema.field(column).nullable for column in spec.key)
