from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from models.batch import RankingBatch
from models.composed import ComposedRanker, Sources
from models.embeddings import IdTable
from models.ranker import Ranker, RankerConfig
from models.sarm.anchor_tokens import AnchorTokens, TokenRows
from models.sarm.memory_bank import MemoryBank
from models.sarm.model import REPRESENTATIONS, SARMConfig
from tests.models import reference
from tests.models.worlds import (
    NUM_AUTHORS,
    RANKER,
    ROWS,
    SARM_CONFIG,
    batch,
    catalog,
    one_step,
    sarm,
    sarm_spec,
    tokens,
    trainer,
)


def table(model: ComposedRanker) -> Tensor:
    return torch.from_numpy(model.tables({"sarm": tokens().tensors()})["sarm"])


def logits(model: ComposedRanker, rows: RankingBatch, cls: Tensor, tar: Tensor, history: Tensor) -> Tensor:
    """From cls, tar [B, D] of the targets, and history [B, L, D], the [CLS] of authors whose [TAR] is zero."""
    of_history = model.source("sarm").of_history(torch.stack([history, torch.zeros_like(history)], dim=2))
    return model(rows, model.read(rows, {"sarm": torch.stack([cls, tar], dim=1)}, {"sarm": of_history}))


def request() -> RankingBatch:
    """Six candidates of one user: every row has the history of the last."""
    rows = batch(6)
    same = {
        name: getattr(rows, name)[2:3].expand(6, *getattr(rows, name).shape[1:])
        for name in ("user", "user_profile", "hour", "history", "history_mask", "history_age_s", "history_watch_s")
    }
    return rows._replace(**same)


def test_scoring_candidates_equals_the_forward() -> None:
    model, rows = sarm().eval(), request()
    vectors = table(model)
    targets, history = {"sarm": vectors[rows.author]}, vectors[rows.history, 0]
    wanted = torch.sigmoid(logits(model, rows, *vectors[rows.author].unbind(dim=1), history))
    scores = model.score(rows, targets, {"sarm": history[:1]})
    assert scores.shape == (6, 4) and not scores.requires_grad
    torch.testing.assert_close(scores, wanted, atol=1e-6, rtol=0.0)


def test_a_candidate_scores_alike_in_any_company() -> None:
    model, rows = sarm().eval(), request()
    vectors = table(model)
    target, history = vectors[rows.author], {"sarm": vectors[rows.history, 0][:1]}
    together = model.score(rows, {"sarm": target}, history)
    alone = model.score(rows.slice(slice(4, 5)), {"sarm": target[4:5]}, history)
    torch.testing.assert_close(alone[0], together[4], atol=1e-6, rtol=0.0)


def test_scoring_in_training_mode_is_refused() -> None:
    with pytest.raises(ValueError, match="model.eval"):
        sarm().train().score(request(), {"sarm": torch.zeros(6, 2, 8)}, {"sarm": torch.zeros(1, 5, 8)})


@pytest.mark.parametrize("chunk", [1, 5, 100])
def test_the_table_holds_what_encoding_the_authors_gives(chunk: int) -> None:
    model = sarm(dataclasses.replace(SARM_CONFIG, encode_chunk=chunk)).eval()
    vectors = table(model)
    rows = torch.tensor([7, 0, 3])
    base, live = tokens().tensors()
    cls, tar = model.source("sarm").encode_authors(rows, base[rows], live[rows], model.ranker.authors)
    assert vectors.shape == (NUM_AUTHORS + 1, 2, 8) and vectors.dtype == torch.float32
    torch.testing.assert_close(vectors[rows, 0], cls, atol=1e-5, rtol=0.0)
    torch.testing.assert_close(vectors[rows, 1], tar, atol=1e-5, rtol=0.0)


def test_a_table_of_many_authors_holds_each_in_its_row() -> None:
    """More than are encoded together, in an order that is not that of their lengths."""
    model = sarm().eval()
    source, rows = model.source("sarm"), torch.arange(600)
    torch.manual_seed(0)
    ids, (base, live) = IdTable(600, 8, 1.0), (part.repeat(50, 1) for part in tokens().tensors())
    wanted = torch.stack(source.encode_authors(rows, base, live, ids), dim=1)
    torch.testing.assert_close(source.table((base, live), ids), wanted, atol=1e-5, rtol=0.0)


def test_authors_with_one_anchor_share_cls_and_differ_in_tar() -> None:
    model, rows = sarm(), torch.tensor([1, 2])
    source, ids = model.source("sarm"), model.ranker.authors
    cls, tar = source.encode_authors(rows, *AnchorTokens.empty(2).tensors(), ids)
    torch.testing.assert_close(cls[0], cls[1])
    assert torch.equal(tar[0], tar[1])  # one token: whoever asks reads the same
    base = torch.tensor([[1, 5, 6]] * 2)
    _, tar = source.encode_authors(rows, base, torch.zeros_like(base), ids)
    assert not torch.allclose(tar[0], tar[1], atol=1e-5)


