from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from models.catalog import Catalog


def build() -> Catalog:
    return Catalog.build([30, 10, 20], [[2, 0], [0, 1], [-1, 5]], [7, 5], [3, -1])


def test_rows_follow_the_sorted_ids_and_unknown_ids_have_row_zero() -> None:
    rows = build().user_rows(np.array([[10, 20], [30, 99], [-5, 0]]))
    assert rows.tolist() == [[1, 2], [3, 0], [0, 0]] and rows.dtype == np.int64
    assert build().author_rows([7, 5, 6]).tolist() == [2, 1, 0]


def test_facts_follow_their_ids_and_are_shifted_so_that_zero_is_unknown() -> None:
    assert build().user_profile.tolist() == [[0, 0], [1, 2], [0, 6], [3, 1]]
    assert build().author_category.tolist() == [0, 0, 4]


def test_sizes_count_the_unknown_value_of_facts_but_not_row_zero() -> None:
    sizes = build().sizes
    assert (sizes.num_users, sizes.num_authors) == (3, 2)
    assert (sizes.profile_cardinalities, sizes.num_categories) == ((4, 7), 5)


def test_a_duplicate_id_is_named() -> None:
    with pytest.raises(ValueError, match="author_ids has id 5 twice"):
        Catalog.build([1], [[0]], [5, 4, 5], [0, 0, 0])


@pytest.mark.parametrize(("profile", "category"), [([[0]], [0]), ([[0], [0]], [0, -2]), ([0, 0], [0, 0])])
def test_facts_that_do_not_fit_the_ids_are_refused(profile: list[Any], category: list[int]) -> None:
    with pytest.raises(ValueError, match="user_profile|author_category"):
        Catalog.build([1, 2], profile, [1, 2], category)


def test_a_catalog_without_anybody_knows_nobody() -> None:
    empty = Catalog.build([], np.zeros((0, 2)), [], [])
    assert empty.user_rows([1, 2]).tolist() == [0, 0]
    assert empty.profile_cardinalities == (1, 1)


def test_save_and_load_give_the_same_catalog(tmp_path: Path) -> None:
    build().save(tmp_path / "catalog.safetensors")
    loaded = Catalog.load(tmp_path / "catalog.safetensors")
    assert loaded.sizes == build().sizes
    assert loaded.user_rows([10, 99]).tolist() == [1, 0]


def test_loading_another_kind_of_file_is_refused(tmp_path: Path) -> None:
    save_file({"user_ids": np.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match="wanted 'catalog/1'"):
        Catalog.load(tmp_path / "other.safetensors")
