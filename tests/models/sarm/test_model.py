from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from models.batch import RankingBatch
from models.ranker import Ranker
from models.sarm.anchor_tokens import AnchorTokens, TokenRows
from models.sarm.memory_bank import MemoryBank
from models.sarm.model import SARM, SARMConfig
from models.sarm.training import TrainingSARM
from tests.models import reference
from tests.models.worlds import NUM_AUTHORS, RANKER, ROWS, SARM_CONFIG, batch, catalog, sarm, tokens


def read(bank: np.ndarray, rows: RankingBatch) -> tuple[Tensor, Tensor, Tensor]:
    vectors = torch.from_numpy(bank)
    return vectors[rows.author, 0], vectors[rows.author, 1], vectors[rows.history, 0]


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
    cls, tar, history = read(model.encode_bank(tokens()), rows)
    wanted = torch.sigmoid(model(rows, cls, tar, history).logits)
    scores = model.score_candidates(rows, cls, tar, history[:1])
    assert scores.shape == (6, 4) and not scores.requires_grad
    torch.testing.assert_close(scores, wanted, atol=1e-6, rtol=0.0)


def test_a_candidate_scores_alike_in_any_company() -> None:
    model, rows = sarm().eval(), request()
    cls, tar, history = read(model.encode_bank(tokens()), rows)
    together = model.score_candidates(rows, cls, tar, history[:1])
    alone = model.score_candidates(rows.slice(slice(4, 5)), cls[4:5], tar[4:5], history[:1])
    torch.testing.assert_close(alone[0], together[4], atol=1e-6, rtol=0.0)


def test_scoring_in_training_mode_is_refused() -> None:
    with pytest.raises(ValueError, match="model.eval"):
        sarm().train().score_candidates(request(), torch.zeros(6, 8), torch.zeros(6, 8), torch.zeros(1, 5, 8))


@pytest.mark.parametrize("chunk", [1, 5, 100])
def test_the_bank_holds_what_encoding_the_authors_gives(chunk: int) -> None:
    model = sarm().eval()
    bank = model.encode_bank(tokens(), chunk)
    rows = torch.tensor([7, 0, 3])
    base, live = tokens().tensors()
    cls, tar = model.encode_authors(rows, base[rows], live[rows])
    assert bank.shape == (NUM_AUTHORS + 1, 2, 8) and bank.dtype == np.float32
    np.testing.assert_allclose(bank[rows.numpy(), 0], cls.detach().numpy(), atol=1e-5)
    np.testing.assert_allclose(bank[rows.numpy(), 1], tar.detach().numpy(), atol=1e-5)


def test_authors_with_one_anchor_share_cls_and_differ_in_tar() -> None:
    cls, tar = sarm().encode_authors(torch.tensor([1, 2]), *AnchorTokens.empty(2).tensors())
    torch.testing.assert_close(cls[0], cls[1])
    assert torch.equal(tar[0], tar[1])  # one token: whoever asks reads the same
    base = torch.tensor([[1, 5, 6]] * 2)
    _, tar = sarm().encode_authors(torch.tensor([1, 2]), base, torch.zeros_like(base))
    assert not torch.allclose(tar[0], tar[1], atol=1e-5)


def test_a_bank_of_another_number_of_authors_is_refused() -> None:
    with pytest.raises(ValueError, match="tokens of 12 author rows, got 2"):
        sarm().encode_bank(AnchorTokens.empty(2))


@pytest.mark.parametrize(("index", "name"), [(0, "cls"), (1, "tar"), (2, "uin")])
def test_each_representation_reaches_the_logits_unless_left_out(index: int, name: str) -> None:
    for representations in (("cls", "tar", "uin"), tuple(n for n in ("cls", "tar", "uin") if n != name)):
        model = sarm(dataclasses.replace(SARM_CONFIG, representations=representations)).eval()
        given = [torch.zeros(6, 8), torch.zeros(6, 8), torch.zeros(6, 5, 8)]
        before = model(batch(6), *given).logits
        given[index] = torch.randn_like(given[index])
        assert torch.equal(model(batch(6), *given).logits, before) == (name not in representations)


def test_the_head_reads_cls_tar_uin_then_rank_features_and_the_products_reach_the_logits() -> None:
    model, rows = sarm().eval(), batch(6)
    cls, tar, history = torch.randn(6, 8), torch.randn(6, 8), torch.randn(6, 5, 8)
    uin = model.user_interest(history, rows.history_mask)
    assert uin is not None
    assert model.ranker.extra_scale is not None
    extra = torch.cat([cls, tar, uin], dim=-1) * model.ranker.extra_scale
    features = torch.cat([extra, model.ranker.rank_features(rows, extra)], dim=-1)
    products = features[:, -2 * SARM_CONFIG.ranker.id_dim :]
    wanted = model.ranker.home(features) + products @ model.ranker.factorisation.weight.T
    torch.testing.assert_close(model(rows, cls, tar, history).logits, wanted)


