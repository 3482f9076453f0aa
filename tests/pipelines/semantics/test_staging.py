from pathlib import Path
from typing import Any

import pyarrow as pa

from pipelines.semantics.engine import ANSWERS, KEYS
from pipelines.semantics.staging import Staging, key_blocks
from pipelines.tables.storage import Storage

DAY = "2026-01-01"


def answer(author_id: int, text: str) -> dict[str, Any]:
    row = {"day": DAY, "author_id": author_id, "answer": text, "reason": "", "detail": ""}
    return row | {"bad_frames": [], "num_frames": 4, "num_comments": 8}


def test_staging_keeps_one_row_per_key_and_ignores_unfinished_parts(tmp_path: Path) -> None:
    storage = Storage.open(str(tmp_path))
    staging = Staging(storage, "run")
    table = pa.Table.from_pylist([answer(2, "b"), answer(1, "a")], schema=ANSWERS)
    staging.append(table)
    staging.append(table.slice(1))
    (Path(staging.folder) / "part-torn.parquet.1234.tmp").write_bytes(b"PAR1")
    again = Staging(storage, "run")
    assert again.read()["author_id"].to_pylist() == [1, 2]
    assert again.read("2026-01-02").num_rows == 0
    assert again.keys() == {(DAY, 1), (DAY, 2)}
    again.remove()
    assert not Path(staging.folder).exists()


def test_a_day_that_is_forgotten_is_asked_for_again_and_no_other(tmp_path: Path) -> None:
    staging = Staging(Storage.open(str(tmp_path)), "run")
    other = answer(3, "c") | {"day": "2026-01-02"}
    staging.append(pa.Table.from_pylist([answer(1, "a"), other], schema=ANSWERS))
    staging.forget(DAY)
    assert staging.keys() == {("2026-01-02", 3)}
    staging.forget("2026-01-02")
    assert staging.keys() == set()


def test_blocks_hold_every_key_in_order() -> None:
    keys = [(DAY, author) for author in range(5)]
    blocks = key_blocks(keys, 2)
    assert [block.num_rows for block in blocks] == [2, 2, 1]
    assert all(block.schema == KEYS for block in blocks)
    rows = [tuple(row.values()) for block in blocks for row in block.to_pylist()]
    assert rows == keys
