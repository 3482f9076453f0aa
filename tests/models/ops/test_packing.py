"""Packed sequences against the plain modules over padded ones: values and every gradient."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from models.embeddings import IdTable
from models.layers import TransformerBlock
from models.ops.packing import Distinct, Places
from models.sarm.anchor_encoder import AnchorEncoder
from models.sarm.author_identity import AuthorIdentity
from models.sarm.model import SARM
from models.sarm.user_interest import UserInterest
from tests.models.worlds import NUM_AUTHORS, ROWS, SARM_CONFIG, batch, sarm, scatter_parameters, tokens


def assert_same(found: Tensor, wanted: Tensor, module: nn.Module) -> None:
    """Values, and gradients of all parameters."""
    torch.testing.assert_close(found, wanted, atol=2e-6, rtol=1e-5)
    upstream = torch.randn(wanted.shape, generator=torch.Generator().manual_seed(5))
    gradients = []
    for value in (found, wanted):
        module.zero_grad()
        torch.autograd.backward(value, upstream)
        gradients.append({name: p.grad.clone() for name, p in module.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys() and len(gradients[0]) > 3
    for name, gradient in gradients[1].items():
        scale = float(gradient.abs().max()) or 1.0
        torch.testing.assert_close(gradients[0][name] / scale, gradient / scale, atol=1e-5, rtol=0.0, msg=name)


def test_places_lay_real_positions_end_to_end_and_back() -> None:
    places = Places(torch.tensor([[False, True], [True, True], [False, False]]))
    x = torch.arange(6.0).view(3, 2, 1)
    assert places.pack(x).flatten().tolist() == [1.0, 2.0, 3.0]
    assert places.pad(places.pack(x)).flatten().tolist() == [0.0, 1.0, 2.0, 3.0, 0.0, 0.0]


def test_distinct_ids_stand_where_they_stood() -> None:
    ids = torch.tensor([[7, 3], [3, 9]])
    distinct = Distinct(ids)
    rows = distinct.ids.unsqueeze(1)
    assert distinct.ids.tolist() == [3, 7, 9] and torch.equal(distinct.spread(rows).squeeze(-1), ids)
    assert distinct.pack(rows, Places(ids != 9)).flatten().tolist() == [7, 3, 3]


@pytest.mark.parametrize("heads", [1, 2])
def test_a_packed_block_is_the_block(heads: int) -> None:
    torch.manual_seed(0)
    block = TransformerBlock(8, heads, 2)
    scatter_parameters(block)
    mask = torch.arange(5) < torch.tensor([[5], [1], [3]])
    x, places = torch.randn(3, 5, 8), Places(mask)
    assert_same(block.packed(places.pack(x), places), places.pack(block(x, mask)), block)


@pytest.mark.parametrize(("num_layers", "fusion_layers"), [(1, (0,)), (1, ()), (4, (0, 3)), (4, (0, 1, 2, 3))])
def test_the_packed_encoder_is_the_encoder(num_layers: int, fusion_layers: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    encoder = AnchorEncoder(ROWS, 8, num_layers, 2, fusion_layers)
    scatter_parameters(encoder)
    base, live = tokens().tensors()
    (found, mask), (wanted, real) = encoder.packed(base, live), encoder(base, live)
    assert torch.equal(mask, real) and not found[~mask].any()
    assert_same(found[mask], wanted[mask], encoder)


@pytest.mark.parametrize("heads", [1, 2])
@pytest.mark.parametrize("num_layers", [1, 2])
def test_packed_interest_is_the_interest(heads: int, num_layers: int) -> None:
    """Histories of every length, the empty one included."""
    torch.manual_seed(0)
    interest = UserInterest(8, num_layers, heads, 2)
    scatter_parameters(interest)
    rows, bank = batch(12), torch.randn(NUM_AUTHORS + 1, 8)
    authors = Distinct(rows.history)
    found = interest.packed(bank[authors.ids], authors, rows.history_mask)
    assert_same(found, interest(bank[rows.history], rows.history_mask), interest)


def test_packed_interest_of_empty_histories_alone_is_zero() -> None:
    interest = UserInterest(8, 1, 1, 2)
    authors = Distinct(torch.zeros(3, 5, dtype=torch.int64))
    found = interest.packed(torch.ones(1, 8), authors, torch.zeros(3, 5, dtype=torch.bool))
    found.sum().backward()
    assert not found.any() and all(p.grad is None or p.grad.isfinite().all() for p in interest.parameters())


def plainly(source: SARM, ids: IdTable, rows: Tensor, base: Tensor, live: Tensor) -> Tensor:
    """h_CLS and h_TAR [A, 2, D] through the plain modules, all authors at once."""
    states, mask = source.encoder(base, live)
    assert isinstance(source.identity, AuthorIdentity) and source.pooling is not None
    return torch.stack([source.pooling(states, mask), source.identity(ids(rows), states, mask)], dim=1)


@pytest.mark.parametrize("chunk", [1, 3, 100])
def test_authors_are_encoded_alike_in_any_chunk(chunk: int) -> None:
    model = sarm(replace(SARM_CONFIG, encode_chunk=chunk))
    rows = torch.tensor([7, 0, 3, 11, 5])
    base, live = (t[rows] for t in tokens().tensors())
    source, ids = model.source("sarm"), model.ranker.authors
    found = torch.stack(source.encode_authors(rows, base, live, ids), dim=1)
    assert_same(found, plainly(source, ids, rows, base, live), model)
