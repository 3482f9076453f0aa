"""Residual quantisation: what each level leaves over, by hand and as properties, and against faiss."""

from __future__ import annotations

from pathlib import Path

import faiss
import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from models.kmeans import Moments
from models.quantize import ResidualConfig, ResidualQuantizer


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def clustered(size: int, width: int, seed: int = 0) -> Tensor:
    """Vectors of length 1 around 300 places, off the origin, as language models give them."""
    of = torch.randint(300, (size,), generator=torch.Generator().manual_seed(seed))
    places, noise = random(300, width, seed=seed), random(size, width, seed=seed + 1)
    return torch.nn.functional.normalize(1 + places[of] + 0.4 * noise, dim=1)


def error(quantizer: ResidualQuantizer, vectors: Tensor) -> float:
    return float((vectors - quantizer.decode(quantizer.codes(vectors))).square().sum(dim=1).mean())


def test_codes_and_what_they_leave_over_by_hand() -> None:
    """LARM eq. 4: [7, 1] is nearest to [8, 0], which leaves [-1, 1], of which [-1, 0] leaves [0, 1]."""
    levels = (torch.tensor([[0.0, 0.0], [8.0, 0.0]]), torch.tensor([[1.0, 0.0], [0.0, -1.0], [-1.0, 0.0]]))
    quantizer = ResidualQuantizer(centroids=levels, counts=(torch.ones(2), torch.ones(3)))
    codes, errors = quantizer.encode(torch.tensor([[7.0, 1.0], [0.5, -2.0]]))
    assert codes.tolist() == [[1, 2], [0, 1]]
    assert errors.tolist() == [[2.0, 1.0], [4.25, 1.25]]
    assert quantizer.decode(codes).tolist() == [[7.0, 0.0], [0.0, -1.0]]
    assert quantizer.decode(codes[:, :1]).tolist() == [[8.0, 0.0], [0.0, 0.0]]
    assert quantizer.clusters == (2, 3) and quantizer.width == 2
    assert quantizer.rows(codes).tolist() == [[2, 5], [1, 4]] and quantizer.num_rows == 6


def test_clusters_that_lie_apart_are_found() -> None:
    centers = torch.tensor([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0], [10.0, 10.0]])
    offsets = torch.tensor([[-1.0, 0.0], [1.0, 0.0]])
    vectors = (centers[:, None] + offsets[None]).flatten(0, 1)
    quantizer = ResidualQuantizer.fit(vectors, ResidualConfig(clusters=(4, 2)))
    codes = quantizer.codes(vectors)
    first = codes[:, 0].view(4, 2)
    assert (first[:, 0] == first[:, 1]).all() and len(set(first[:, 0].tolist())) == 4
    torch.testing.assert_close(quantizer.centroids[0].sort(dim=0).values, centers.sort(dim=0).values)
    torch.testing.assert_close(quantizer.decode(codes), vectors)
    assert [of.tolist() for of in quantizer.counts] == [[2, 2, 2, 2], [4, 4]]


def test_every_level_brings_the_sum_of_centroids_nearer() -> None:
    vectors = random(400, 6)
    quantizer = ResidualQuantizer.fit(vectors, ResidualConfig(clusters=(8, 16, 4, 8)))
    codes, left = quantizer.encode(vectors)
    errors = [float(vectors.square().sum(dim=1).mean()), *left.mean(dim=0).tolist()]
    assert all(later < 0.9 * earlier for earlier, later in zip(errors, errors[1:], strict=False)), errors
    for level in range(1, 5):
        shown = quantizer.decode(codes[:, :level])
        torch.testing.assert_close((vectors - shown).square().sum(dim=1), left[:, level - 1])
    assert codes.shape == (400, 4) and int(codes.min()) >= 0
    assert all(int(of.max()) < clusters for of, clusters in zip(codes.T, quantizer.clusters, strict=True))


def test_the_same_seed_gives_the_same_codes_and_order_does_not_matter_to_coding() -> None:
    vectors = random(200, 4, seed=1)
    config = ResidualConfig(clusters=(8, 5), seed=3)
    one, two = (ResidualQuantizer.fit(vectors, config) for _ in range(2))
    assert all(torch.equal(*both) for both in zip(one.centroids, two.centroids, strict=True))
    assert torch.equal(one.codes(vectors.flip(0)), one.codes(vectors).flip(0))