@pytest.mark.parametrize(("index", "name"), [(0, "cls"), (1, "tar"), (2, "uin")])
def test_each_representation_reaches_the_logits_unless_left_out(index: int, name: str) -> None:
    for representations in (("cls", "tar", "uin"), tuple(n for n in ("cls", "tar", "uin") if n != name)):
        model = sarm(dataclasses.replace(SARM_CONFIG, representations=representations)).eval()
        given = [torch.zeros(6, 8), torch.zeros(6, 8), torch.zeros(6, 5, 8)]
        before = logits(model, batch(6), *given)
        given[index] = torch.randn_like(given[index])
        assert torch.equal(logits(model, batch(6), *given), before) == (name not in representations)


def test_the_head_reads_cls_tar_uin_then_rank_features_and_the_products_reach_the_logits() -> None:
    model, rows = sarm().eval(), batch(6)
    cls, tar, history = torch.randn(6, 8), torch.randn(6, 8), torch.randn(6, 5, 8)
    uin = model.source("sarm").interest(history, rows.history_mask)
    assert model.ranker.extra_scale is not None
    extra = torch.cat([cls, tar, uin], dim=-1) * model.ranker.extra_scale
    features = torch.cat([extra, model.ranker.rank_features(rows, extra)], dim=-1)
    products = features[:, -2 * RANKER.id_dim :]
    wanted = model.ranker.home(features) + products @ model.ranker.factorisation.weight.T
    torch.testing.assert_close(logits(model, rows, cls, tar, history), wanted)


def test_the_auxiliary_head_is_an_mlp_of_cls_and_tar() -> None:
    """Eq. 13: the only inputs are [CLS] and [TAR], in this order."""
    source, cls, tar = sarm().source("sarm"), torch.randn(6, 8), torch.randn(6, 8)
    found = source.auxiliary(torch.stack([cls, tar], dim=1)).detach()
    w = reference.weights(source.aux_head)
    for row in range(6):
        both = np.concatenate([cls[row], tar[row]]).astype(np.float64)
        hidden = reference.silu(reference.linear(both, w, "0"))
        np.testing.assert_allclose(found[row], reference.linear(hidden, w, "2")[0], atol=1e-5)


def test_the_paper_s_model_is_a_configuration() -> None:
    """It has four blocks, [CLS] at position 0, and [UIN]; by default one block, pooled [CLS], no [UIN] (README)."""
    default = SARMConfig()
    assert (default.num_layers, default.cls, default.representations) == (1, "pooled", ("cls", "tar"))
    papers = SARMConfig(num_layers=4, cls="position", representations=REPRESENTATIONS)
    model = ComposedRanker(RankerConfig(), catalog().sizes, Sources(specs=(sarm_spec(papers),)))
    source = model.source("sarm")
    assert [block.attention.num_heads for block in source.encoder.blocks] == [1, 1, 1, 1]
    assert list(source.encoder.fusions) == ["0", "1", "2", "3"]
    assert (papers.tokens, papers.tar, papers.interest_reads) == ("base", "attention", "cls")
    assert source.pooling is None and list(source.interest.blocks)
    assert model.ranker.home.meta.feature_gates.num_loras == model.ranker.home.task.feature_gates.num_loras == 2


def test_saved_and_loaded_models_score_alike(tmp_path: Path) -> None:
    model = sarm()
    model.save(tmp_path)
    loaded = ComposedRanker.load(tmp_path)
    assert (loaded.config, loaded.sizes, loaded.described) == (model.config, model.sizes, model.described)
    assert (loaded.source("sarm").config, loaded.source("sarm").rows) == (SARM_CONFIG, ROWS)
    assert torch.equal(table(loaded), table(model.eval()))
    vectors = table(loaded)
    assert torch.equal(loaded.score_rows(batch(5), {"sarm": vectors}), model.score_rows(batch(5), {"sarm": vectors}))


@pytest.mark.parametrize(
    ("part", "change", "message"),
    [
        (
            "facts",
            {"num_live_rows": 9},
            r"encoder.live_tokens.weight has shape \[6, 8\] in the file, \[9, 8\] in the config",
        ),
        ("config", {"num_layers": 1}, "fusions.1"),
        ("config", {"num_layer": 1}, r"sarm.config: unknown key\(s\) num_layer"),
        ("sizes", {"num_author": 1}, r"unknown key\(s\) num_author"),
    ],
)
def test_a_mismatch_is_refused_with_both_values(
    tmp_path: Path, part: str, change: dict[str, int], message: str
) -> None:
    sarm().save(tmp_path)
    head = json.loads((tmp_path / "config.json").read_text())
    (head if part == "sizes" else head["described"]["specs"][0])[part] |= change
    (tmp_path / "config.json").write_text(json.dumps(head))
    with pytest.raises(ValueError, match=message):
        ComposedRanker.load(tmp_path)


