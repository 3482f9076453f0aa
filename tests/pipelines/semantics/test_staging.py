from pathlib import Path
from typing import Any

import pyarrow as pa

from pipelines.semantics.engine import ANSWERS
from pipelines.semantics.staging import Staging
from pipelines.tables.storage import Storage

DAY = "2026-01-01"


def answer(author_id: int, text: str) -> dict[str, Any]:
    row = {"day": DAY, "author_id": author_id, "answer": text, "reason": "", "detail": ""}
    return row | {"bad_frames": [], "num_frames": 4, "num_comments": 8}


def inputs(*authors: int, changed: int | None = None) -> dict[str, dict[int, bytes]]:
    return {DAY: {author: bytes([author, author == changed] * 8) for author in authors}}


def test_staging_keeps_one_row_per_key_and_ignores_unfinished_parts(tmp_path: Path) -> None:
    storage = Storage.open(str(tmp_path))
    staging = Staging(storage, "run", inputs(1, 2))
    table = pa.Table.from_pylist([answer(2, "b"), answer(1, "a")], schema=ANSWERS)
    staging.append(table)
    staging.append(table.slice(1))
    (folder,) = (tmp_path / "staging").iterdir()
    (folder / "part-torn.parquet.1234.tmp").write_bytes(b"PAR1")
    again = Staging(storage, "run", inputs(1, 2))
    assert again.read(DAY)["author_id"].to_pylist() == [1, 2]
    assert again.keys() == {(DAY, 1), (DAY, 2)}
    again.remove()
    assert not folder.exists()


def test_what_was_staged_stands_for_authors_whose_inputs_are_the_same(tmp_path: Path) -> None:
    storage = Storage.open(str(tmp_path))
    staged = pa.Table.from_pylist([answer(1, "a"), answer(2, "b"), answer(3, "c")], schema=ANSWERS)
    Staging(storage, "run", inputs(1, 2, 3)).append(staged)
    again = Staging(storage, "run", inputs(1, 2, 4, changed=2))
    assert again.keys() == {(DAY, 1)}
    again.append(pa.Table.from_pylist([answer(2, "newer")], schema=ANSWERS))
    assert again.read(DAY)["answer"].to_pylist() == ["a", "newer"]


def test_days_of_one_batch_are_kept_apart(tmp_path: Path) -> None:
    other = "2026-01-02"
    staging = Staging(Storage.open(str(tmp_path)), "run", inputs(1) | {other: {1: bytes(16)}})
    rows = [answer(1, "a"), answer(1, "b") | {"day": other}]
    staging.append(pa.Table.from_pylist(rows, schema=ANSWERS))
    assert [staging.read(day)["answer"].to_pylist() for day in (DAY, other)] == [["a"], ["b"]]


def test_a_day_that_is_forgotten_is_asked_for_again_and_no_other(tmp_path: Path) -> None:
    other = "2026-01-02"
    staging = Staging(Storage.open(str(tmp_path)), "run", inputs(1) | {other: {1: bytes(16)}})
    staging.append(pa.Table.from_pylist([answer(1, "a"), answer(1, "b") | {"day": other}], schema=ANSWERS))
    staging.forget(DAY)
    assert staging.keys() == {(other, 1)}
    staging.append(pa.Table.from_pylist([answer(1, "again")], schema=ANSWERS))
    assert staging.keys() == {(DAY, 1), (other, 1)}