def test_the_auxiliary_head_is_an_mlp_of_cls_and_tar() -> None:
    """Eq. 13: the only inputs are [CLS] and [TAR], in this order."""
    model, rows = sarm(), batch(6)
    cls, tar = torch.randn(6, 8), torch.randn(6, 8)
    found = model(rows, cls, tar, torch.randn(6, 5, 8)).aux_logit.detach()
    w = reference.weights(model.aux_head)
    for row in range(6):
        both = np.concatenate([cls[row], tar[row]]).astype(np.float64)
        hidden = reference.silu(reference.linear(both, w, "0"))
        np.testing.assert_allclose(found[row], reference.linear(hidden, w, "2")[0], atol=1e-5)


def test_the_defaults_are_the_papers() -> None:
    model = SARM(SARMConfig(), catalog().sizes, ROWS)
    assert [block.attention.num_heads for block in model.encoder.blocks] == [1, 1, 1, 1]
    assert list(model.encoder.fusions) == ["0", "1", "2", "3"]
    assert (model.config.tokens, model.config.tar, model.config.interest_reads) == ("base", "attention", "cls")
    assert model.config.representations == ("cls", "tar", "uin")
    assert model.ranker.home.meta.feature_gates.num_loras == model.ranker.home.task.feature_gates.num_loras == 2


def test_saved_and_loaded_models_score_alike(tmp_path: Path) -> None:
    model = sarm()
    model.save(tmp_path)
    loaded = SARM.load(tmp_path)
    assert (loaded.config, loaded.sizes, loaded.rows) == (model.config, model.sizes, model.rows)
    assert np.array_equal(loaded.encode_bank(tokens()), model.eval().encode_bank(tokens()))


@pytest.mark.parametrize(
    ("part", "change", "message"),
    [
        (
            "rows",
            {"num_live_rows": 9},
            r"encoder.live_tokens.weight has shape \[6, 8\] in the file, \[9, 8\] in the config",
        ),
        ("config", {"num_layers": 1}, "fusions.1"),
        ("sizes", {"num_author": 1}, r"unknown key\(s\) num_author"),
    ],
)
def test_a_mismatch_is_refused_with_both_values(
    tmp_path: Path, part: str, change: dict[str, int], message: str
) -> None:
    sarm().save(tmp_path)
    head = json.loads((tmp_path / "config.json").read_text())
    head[part] |= change
    (tmp_path / "config.json").write_text(json.dumps(head))
    with pytest.raises(ValueError, match=message):
        SARM.load(tmp_path)


def test_growing_live_tokens_keeps_rows_and_changes_no_vector() -> None:
    model = sarm().eval()
    before = model.encode_bank(tokens())
    model.grow_live_tokens(TokenRows(num_base_rows=ROWS.num_base_rows, num_live_rows=9))
    assert model.encoder.live_tokens.weight.shape == (9, 8)
    assert np.array_equal(model.encode_bank(tokens()), before)
    with pytest.raises(ValueError, match="only appends"):
        model.grow_live_tokens(ROWS)


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
        {"ranker": dataclasses.replace(RANKER, extra_author_dim=1)},
    ],
)
def test_impossible_configs_are_refused(change: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="|".join([*change, "SARMConfig"])):
        SARMConfig(**{"num_layers": 2, **change})  # type: ignore[arg-type]


def test_it_is_a_pretrained_model_of_the_hub(tmp_path: Path) -> None:
    model = sarm()
    model.save_pretrained(tmp_path)
    assert {file.name for file in tmp_path.iterdir()} == {"README.md", "config.json", "model.safetensors"}
    again = SARM.from_pretrained(str(tmp_path))
    assert not again.training and again.config == model.config
    for name, tensor in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor), name
    with pytest.raises(ValueError, match="class 'SARM', wanted 'Ranker'"):
        Ranker.from_pretrained(str(tmp_path))


@pytest.mark.parametrize(("reads", "part"), [("cls", 0), ("tar", 1)])
def test_user_interest_reads_the_vector_of_the_config(reads: str, part: int) -> None:
    """In a training step too: changing the other vector of the bank changes nothing."""
    model = sarm(dataclasses.replace(SARM_CONFIG, interest_reads=reads))
    assert model.history_part == part
    step, rows = TrainingSARM(model, *tokens().tensors()), batch(16)
    losses = []
    for changed in (None, part, 1 - part):
        bank = MemoryBank(NUM_AUTHORS, SARM_CONFIG.width)
        bank.vectors = torch.randn(bank.vectors.shape, generator=torch.Generator().manual_seed(0))
        if changed is not None:
            bank.vectors[:, changed] += 1.0
        losses.append(float(step(rows, bank).loss.detach()))
    assert losses[2] == losses[0] != losses[1]


def test_tar_may_be_the_mean_of_the_states() -> None:
    model = sarm(dataclasses.replace(SARM_CONFIG, tar="mean")).eval()
    base, live = tokens().tensors()
    authors = torch.arange(NUM_AUTHORS + 1)
    _, tar = model.encode_authors(authors, base, live)
    states, mask = model.encoder(base, live)
    torch.testing.assert_close(tar, (states * mask.unsqueeze(-1)).sum(1) / mask.sum(1, keepdim=True))
