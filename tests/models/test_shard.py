"""Tables of which a worker has some rows."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from models import embeddings
from models.catalog import CatalogSizes
from models.composed import ComposedRanker
from models.embeddings import IdTable
from models.ranker import RankerConfig
from models.row_adam import RowAdam
from models.shard import WHOLE, Shard, current, spread

ROWS, WORLD = 50, 3
SIZES = CatalogSizes(num_users=ROWS - 1, num_authors=20, profile_cardinalities=(2,), num_categories=2)


@pytest.fixture(autouse=True)
def _sparse(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embeddings, "SPARSE_FROM", ROWS)


def _tables(shard: Shard, num_rows: int = ROWS) -> tuple[IdTable, torch.Tensor]:
    """A table, and the next number that is drawn."""
    torch.manual_seed(0)
    with spread(shard):
        table = IdTable(num_rows, 4, 0.05, sharded=True)
    return table, torch.rand(1)


@pytest.mark.parametrize("together", [7, 1000])
def test_shards_are_parts_of_the_table_that_one_worker_would_draw(
    monkeypatch: pytest.MonkeyPatch, together: int
) -> None:
    monkeypatch.setattr(embeddings, "_DRAWN_TOGETHER", together)
    whole, drawn = _tables(WHOLE)
    for rank in range(WORLD):
        shard, next_drawn = _tables(Shard(rank, WORLD))
        assert torch.equal(shard.weight, whole.weight[rank::WORLD]) and torch.equal(next_drawn, drawn)
        assert shard.num_rows == ROWS and len(shard.weight) == Shard(rank, WORLD).count(ROWS)


def test_small_tables_and_those_that_nobody_spreads_are_whole() -> None:
    assert _tables(Shard(1, WORLD), ROWS - 1)[0].shard == WHOLE
    with spread(Shard(1, WORLD)):
        assert IdTable(ROWS, 4, 0.05).shard == WHOLE
        model = ComposedRanker(RankerConfig(), SIZES)
    assert current() == WHOLE
    assert model.ranker.users.shard == Shard(1, WORLD) and model.ranker.authors.shard == WHOLE


@pytest.mark.parametrize("first", range(7))
def test_what_belongs_to_a_shard_is_found_in_any_piece_of_a_table(first: int) -> None:
    rows = torch.arange(first, first + 11)
    found = [Shard(rank, WORLD).of(rows, first) for rank in range(WORLD)]
    assert all((of % WORLD == rank).all() for rank, of in enumerate(found))
    assert torch.equal(torch.cat(found).sort().values, rows)


def test_a_shard_is_not_read_without_its_reader() -> None:
    table, _ = _tables(Shard(0, WORLD))
    with pytest.raises(RuntimeError, match="has 17 of 50 rows"):
        table(torch.tensor([3]))


def test_a_shard_takes_its_rows_of_a_saved_model(tmp_path: Path) -> None:
    torch.manual_seed(1)
    whole = ComposedRanker(RankerConfig(), SIZES)
    whole.save(tmp_path)
    with spread(Shard(2, WORLD)):
        loaded, filled = ComposedRanker.load(tmp_path), ComposedRanker(RankerConfig(), SIZES)
    filled.fill(tmp_path)
    for model in (loaded, filled):
        assert torch.equal(model.ranker.users.weight, whole.ranker.users.weight[2::WORLD])
        assert torch.equal(model.ranker.authors.weight, whole.ranker.authors.weight)
    other = ComposedRanker(RankerConfig(), SIZES)
    other.load_state_dict(whole.state_dict())
    assert torch.equal(other.ranker.users.weight, whole.ranker.users.weight)


def test_a_shards_optimizer_takes_its_rows_of_what_a_whole_tables_knew() -> None:
    whole, _ = _tables(WHOLE)
    knew = RowAdam([whole], lr=0.1)
    whole(torch.tensor([4, 5, 9])).sum().backward()
    knew.step()
    table, _ = _tables(Shard(1, WORLD))
    optimizer = RowAdam([table], lr=0.1)
    optimizer.load_state_dict(knew.state_dict())
    for name in ("moments", "come_to"):
        assert torch.equal(optimizer.state[table.weight][name], knew.state[whole.weight][name][1::WORLD])
    assert optimizer.state[table.weight]["now"] == knew.state[whole.weight]["now"]
    assert optimizer.state[table.weight]["moments"].any()
