"""Content features in force on a day."""

from datetime import date
from pathlib import Path

import pyarrow as pa

from models.catalog import Catalog
from pipelines import contract
from pipelines.content import Tags
from pipelines.storage import Storage


def _write(storage: Storage, day: str, tags: dict[int, list[str] | None]) -> None:
    rows = [
        {"author_id": a, "profile": "", "category": None, "tags": t, "first_live_day": date(2026, 1, 1)}
        for a, t in tags.items()
    ]
    storage.write("authors", day, [pa.Table.from_pylist(rows, schema=contract.spec("authors").schema)])


def _catalog(ids: list[int]) -> Catalog:
    return Catalog.build(user_ids=[1], user_profile=[[0]], author_ids=ids, author_category=[0] * len(ids))


def test_tags_are_those_of_the_newest_row_before_the_day(tmp_path: Path) -> None:
    storage = Storage.open(str(tmp_path))
    _write(storage, "2026-01-01", {5: ["cooking", "outdoor"], 7: []})
    _write(storage, "2026-01-02", {7: ["games"], 9: ["cooking"]})
    _write(storage, "2026-01-03", {5: ["games"]})
    tags = Tags(storage, _catalog([5, 7, 9]), ["2026-01-02", "2026-01-03"])
    assert tags.num_codes == 4  # none, cooking, games, outdoor
    assert tags.advance(before="2026-01-02").table.tolist() == [[0, 0], [1, 3], [0, 0], [0, 0]]
    assert tags.advance(before="2026-01-03").table.tolist() == [[0, 0], [1, 3], [2, 0], [1, 0]]
    assert tags.advance(before="2026-01-04").table.tolist() == [[0], [2], [2], [1]]


def test_a_tag_that_training_never_saw_counts_as_none(tmp_path: Path) -> None:
    storage = Storage.open(str(tmp_path))
    _write(storage, "2026-01-01", {5: ["cooking"]})
    _write(storage, "2026-01-02", {5: ["travel", "cooking"]})
    tags = Tags(storage, _catalog([5]), ["2026-01-01", "2026-01-02"])
    assert tags.num_codes == 2
    assert tags.advance(before="2026-01-03").table.tolist() == [[0], [1]]


def test_before_the_first_day_nobody_has_tags(tmp_path: Path) -> None:
    storage = Storage.open(str(tmp_path))
    _write(storage, "2026-01-02", {5: ["cooking"]})
    tags = Tags(storage, _catalog([5]), ["2026-01-02"])
    assert tags.num_codes == 1 and tags.advance(before="2026-01-02").table.tolist() == [[0], [0]]
