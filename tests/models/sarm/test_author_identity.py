from __future__ import annotations

import numpy as np
import torch

from models.sarm.author_identity import AuthorIdentity, AuthorMean
from tests.models import reference
from tests.models.worlds import scatter_parameters


def test_tar_is_cross_attention_by_the_book() -> None:
    torch.manual_seed(0)
    layer = AuthorIdentity(3, 4)
    scatter_parameters(layer)
    identity, states = torch.randn(2, 3), torch.randn(2, 5, 4)
    mask = torch.tensor([[True] * 5, [True, True, False, False, False]])
    tar = layer(identity, states, mask).detach()
    for author, length in enumerate((5, 2)):
        own = states[author, :length].double().numpy()
        wanted = reference.author_identity(identity[author].double().numpy(), own, reference.weights(layer))
        np.testing.assert_allclose(tar[author], wanted, rtol=1e-5)


def test_the_mean_is_of_the_real_tokens_and_blind_to_the_author() -> None:
    states = torch.tensor([[[2.0, 0.0], [4.0, 6.0], [100.0, 100.0]]])
    mask = torch.tensor([[True, True, False]])
    for identity in (torch.zeros(1, 3), torch.ones(1, 3)):
        torch.testing.assert_close(AuthorMean()(identity, states, mask), torch.tensor([[3.0, 3.0]]))
