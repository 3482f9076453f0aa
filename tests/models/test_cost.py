"""The cost table against sums done by hand, from the sizes of tests/models/worlds.py."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from models.cost import TOTAL, BlockCost, cost_table, markdown
from models.sources import SourceSpec
from models.two_stage import CodeFacts, Codes, EmbeddingFacts, HistoryEmbeddings, TwoStageConfig
from tests.models.worlds import NUM_AUTHORS, NUM_USERS, SARM_CONFIG, batch, composed, sarm, sarm_spec, tokens

ANCHORS = {"sarm": tokens().tensors()}


def by_name(rows: list[BlockCost]) -> dict[str, BlockCost]:
    return {row.block: row for row in rows}


def test_a_linear_block_by_hand() -> None:
    """16 -> 4 without bias: 64 weights, 64 multiplications and additions for an impression."""
    row = by_name(cost_table(composed(), batch(6)))["factorisation"]
    assert row == BlockCost(
        block="factorisation", id_parameters=0, dense_parameters=64, flops_per_impression=128.0, flops_per_author=0.0
    )


def test_blocks_of_sarm_by_hand() -> None:
    """L = 5, D = 8, one block of [UIN], two of the encoder; all anchors have T = 4 tokens."""
    base = torch.tensor([[1, 5, 6, 7]]).expand(NUM_AUTHORS + 1, 4)
    rows = by_name(cost_table(sarm(), batch(24), {"sarm": (base, base % 6)}))
    assert [rows[name].flops_per_author for name in ("home", "sarm.interest")] == [0.0, 0.0]
    assert rows["target_attention"].flops_per_impression == 2 * (12 * 8 + 5 * 8 + 5 * 8 + 8 * 8)
    # Query and key, value and out; scores and what they read; both layers of the feed-forward, 8 to 16 and back.
    block = [2 * t * (8 * 16 + 2 * 8 * 8 + 2 * 8 * t + 2 * 8 * 16) for t in (5, 4)]
    assert rows["sarm.interest"].flops_per_impression == block[0]
    assert rows["sarm.encoder.blocks"].flops_per_author == 2 * block[1]
    assert rows["sarm.encoder.fusions"].flops_per_author == 2 * (2 * 4 * 2 * 8 * 8)
    # The query, W_K on its side, the scores, what they read, W_V.
    assert rows["sarm.identity"].flops_per_author == 2 * (8 * 8 + 8 * 8 + 4 * 8 + 4 * 8 + 8 * 8)
    assert rows["sarm.aux_head"].flops_per_impression == 2 * (16 * 4 + 4)


def test_tables_are_apart_from_dense_weights_and_nothing_is_lost() -> None:
    model = sarm()
    rows = cost_table(model, batch(24), ANCHORS)
    found = by_name(rows)
    assert (found["users"].id_parameters, found["users"].dense_parameters) == ((NUM_USERS + 1) * 8, 0)
    assert [found[f"sarm.encoder.{name}"].id_parameters for name in ("tokens", "live_tokens")] == [20 * 8, 6 * 8]
    assert (found["home"].id_parameters, found["extra_scale"].dense_parameters) == (0, 3 * 8)
    total = rows[-1]
    assert total.block == TOTAL and len(found) == len(rows)
    assert total.id_parameters + total.dense_parameters == sum(p.numel() for p in model.parameters())
    assert total.flops_per_author == sum(row.flops_per_author for row in rows[:-1]) > 0


def test_what_is_left_out_costs_nothing() -> None:
    base = by_name(cost_table(composed(), batch(8)))
    full = by_name(cost_table(sarm(), batch(8), ANCHORS))
    plain = by_name(cost_table(sarm(replace(SARM_CONFIG, fusion_layers=())), batch(8), ANCHORS))
    assert base["cross"] == full["cross"], "the parts of the base ranker have one name in both"
    assert base[TOTAL].flops_per_author == 0.0 < base[TOTAL].flops_per_impression < full[TOTAL].flops_per_impression
    assert "sarm.encoder.fusions" not in plain
    saved = full[TOTAL].flops_per_author - plain[TOTAL].flops_per_author
    assert saved == pytest.approx(full["sarm.encoder.fusions"].flops_per_author)


def test_products_outside_the_blocks_have_a_row() -> None:
    """The search of a two-stage source: L = 5 cosines and their mean over E = 3."""
    spec = SourceSpec.of("clips", HistoryEmbeddings, TwoStageConfig(width=8), EmbeddingFacts(embedding_dim=3))
    rows = by_name(cost_table(composed(spec), batch(8), {"clips": (torch.ones(NUM_AUTHORS + 1, 3),)}))
    assert rows["(outside blocks)"].flops_per_impression == 2 * (5 * 3 + 5 * 3)
    assert rows["clips.project"].flops_per_impression == 2 * 3 * 8


def test_blocks_of_two_sources_are_told_apart() -> None:
    tags = SourceSpec.of("tags", Codes, TwoStageConfig(width=4), CodeFacts(num_codes=6))
    codes = torch.ones(NUM_AUTHORS + 1, 2, dtype=torch.int64)
    model = composed(sarm_spec(), tags)
    rows = cost_table(model, batch(8), {"tags": (codes,), **ANCHORS})
    found, alone = by_name(rows), by_name(cost_table(sarm(), batch(8), ANCHORS))
    assert (found["tags.codes"].id_parameters, found["tags.norm"].dense_parameters) == (6 * 4, 4)
    assert {name: row for name, row in found.items() if name.startswith("sarm.")} == {
        name: row for name, row in alone.items() if name.startswith("sarm.")
    }
    assert rows[-1].id_parameters + rows[-1].dense_parameters == sum(p.numel() for p in model.parameters())


def test_the_model_is_left_as_it_was() -> None:
    model = sarm().train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    first, second = (cost_table(model, batch(8), ANCHORS) for _ in range(2))
    assert first == second and model.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_inputs_that_are_not_those_of_the_sources_are_refused() -> None:
    with pytest.raises(ValueError, match=r"wanted inputs of the sources \['sarm'\], got those of \[\]"):
        cost_table(sarm(), batch(2))
    with pytest.raises(ValueError, match=r"sarm: wanted inputs of 12 author rows, got \[11, 11\]"):
        cost_table(sarm(), batch(2), {"sarm": tuple(part[1:] for part in tokens().tensors())})


def test_markdown_has_a_line_for_each_row() -> None:
    rows = cost_table(composed(), batch(6))
    lines = markdown(rows).splitlines()
    assert len(lines) == 2 + len(rows) and lines[1] == "| --- | --: | --: | --: | --: |"
    assert lines[-1] == f"| total | {rows[-1].id_parameters} | 7,396 | 16,704 | 0 |"
