"""Mean gates, on gates that are given by hand."""

from functools import cache

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, decoders, models

from models.sarm.anchor_encoder import AnchorEncoder
from models.sarm.anchor_tokens import AnchorTokens
from models.sarm.live_tokenizer.tokenizer import LiveStreamingTokenizer, TokenizerConfig
from pipelines.analysis.gates import MeanGates


@cache
def tokenizer() -> LiveStreamingTokenizer:
    """Live rows 1 "ab", 2 "cd" and 3 "ef"."""
    base = Tokenizer(models.BPE({letter: i for i, letter in enumerate("abcdef")}, []))
    base.decoder = decoders.Fuse()
    corpus = [["ab"]] * 4 + [["cd"]] * 3 + [["ef"]] * 2
    return LiveStreamingTokenizer.train(corpus, base, TokenizerConfig(min_frequency=2))


def by_hand() -> MeanGates:
    """Tokens covered by the rows 1 to 3: 20, 4 and 2."""
    counts = np.array([0, 20, 4, 2])
    return MeanGates(counts=counts, sums={0: np.array([0.0, 10.0, 1.0, 1.8]), 2: np.array([0.0, 2.0, 3.0, 0.2])})


def test_layers_are_means_over_covered_tokens() -> None:
    assert by_hand().layers() == pytest.approx({"0": 12.8 / 26, "2": 5.2 / 26})


def test_terms_are_ordered_by_their_gate_over_layers() -> None:
    # Means over both layers: ab (0.5 + 0.1) / 2 = 0.3, cd (0.25 + 0.75) / 2 = 0.5, ef (0.9 + 0.1) / 2 = 0.5.
    found = by_hand().extremes(tokenizer(), 1, 3)
    assert found["terms"] == 2 and found["min_tokens"] == 3
    assert found["highest"] == [{"term": "cd", "tokens": 4, "layers": {"0": 0.25, "2": 0.75}}]
    assert found["lowest"] == [{"term": "ab", "tokens": 20, "layers": {"0": 0.5, "2": 0.1}}]


def test_bands_of_frequency_hold_all_terms() -> None:
    rare, frequent = by_hand().extremes(tokenizer(), 1, 3)["by_frequency"]
    assert (rare["from"], rare["to"], rare["terms"], rare["tokens"]) == (1, 10, 2, 6)
    assert rare["layers"] == pytest.approx({"0": 2.8 / 6, "2": 3.2 / 6})
    assert (frequent["from"], frequent["to"], frequent["terms"], frequent["tokens"]) == (10, 100, 1, 20)


def test_the_gates_are_the_encoders_at_every_covered_token() -> None:
    torch.manual_seed(0)
    rows = tokenizer().rows
    encoder = AnchorEncoder(rows, 8, 1, 2, (0,))
    tokens = tokenizer().encode([["ab", "cd"], ["c"], ["ab", "ab", "e"]])
    found = MeanGates.of(encoder, tokens, rows.num_live_rows)
    assert found.counts.tolist() == [0, 6, 2, 0]
    alpha = encoder.gates(*tokens.tensors())[0].numpy()
    assert found.sums[0][1:] == pytest.approx([alpha[tokens.live == row].sum() for row in (1, 2, 3)], abs=1e-5)


def test_a_model_without_fusion_has_no_gates() -> None:
    rows = tokenizer().rows
    found = MeanGates.of(AnchorEncoder(rows, 8, 1, 2, ()), tokenizer().encode([["ab"]]), rows.num_live_rows)
    made = found.extremes(tokenizer(), 3, 1)
    assert made["layers"] == {} and made["highest"] == made["lowest"] == []
    empty = MeanGates.of(AnchorEncoder(rows, 8, 1, 2, (0,)), AnchorTokens.empty(3), rows.num_live_rows)
    assert empty.extremes(tokenizer(), 3, 0)["terms"] == 0
