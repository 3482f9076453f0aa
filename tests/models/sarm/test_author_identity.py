from __future__ import annotations

import torch

from models.sarm.author_identity import AuthorIdentity, AuthorMean
from tests.models.worlds import scatter_parameters


def test_tar_is_cross_attention_by_the_book() -> None:
    torch.manual_seed(0)
    layer = AuthorIdentity(3, 4)
    scatter_parameters(layer)
    identity, states = torch.randn(2, 3), torch.randn(2, 5, 4)
    mask = torch.tensor([[True] * 5, [True, True, False, False, False]])
    tar = layer(identity, states, mask)
    for author, length in enumerate((5, 2)):
        own = states[author, :length]
        scores = layer.key(own) @ layer.query(identity[author]) / 4**0.5
        torch.testing.assert_close(tar[author], torch.softmax(scores, dim=0) @ layer.value(own))


def test_attention_sums_to_one_over_the_real_tokens() -> None:
    layer = AuthorIdentity(3, 4)
    weights = layer.attention(torch.randn(1, 3), torch.randn(1, 3, 4), torch.tensor([[True, True, False]]))
    torch.testing.assert_close(weights.sum(), torch.tensor(1.0))
    assert weights[0, 2] == 0.0


def test_two_authors_with_one_anchor_differ_by_their_identity() -> None:
    torch.manual_seed(0)
    layer = AuthorIdentity(3, 4)
    states = torch.randn(1, 5, 4).expand(2, -1, -1)
    first, second = layer(torch.randn(2, 3), states, torch.ones(2, 5, dtype=torch.bool))
    assert not torch.allclose(first, second)


def test_the_mean_is_of_the_real_tokens_and_blind_to_the_author() -> None:
    states = torch.tensor([[[2.0, 0.0], [4.0, 6.0], [100.0, 100.0]]])
    mask = torch.tensor([[True, True, False]])
    for identity in (torch.zeros(1, 3), torch.ones(1, 3)):
        torch.testing.assert_close(AuthorMean()(identity, states, mask), torch.tensor([[3.0, 3.0]]))
