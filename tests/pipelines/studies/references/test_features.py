"""Sparse features of examples, counted by hand, and which anchor they are of."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from models.catalog import Catalog
from pipelines.studies.references.features import AnchorTerms, crossed, features, one_hot, ways_to_join
from pipelines.tables import contract
from pipelines.tables.contract import ContractError
from pipelines.tables.days import NO_ANCHOR, day_number
from pipelines.tables.storage import Storage

DAYS = ("2026-01-02", "2026-01-03", "2026-01-04")


EACH = ((0,), (1,))
"""Every profile column by itself."""


def _catalog() -> Catalog:
    """Users 1 and 2 with two profile columns; authors 5 and 7 of categories 0 and 1."""
    return Catalog.build(user_ids=[1, 2], user_profile=[[0, 1], [1, -1]], author_ids=[5, 7], author_category=[0, 1])


def _write(storage: Storage, day: str, themes: dict[int, str]) -> None:
    schema = contract.spec("anchors").schema
    empty = {f.name: [] if pa.types.is_list(f.type) else "" if pa.types.is_string(f.type) else 0 for f in schema}
    rows = [empty | {"author_id": author, "theme": [theme]} for author, theme in themes.items()]
    storage.write("anchors", day, [pa.Table.from_pylist(rows, schema=schema)])


def _columns(authors: list[int], anchor_days: list[int]) -> dict[str, np.ndarray]:
    return {"author_id": np.array(authors), "anchor_day": np.array(anchor_days, np.int32)}


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    storage = Storage.open(str(tmp_path))
    _write(storage, "2026-01-01", {5: "Chess Night", 7: "cooking"})
    _write(storage, "2026-01-02", {5: "fishing"})
    _write(storage, "2026-01-03", {7: "chess endgames"})
    return storage


def test_features_by_hand() -> None:
    columns = {"user_id": np.array([1, 2]), "author_id": np.array([7, 5])}
    terms = one_hot(np.array([1, 0]), 2)
    found = features(_catalog(), columns, terms, EACH).toarray()
    # Users 3, authors 3; then profile columns of 3 and 3 values (0 = unknown) x 3 authors, 3 categories, 2 terms.
    assert found.shape == (2, 3 + 3 + 2 * (9 + 9 + 6))
    first = 6
    wanted = [{1, 3 + 2}, {2, 3 + 1}]
    for row, (author, category, term, values) in enumerate([(2, 2, 1, (1, 2)), (1, 1, 0, (2, 0))]):
        for column, value in enumerate(values):
            start = first + 24 * column
            wanted[row] |= {start + 3 * value + author, start + 9 + 3 * value + category, start + 18 + 2 * value + term}
    assert [set(np.flatnonzero(row)) for row in found] == wanted and found.max() == 1


def test_joined_columns_are_one_value() -> None:
    columns = {"user_id": np.array([1, 2]), "author_id": np.array([7, 5])}
    found = features(_catalog(), columns, None, ((0, 1),)).toarray()
    assert found.shape == (2, 3 + 3 + 9 * (3 + 3))
    for row, (author, category, (first, second)) in enumerate([(2, 2, (1, 2)), (1, 1, (2, 0))]):
        cell = 3 * first + second
        assert set(np.flatnonzero(found[row, 6:])) == {3 * cell + author, 27 + 3 * cell + category}


def test_columns_are_joined_all_or_all_but_one() -> None:
    assert ways_to_join(1) == {"each": ((0,),)}
    ways = ways_to_join(3)
    assert ways.pop("each") == EACH + ((2,),) and ways.pop("all") == ((0, 1, 2),)
    assert list(ways.values()) == [((1, 2),), ((0, 2),), ((0, 1),)]


def test_without_anchors_there_are_no_columns_of_them() -> None:
    columns = {"user_id": np.array([1]), "author_id": np.array([7])}
    assert features(_catalog(), columns, None, EACH).shape == (1, 6 + 2 * 18)


def test_a_cross_keeps_every_member_and_its_weight() -> None:
    members = one_hot(np.array([0, 1]), 2) + 0.5 * one_hot(np.array([1, 0]), 2)
    assert crossed(np.array([2, 0]), 3, members).toarray().tolist() == [[0, 0, 0, 0, 1, 0.5], [0.5, 1, 0, 0, 0, 0]]


def test_terms_are_those_of_the_newest_anchor_of_a_day_strictly_before(storage: Storage) -> None:
    terms = AnchorTerms(storage, _catalog(), "phrases", DAYS)
    assert len(terms) == 4
    first, second = day_number("2026-01-01"), day_number("2026-01-02")
    before = {day: terms.before(day, _columns([5, 7], of)).toarray() for day, of in
              (("2026-01-02", [first, first]), ("2026-01-03", [second, first]),
               ("2026-01-04", [second, day_number("2026-01-03")]))}  # fmt: skip
    night, cooking, fishing, endgames = np.eye(4)
    assert before["2026-01-02"].tolist() == [night.tolist(), cooking.tolist()]
    assert before["2026-01-03"].tolist() == [fishing.tolist(), cooking.tolist()]
    assert before["2026-01-04"].tolist() == [fishing.tolist(), endgames.tolist()]


def test_terms_that_training_never_saw_and_unknown_authors_count_as_none(storage: Storage) -> None:
    terms = AnchorTerms(storage, _catalog(), "phrases", DAYS[:2])
    assert len(terms) == 3
    columns = _columns([7, 99], [day_number("2026-01-03"), NO_ANCHOR])
    assert terms.before("2026-01-04", columns).toarray().tolist() == [[0, 0, 0], [0, 0, 0]]


def test_words_are_shared_by_phrases_and_cases(storage: Storage) -> None:
    terms = AnchorTerms(storage, _catalog(), "words", DAYS)
    assert len(terms) == 5  # chess, night, cooking, fishing, endgames
    rows = terms.before("2026-01-02", _columns([5], [day_number("2026-01-01")])).toarray()
    later = terms.before("2026-01-04", _columns([7], [day_number("2026-01-03")])).toarray()
    assert rows.sum() == later.sum() == 2 and (rows * later).sum() == 1


def test_examples_that_were_joined_with_other_anchors_are_refused(storage: Storage) -> None:
    terms = AnchorTerms(storage, _catalog(), "phrases", DAYS)
    with pytest.raises(ContractError, match="column anchor_day: wanted the newest anchors before that day"):
        terms.before("2026-01-03", _columns([5], [day_number("2026-01-03")]))