def test_rounds_over_a_corpus_reach_what_a_fit_of_all_of_it_reaches() -> None:
    """From a poor sample, by the moments of parts; the counts are then those of the corpus."""
    corpus, config = clustered(4000, 8), ResidualConfig(clusters=(32, 16))
    asked = list[tuple[int, ...]]()

    def moments(fitted: ResidualQuantizer) -> Moments:
        asked.append(fitted.clusters)
        first, *others = (fitted.moments(part) for part in corpus.split(700))
        return sum(others, first)

    sample = corpus[:100]
    few, more = (ResidualQuantizer.fit(sample, config, rounds, moments) for rounds in (0, 12))
    whole = ResidualQuantizer.fit(corpus, config)
    assert asked == [(32,)] * 12 + [(32, 16)] * 12
    assert error(few, corpus) > 1.15 * error(whole, corpus) and error(more, corpus) < 1.03 * error(whole, corpus)
    assert [int(of.sum()) for of in more.counts] == [4000, 4000]


def test_codes_are_those_of_faiss() -> None:
    """100,000 vectors, three levels. Where two centroids are equally near to float32, faiss takes either."""
    vectors, sizes = clustered(100_000, 64), (512, 256, 128)
    quantizer = ResidualQuantizer.fit(vectors[:2000], ResidualConfig(clusters=sizes, iterations=2))
    codes, residual = quantizer.codes(vectors), vectors
    differing = 0
    for level, centroids in enumerate(quantizer.centroids):
        index = faiss.IndexFlatL2(64)
        index.add(centroids.numpy())
        theirs = torch.from_numpy(index.search(residual.numpy(), 1)[1][:, 0])
        other = (theirs != codes[:, level]).nonzero().squeeze(1)
        ours, its = (
            (residual[other].double() - centroids[of[other]].double()).square().sum(dim=1)
            for of in (codes[:, level], theirs)
        )
        assert (ours <= its).all() and torch.allclose(ours, its, rtol=1e-5)
        differing += len(other)
        residual = residual - centroids[codes[:, level]]
    assert differing <= 3


def test_the_error_is_that_of_faiss_own_quantizer() -> None:
    bits, vectors = (6, 5, 4), clustered(6000, 24, seed=3)
    theirs = faiss.ResidualQuantizer(24, _sizes(bits))
    theirs.max_beam_size = 1  # greedy, as eq. 4
    theirs.train(vectors.numpy())
    shown = theirs.decode(theirs.compute_codes(vectors.numpy()))
    wanted = float(np.square(vectors.numpy() - shown).sum(axis=1).mean())
    ours = error(ResidualQuantizer.fit(vectors, ResidualConfig(clusters=tuple(2**b for b in bits))), vectors)
    assert ours <= 1.02 * wanted and wanted < 0.5 * float(vectors.var(dim=0).sum())


def _sizes(bits: tuple[int, ...]) -> faiss.UInt64Vector:
    sizes = faiss.UInt64Vector()
    for of in bits:
        sizes.push_back(of)
    return sizes


def test_what_is_saved_is_read_again(tmp_path: Path) -> None:
    quantizer = ResidualQuantizer.fit(random(60, 4), ResidualConfig(clusters=(8, 3)))
    quantizer.save(tmp_path / "codes.safetensors")
    again = ResidualQuantizer.load(tmp_path / "codes.safetensors")
    for of in ("centroids", "counts"):
        assert all(torch.equal(*both) for both in zip(getattr(again, of), getattr(quantizer, of), strict=True))
    save_file({"centroids": torch.ones(2, 4, 3)}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match=r"wanted centroids.L and counts.L .* got \['centroids'\]"):
        ResidualQuantizer.load(tmp_path / "other.safetensors")


def test_equal_vectors_too_few_of_them_and_no_level() -> None:
    same = torch.ones(10, 3)
    quantizer = ResidualQuantizer.fit(same, ResidualConfig(clusters=(4, 4)))
    torch.testing.assert_close(quantizer.decode(quantizer.codes(same)), same)
    with pytest.raises(ValueError, match="at least 4"):
        ResidualQuantizer.fit(same[:3], ResidualConfig(clusters=(4,)))
    for wrong in ((), (4, 0)):
        with pytest.raises(ValueError, match=">= 1"):
            ResidualConfig(clusters=wrong)