def test_growing_live_tokens_keeps_rows_and_changes_no_vector() -> None:
    model = sarm().eval()
    source, before = model.source("sarm"), table(model)
    more = TokenRows(num_base_rows=ROWS.num_base_rows, num_live_rows=ROWS.num_live_rows + 3)
    old = source.encoder.live_tokens.weight.detach().clone()
    replaced = [np.array(parts, np.int32) for parts in ([2, 2, 0, 3], [0, 0], [4])]
    source.grow_live_tokens(more, replaced)
    new = source.encoder.live_tokens.weight.detach()
    assert torch.equal(new[: len(old)], old) and torch.equal(table(model), before)
    torch.testing.assert_close(new[len(old) :], torch.stack([(2 * old[2] + old[3]) / 3, torch.zeros(8), old[4]]))
    with pytest.raises(ValueError, match="only appends"):
        source.grow_live_tokens(ROWS, [])
    with pytest.raises(ValueError, match="each of the 3 new rows"):
        source.grow_live_tokens(dataclasses.replace(more, num_live_rows=more.num_live_rows + 3), [])


@pytest.mark.parametrize(
    "change",
    [
        {"width": 0},
        {"fusion_layers": (2,)},
        {"representations": ()},
        {"representations": ("tar", "cls")},
        {"encode_budget": 0},
        {"aux_weight": -1.0},
        {"tokens": "none"},
        {"tar": "max"},
        {"interest_reads": "uin"},
    ],
)
def test_impossible_configs_are_refused(change: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="|".join([*change, "SARMConfig"])):
        SARMConfig(**{"num_layers": 2, **change})  # type: ignore[arg-type]


def test_it_is_a_pretrained_model_of_the_hub(tmp_path: Path) -> None:
    model = sarm()
    model.save_pretrained(tmp_path)
    assert {file.name for file in tmp_path.iterdir()} == {"README.md", "config.json", "model.safetensors"}
    again = ComposedRanker.from_pretrained(str(tmp_path))
    assert not again.training and (again.config, again.described) == (model.config, model.described)
    for name, tensor in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor), name
    with pytest.raises(ValueError, match="class 'ComposedRanker', wanted 'Ranker'"):
        Ranker.from_pretrained(str(tmp_path))


@pytest.mark.parametrize(("reads", "part"), [("cls", 0), ("tar", 1)])
def test_user_interest_reads_the_vector_of_the_config(reads: str, part: int) -> None:
    """In a training step too: changing the other vector of the bank changes nothing."""
    model = sarm(dataclasses.replace(SARM_CONFIG, interest_reads=reads))
    rows_of_table = torch.randn(3, 2, 8)
    assert torch.equal(model.source("sarm").of_history(rows_of_table), rows_of_table[:, part])
    step, rows = trainer(model), batch(16)
    losses = []
    for changed in (None, part, 1 - part):
        bank = MemoryBank(NUM_AUTHORS, SARM_CONFIG.width)
        bank.vectors = torch.randn(bank.vectors.shape, generator=torch.Generator().manual_seed(0))
        if changed is not None:
            bank.vectors[:, changed] += 1.0
        losses.append(float(one_step(step, rows, {"sarm": bank}).loss.detach()))
    assert losses[2] == losses[0] != losses[1]


def test_tar_may_be_the_mean_of_the_states() -> None:
    model = sarm(dataclasses.replace(SARM_CONFIG, tar="mean")).eval()
    source, (base, live) = model.source("sarm"), tokens().tensors()
    _, tar = source.encode_authors(torch.arange(NUM_AUTHORS + 1), base, live, model.ranker.authors)
    states, mask = source.encoder(base, live)
    torch.testing.assert_close(tar, (states * mask.unsqueeze(-1)).sum(1) / mask.sum(1, keepdim=True))


def test_without_the_user_interest_no_history_is_read() -> None:
    model = sarm(dataclasses.replace(SARM_CONFIG, representations=("cls", "tar"))).eval()
    assert model.source("sarm").of_history(torch.zeros(3, 2, 8)) is None
    rows, vectors = batch(6), table(model)
    scores = model.score_rows(rows, {"sarm": vectors})
    torch.testing.assert_close(scores, model.score(rows, {"sarm": vectors[rows.author]}, {"sarm": None}))
