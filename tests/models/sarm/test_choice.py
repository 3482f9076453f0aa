from __future__ import annotations

import pytest
import torch

from models.sarm.choice import choose_authors, distinct_histories
from tests.models.worlds import batch


@pytest.mark.parametrize(
    ("written", "counts", "wanted"),
    [
        ([5, 3, 4], [1, 1, 1], [1, 2]),
        ([0, -1, 7], [9, 1, 9], [0, 1]),
        ([2, 2, 2], [1, 3, 2], [1, 2]),
        ([2, 2, 2], [1, 1, 1], [0, 1]),
    ],
)
def test_the_stalest_then_the_most_frequent_are_chosen(
    written: list[int], counts: list[int], wanted: list[int]
) -> None:
    chosen = choose_authors(torch.tensor([4, 6, 9]), torch.tensor(counts), torch.tensor(written), 2)
    assert chosen.tolist() == wanted


def test_without_a_budget_or_below_it_all_are_chosen() -> None:
    authors, counts, written = torch.arange(3), torch.ones(3), torch.zeros(3)
    assert choose_authors(authors, counts, written, None).tolist() == [0, 1, 2]
    assert choose_authors(authors, counts, written, 3).tolist() == [0, 1, 2]


def test_the_distinct_histories_make_up_all_rows() -> None:
    rows = batch(24)
    # User 1 has three histories, of which one comes back; user 2 shares two of them.
    same = [0, 1, 0, 0, 1, 3]
    chosen = rows.slice(torch.tensor(same))._replace(user=torch.tensor([1, 1, 1, 2, 2, 1]))
    first, of_row = distinct_histories(chosen)
    assert torch.equal(chosen.history[first][of_row], chosen.history)
    assert torch.equal(chosen.history_mask[first][of_row], chosen.history_mask)


def test_a_history_that_a_request_shares_is_given_once() -> None:
    """Rows of requests come mixed with each other, as in time order."""
    rows = batch(24).slice(torch.tensor([4, 3] * 4))._replace(user=torch.tensor([1, 2] * 4))
    first, of_row = distinct_histories(rows)
    assert first.tolist() == [0, 1] and of_row.tolist() == [0, 1] * 4


def test_an_unknown_author_in_a_history_is_not_padding() -> None:
    rows = batch(2)
    history, mask = torch.zeros(2, 5, dtype=torch.int64), torch.tensor([[False] * 5, [False] * 4 + [True]])
    chosen = rows._replace(user=torch.tensor([1, 1]), history=history, history_mask=mask)
    assert len(distinct_histories(chosen)[0]) == 2
