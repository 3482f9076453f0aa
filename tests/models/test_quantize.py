"""Residual quantisation: what each level leaves over, by hand and as properties."""

from __future__ import annotations

import pytest
import torch

from models.quantize import ResidualConfig, ResidualQuantizer


def test_clusters_that_lie_apart_are_found() -> None:
    centers = torch.tensor([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0], [10.0, 10.0]])
    offsets = torch.tensor([[-1.0, 0.0], [1.0, 0.0]])
    vectors = (centers[:, None] + offsets[None]).flatten(0, 1)
    quantizer = ResidualQuantizer.fit(vectors, ResidualConfig(levels=2, clusters=4))
    codes = quantizer.codes(vectors)
    first = codes[:, 0].view(4, 2)
    assert (first[:, 0] == first[:, 1]).all() and len(set(first[:, 0].tolist())) == 4
    torch.testing.assert_close(quantizer.centroids[0].sort(dim=0).values, centers.sort(dim=0).values)
    torch.testing.assert_close(quantizer.decode(codes), vectors)


def test_every_level_brings_the_sum_of_centroids_nearer() -> None:
    vectors = torch.randn(400, 6, generator=torch.Generator().manual_seed(0))
    quantizer = ResidualQuantizer.fit(vectors, ResidualConfig(levels=4, clusters=8))
    codes, errors = quantizer.codes(vectors), []
    for level in range(5):
        shown = torch.zeros_like(vectors)
        for index in range(level):
            shown = shown + quantizer.centroids[index][codes[:, index]]
        errors.append(float((vectors - shown).square().sum(dim=1).mean()))
    assert all(later < 0.9 * earlier for earlier, later in zip(errors, errors[1:], strict=False)), errors
    assert codes.shape == (400, 4) and 0 <= int(codes.min()) and int(codes.max()) < 8


def test_the_same_seed_gives_the_same_codes_and_order_does_not_matter_to_coding() -> None:
    vectors = torch.randn(200, 4, generator=torch.Generator().manual_seed(1))
    config = ResidualConfig(levels=2, clusters=8, seed=3)
    one, two = (ResidualQuantizer.fit(vectors, config) for _ in range(2))
    assert torch.equal(one.centroids, two.centroids)
    assert torch.equal(one.codes(vectors.flip(0)), one.codes(vectors).flip(0))


def test_equal_vectors_and_too_few_of_them() -> None:
    same = torch.ones(10, 3)
    quantizer = ResidualQuantizer.fit(same, ResidualConfig(levels=2, clusters=4))
    torch.testing.assert_close(quantizer.decode(quantizer.codes(same)), same)
    with pytest.raises(ValueError, match="at least 4"):
        ResidualQuantizer.fit(same[:3], ResidualConfig(clusters=4))
    with pytest.raises(ValueError, match=">= 1"):
        ResidualConfig(levels=0)
