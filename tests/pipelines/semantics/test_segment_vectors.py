"""Rows of segment_embeddings as vectors: all of them once, and those that cannot be used are told."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.semantics import segment_vectors
from pipelines.semantics.segment_vectors import Space
from pipelines.tables.contract import ContractError
from pipelines.tables.storage import Storage
from tests.pipelines.semantics.embedded import MODEL, row, themed, write

DAY, SPACE = "2026-01-01", Space(model=MODEL, width=4)


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return Storage.open(str(tmp_path))


def test_parts_hold_every_row_once_whatever_their_size(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    write(storage, DAY, themed(300, 10, 4), themed(1000, 1, 4, seed=1)[300:], themed(2000, 1, 4, seed=2)[1000:])
    whole = segment_vectors.parts(storage, DAY, SPACE)
    assert len(whole) == 1 and whole[0].rows == 3000 + 700 + 1000
    monkeypatch.setattr(segment_vectors, "_NUMBERS", 2000 * 4)
    pieces = segment_vectors.parts(storage, DAY, SPACE)
    assert [piece.rows for piece in pieces] == [1024, 1976, 1700]  # whole row groups, of 1,024 rows
    read = [segment_vectors.read(storage, part, SPACE) for part in pieces]
    together = segment_vectors.read(storage, whole[0], SPACE)
    assert np.array_equal(np.concatenate([of.values for of in read]), together.values)
    expected = storage.read("segment_embeddings", DAY)
    assert together.rows.equals(expected.select(["author_id", "live_id", "segment", "end_ts_ms"]).combine_chunks())
    assert together.values.tolist() == expected["embedding"].to_pylist() and not together.refused


def test_a_row_that_cannot_be_used_says_what_and_where(storage: Storage) -> None:
    nan, inf = float("nan"), float("inf")
    bad = {
        (2, 0): (row(2, 0, [1.0, nan, 0.0, 0.0]), "column embedding: wanted finite numbers, got nan at place 1"),
        (2, 1): (row(2, 1, [1.0, 0.0, 0.0, -inf]), "got -inf at place 3"),
        (3, 0): (row(3, 0, [1.0, 2.0]), "column embedding: wanted 4 numbers, as others have, got 2 numbers"),
        (3, 1): (row(3, 1, []), "got 0 numbers"),
        (4, 0): (row(4, 0, [1.0, 0.0, 0.0, 0.0], model="other"), "column model: wanted student, .* got other"),
    }
    good = [row(1, 0, [1, 2, 3, 4]), row(9, 9, [5, 6, 7, 8])]
    write(storage, DAY, [good[0], *(of for of, _ in bad.values()), good[1]])
    (part,) = segment_vectors.parts(storage, DAY, SPACE)
    found = segment_vectors.read(storage, part, SPACE)
    assert found.rows["author_id"].to_pylist() == [1, 9] and found.values.tolist() == [[1, 2, 3, 4], [5, 6, 7, 8]]
    assert [of["key"] for of in found.refused] == [f"{a} {10 * a} {s}" for a, s in bad]
    for refused, (_, wanted) in zip(found.refused, bad.values(), strict=True):
        assert refused["reason"] == "bad_row"
        with pytest.raises(ValueError, match=f"table segment_embeddings, day {DAY}, .*{wanted}; run the job"):
            raise ValueError(refused["detail"])


def test_nulls_in_files_that_a_user_brought(storage: Storage) -> None:
    rows = [row(1, 0, [1, 2, 3, 4]), row(2, 0, None), row(3, 0, [0, 0, 0, 0])]
    rows[2]["embedding"] = [0.0, None, 0.0, 0.0]
    folder = Path(storage.folder("segment_embeddings", DAY))
    folder.mkdir(parents=True)
    loose = pa.schema([("author_id", pa.int64()), ("live_id", pa.int64()), ("segment", pa.int32())])
    for name, kind in (("end_ts_ms", pa.int64()), ("embedding", pa.list_(pa.float16())), ("model", pa.string())):
        loose = loose.append(pa.field(name, kind))
    pq.write_table(pa.Table.from_pylist(rows, schema=loose), folder / "mine.parquet")
    (part,) = segment_vectors.parts(storage, DAY, SPACE)
    found = segment_vectors.read(storage, part, SPACE)
    assert found.values.tolist() == [[1, 2, 3, 4]]
    assert "got null;" in found.refused[0]["detail"] and "got null at place 1;" in found.refused[1]["detail"]


def test_the_space_is_that_of_most_rows_of_the_newest_day(storage: Storage) -> None:
    write(storage, DAY, themed(5, 2, width=6))
    write(storage, "2026-01-02", [row(1, 0, []), row(2, 0, [1, 2, 3, 4]), row(3, 0, [1, 2]), row(4, 0, [1, 2, 3, 4])])
    write(storage, "2026-01-03")
    days = ["2026-01-01", "2026-01-02", "2026-01-03"]
    assert segment_vectors.space_of(storage, days) == SPACE
    assert segment_vectors.space_of(storage, days[:1]).width == 6
    assert segment_vectors.parts(storage, "2026-01-03", SPACE) == []
    with pytest.raises(ContractError, match="day.s. 2026-01-03: wanted at least one row .* run the job embed_segments"):
        segment_vectors.space_of(storage, days[2:])
