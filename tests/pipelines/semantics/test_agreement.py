"""Agreement of written anchors with the truth, against numbers worked out by hand."""

import pytest

from pipelines.semantics.agreement import agreement, by_author
from pipelines.tables.contract import FIELDS


def anchor(**fields: list[str]) -> dict[str, list[str]]:
    return {field: fields.get(field, [field]) for field in FIELDS}


TRUTH = {1: anchor(topic=["a", "b"]), 2: anchor(), 3: anchor(), 4: anchor()}


def test_each_field_counts_exact_sets():
    written = {
        1: anchor(topic=["b", "a"]),  # the order does not matter
        2: anchor(topic=["topic", "more"], scene=[]),
        3: anchor(topic=["other"]),
        4: anchor(),
    }
    ones = dict.fromkeys(FIELDS, 1.0)
    assert agreement(written, TRUTH) == ones | {"topic": 0.5, "scene": 0.75}


def test_a_missing_anchor_is_wrong_and_one_without_truth_does_not_count():
    assert agreement({1: TRUTH[1], 9: anchor()}, TRUTH) == dict.fromkeys(FIELDS, 0.25)
    assert agreement({}, TRUTH) == dict.fromkeys(FIELDS, 0.0)


def test_part_of_a_set_is_wrong():
    assert agreement({1: anchor(topic=["a"])}, {1: TRUTH[1]})["topic"] == 0


def test_keys_limit_what_is_compared():
    assert agreement({1: TRUTH[1]}, TRUTH, keys=[1]) == dict.fromkeys(FIELDS, 1.0)
    assert agreement({1: TRUTH[1]}, TRUTH, keys=iter([1, 2])) == dict.fromkeys(FIELDS, 0.5)


@pytest.mark.parametrize(("truth", "keys"), [({}, None), (TRUTH, [])])
def test_nothing_to_compare_is_an_error(truth: dict[int, dict[str, list[str]]], keys: list[int] | None):
    with pytest.raises(ValueError, match="wanted at least one author-day"):
        agreement({1: anchor()}, truth, keys)


def test_rows_are_found_by_author():
    rows = [{"author_id": 7, **anchor()}, {"author_id": 8, **anchor(scene=["x"])}]
    assert by_author(rows) == {7: rows[0], 8: rows[1]}
