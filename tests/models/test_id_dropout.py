"""Which examples lose their ids: about the share that is asked for, and the same ones however they are batched."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from models.batch import RankingBatch, collate
from models.catalog import Catalog
from models.id_dropout import without_some_ids

CATALOG = Catalog.build(
    user_ids=np.arange(50),
    user_profile=np.arange(100).reshape(50, 2) % 5,
    author_ids=np.arange(200),
    author_category=np.arange(200) % 7,
)


def batch_of(rows: int, seed: int = 0) -> RankingBatch:
    rng = np.random.default_rng(seed)
    columns = {
        "user_id": rng.integers(0, 50, rows),
        "author_id": rng.integers(0, 200, rows),
        "ts_ms": rng.integers(0, 10**12, rows),
        "history_author_ids": rng.integers(0, 200, (rows, 3)),
        "history_age_s": rng.exponential(1e4, (rows, 3)).astype(np.float32),
        "history_watch_s": rng.exponential(60, (rows, 3)).astype(np.float32),
    }
    return collate(columns, CATALOG)


def test_without_a_share_the_batch_is_the_same() -> None:
    batch = batch_of(20)
    assert without_some_ids(batch, 0.0, seed=1, step=2) is batch


@pytest.mark.parametrize("share", [0.02, 0.3])
def test_the_share_of_each_side_is_dropped_apart_from_the_other(share: float) -> None:
    rows = 20_000
    dropped = without_some_ids(batch_of(rows), share, seed=1, step=2)
    user, author = (dropped.user == 0).numpy(), (dropped.author == 0).numpy()
    for got, wanted in ((user.mean(), share), (author.mean(), share), ((user & author).mean(), share**2)):
        assert abs(got - wanted) < 5 * np.sqrt(wanted / rows)


def test_what_goes_is_all_that_is_known_of_either_and_nothing_else() -> None:
    batch = batch_of(500)
    dropped = without_some_ids(batch, 0.4, seed=1, step=2)
    user, author = dropped.user == 0, dropped.author == 0
    assert not dropped.user_profile[user].any() and not dropped.author_category[author].any()
    assert torch.equal(dropped.user_profile[~user], batch.user_profile[~user])
    assert torch.equal(dropped.author_category[~author], batch.author_category[~author])
    assert torch.equal(dropped.user[~user], batch.user[~user])
    assert torch.equal(dropped.author[~author], batch.author[~author])
    for name in ("hour", "history", "history_mask", "history_age_s", "history_watch_s", "labels"):
        assert torch.equal(getattr(dropped, name), getattr(batch, name))


@given(st.integers(0, 100), st.integers(0, 2**40), st.integers(-5, 2**40))
def test_workers_that_share_a_batch_drop_what_one_alone_does(cut: int, step: int, seed: int) -> None:
    batch = batch_of(100)
    whole = without_some_ids(batch, 0.3, seed, step)
    parts = [without_some_ids(batch.slice(part), 0.3, seed, step) for part in (slice(0, cut), slice(cut, None))]
    assert torch.equal(torch.cat([part.user for part in parts]), whole.user)
    assert torch.equal(torch.cat([part.author for part in parts]), whole.author)


def test_another_step_or_seed_drops_others() -> None:
    batch = batch_of(2000)
    by_draw = [without_some_ids(batch, 0.3, seed, step).user == 0 for seed, step in ((1, 2), (1, 3), (2, 2))]
    for one in range(3):
        for other in range(one):
            both = (by_draw[one] & by_draw[other]).float().mean()
            assert abs(both - 0.09) < 0.03, "as often as by chance"
