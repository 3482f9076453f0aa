from __future__ import annotations

import numpy as np
import pytest
import torch

from models.batch import collate
from tests.models.worlds import catalog, columns, on_screen


def test_rows_become_table_rows_and_facts() -> None:
    given = columns(3) | {"user_id": np.array([20, 999, 0]), "author_id": np.array([500, 0, 1])}
    batch = collate(given, catalog())
    assert batch.user.tolist() == [3, 0, 1]
    assert batch.author.tolist() == [6, 1, 0]
    assert batch.user_profile[1].tolist() == [0, 0]
    assert batch.user_profile[0].tolist() == catalog().user_profile[3].tolist()
    assert batch.author_category.tolist() == [catalog().author_category[6], catalog().author_category[1], 0]


def test_the_hour_is_that_of_utc() -> None:
    given = columns(3) | {"ts_ms": np.array([0, 3_600_000 * 25 - 1, 3_600_000 * 47])}
    assert collate(given, catalog()).hour.tolist() == [0, 0, 23]


def test_an_unknown_author_in_the_history_is_an_item_and_padding_is_none() -> None:
    given = columns(1) | {"history_author_ids": np.array([[-1, -1, 12345, 0, 100]])}
    batch = collate(given, catalog())
    assert batch.history.tolist() == [[0, 0, 0, 1, 2]]
    assert batch.history_mask.tolist() == [[False, False, True, True, True]]


def test_labels_stand_in_the_order_of_the_tasks() -> None:
    given = columns(2) | {"click": np.array([1, 0], np.uint8), "stay": np.array([False, True])}
    assert collate(given, catalog(), ["stay", "click"]).labels.tolist() == [[0, 1], [1, 0]]
    assert collate(given, catalog(), ["stay"]).labels.dtype == torch.float32


def test_rows_that_are_only_scored_need_no_labels() -> None:
    assert collate(columns(2), catalog()).labels.shape == (2, 0)


def test_a_task_without_a_column_is_named() -> None:
    with pytest.raises(ValueError, match=r"miss columns \['subscribe'\]; present are"):
        collate(columns(2), catalog(), ["click", "subscribe"])


def test_read_only_columns_are_accepted() -> None:
    given = columns(4)
    for column in given.values():
        column.flags.writeable = False
    assert collate(given, catalog()).size == 4


def test_missing_columns_are_named_with_those_present() -> None:
    given = columns(2)
    del given["ts_ms"]
    with pytest.raises(ValueError, match=r"miss columns \['ts_ms'\]; present are .*'user_id'"):
        collate(given, catalog())


@pytest.mark.parametrize("name", ["author_id", "history_age_s", "click"])
def test_a_column_of_another_shape_is_named(name: str) -> None:
    given = columns(3)
    given[name] = given[name][:2]
    with pytest.raises(ValueError, match=f"column {name} has shape"):
        collate(given, catalog(), ["click"])


def test_a_history_padded_on_the_right_is_refused() -> None:
    given = columns(1) | {"history_author_ids": np.array([[0, 100, 200, -1, -1]])}
    with pytest.raises(ValueError, match="padded on the left"):
        collate(given, catalog())


def test_slice_takes_the_same_rows_of_every_tensor() -> None:
    given = columns(6)
    masked = given | {"click": given["click"], "mask_click": np.arange(6, dtype=np.uint8) % 2} | on_screen(6)
    batch = collate(masked, catalog(), ["click"])
    part = batch.slice(torch.tensor([4, 1]))
    assert batch.on_screen is not None and part.on_screen is not None
    wholes = [*batch[:-1], *(of for table in batch.on_screen.values() for of in table)]
    pieces = [*part[:-1], *(of for table in part.on_screen.values() for of in table)]
    assert len(pieces) == len(batch) - 1 + 4
    for whole, piece in zip(wholes, pieces, strict=True):
        assert torch.equal(piece, whole[[4, 1]])
    plain = collate(given, catalog(), ["click"]).slice(slice(2))
    assert plain.label_mask is None and plain.on_screen is None


def test_codes_of_what_was_on_screen_count_from_1_and_0_is_none() -> None:
    given = columns(1) | {"item_codes": np.array([[7, 0]], np.int32)}
    given["history_item_codes"] = np.array([[-1, -1, -1, -1, 3, 0, 5, 1, 0, 2]], np.int32)
    seen = collate(given, catalog()).to("cpu").on_screen
    assert seen is not None and list(seen) == ["item_codes"]
    assert seen["item_codes"].target.tolist() == [[8, 1]]
    assert seen["item_codes"].history.tolist() == [[[0, 0], [0, 0], [4, 1], [6, 2], [1, 3]]]
    with pytest.raises(ValueError, match=r"item_codes have shapes \(1, 2\) and \(1, 9\), wanted .* 5 x codes"):
        collate(given | {"history_item_codes": np.zeros((1, 9), np.int32)}, catalog())
    del given["history_item_codes"]
    with pytest.raises(ValueError, match=r"miss columns \['history_item_codes'\]"):
        collate(given, catalog())


def test_masks_come_in_the_order_of_the_tasks_and_all_or_none() -> None:
    given = columns(2) | {"stay": np.array([0, 1], np.uint8), "mask_stay": np.array([1, 0], np.uint8)}
    with pytest.raises(ValueError, match="mask_click"):
        collate(given, catalog(), ["stay", "click"])
    given["mask_click"] = np.array([1, 1], np.uint8)
    mask = collate(given, catalog(), ["stay", "click"]).label_mask
    assert mask is not None and mask.tolist() == [[1.0, 1.0], [0.0, 1.0]]
