from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from models.embeddings import log2_bucket
from models.ranker import CrossLayer, Ranker, RankerConfig, TargetAttention
from tests.models.worlds import RANKER, batch, catalog, scatter_parameters


def ranker(config: RankerConfig = RANKER) -> Ranker:
    torch.manual_seed(0)
    model = Ranker(config, catalog().sizes)
    scatter_parameters(model)
    return model


def test_logits_have_one_column_per_task() -> None:
    assert ranker()(batch(6)).shape == (6, 4)


def test_tasks_come_back_in_their_order_with_their_heads(tmp_path: Path) -> None:
    tasks = {"stay": "watch", "subscribe": "inter", "click": "inter"}
    saved = ranker(dataclasses.replace(RANKER, tasks=tasks, auxiliary_task="stay")).eval()
    saved.save(tmp_path)
    loaded = Ranker.load(tmp_path)
    assert list(loaded.config.tasks.items()) == list(tasks.items()) and loaded.config.auxiliary_task == "stay"
    assert saved(batch(6)).shape == (6, 3) and torch.equal(loaded(batch(6)), saved(batch(6)))


def test_the_auxiliary_task_is_one_of_the_tasks() -> None:
    with pytest.raises(ValueError, match="auxiliary_task: wanted one of stay, subscribe, got click"):
        RankerConfig(tasks={"stay": "watch", "subscribe": "inter"})


@pytest.mark.parametrize("name", ["user", "user_profile", "author", "author_category", "hour", "history_age_s"])
def test_every_input_changes_the_logits(name: str) -> None:
    model, rows = ranker().eval(), batch(6)
    values = getattr(rows, name)
    changed = rows._replace(**{name: values * 8 + 900 if values.is_floating_point() else (values + 1) % 3})
    assert not torch.equal(model(rows), model(changed))


def test_padding_of_the_history_changes_nothing() -> None:
    model, rows = ranker().eval(), batch(6)
    ages = torch.where(rows.history_mask, rows.history_age_s, 7e4)
    torch.testing.assert_close(model(rows), model(rows._replace(history_age_s=ages)))


def test_target_attention_is_attention_with_linear_keys_and_values() -> None:
    torch.manual_seed(0)
    attention = TargetAttention(3, 4)
    target, items, mask = torch.randn(1, 3), torch.randn(1, 2, 4), torch.tensor([[True, True]])
    scores = (attention.query(target) * items[0]).sum(dim=-1) / 2.0
    wanted = torch.softmax(scores, dim=-1) @ attention.value(items[0])
    torch.testing.assert_close(attention(target, items, mask)[0], wanted)
    assert not attention(target, items, torch.tensor([[False, False]])).any()


def test_a_cross_layer_by_hand() -> None:
    """V x = 3 - 4; U V x + b = (-2, -3) + (0.5, -1); times x0 = (1, 2), plus x."""
    layer = CrossLayer(2, 1)
    with torch.no_grad():
        layer.down.weight.copy_(torch.tensor([[1.0, -1.0]]))
        layer.up.weight.copy_(torch.tensor([[2.0], [3.0]]))
        layer.up.bias.copy_(torch.tensor([0.5, -1.0]))
    assert layer(torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0, 4.0]])).tolist() == [[1.5, -4.0]]


def test_rank_features_are_the_fields_and_two_products() -> None:
    """Row 4 has one item in its history, which gets all the attention; row 5 has none. Without cross layers."""
    model = ranker(dataclasses.replace(RANKER, cross_layers=0, extra_author_dim=3, extra_user_dim=2))
    rows, extra = batch(6), torch.randn(6, 5)
    found, w = model.rank_features(rows, extra), model.state_dict()
    for row in (4, 5):
        user, author = w["users.weight"][rows.user[row]], w["authors.weight"][rows.author[row]]
        profile = torch.cat([w[f"profile.{i}.weight"][rows.user_profile[row, i]] for i in range(2)])
        age, watch = (log2_bucket(v[row, -1], n) for v, n in ((rows.history_age_s, 24), (rows.history_watch_s, 16)))
        item = w["authors.weight"][rows.history[row, -1]] + w["ages.weight"][age] + w["watches.weight"][watch]
        interest = w["target_attention.value.weight"] @ item * rows.history_mask[row].sum()
        context = [w["categories.weight"][rows.author_category[row]], w["hours.weight"][rows.hour[row]]]
        rich_user = user + w["affinity.profile.weight"] @ profile + w["affinity.user.weight"] @ extra[row, 3:]
        rich_author = author + w["affinity.author.weight"] @ extra[row, :3]
        wanted = [user, author, interest, profile, *context, rich_user * rich_author, interest * rich_author]
        torch.testing.assert_close(found[row], torch.cat(wanted))


def test_extra_of_another_width_is_refused() -> None:
    with pytest.raises(ValueError, match="extra has width 3, the ranker was built for extra_dim=0"):
        ranker()(batch(2), torch.zeros(2, 3))
    with pytest.raises(ValueError, match="extra has width 0"):
        ranker(dataclasses.replace(RANKER, extra_author_dim=3))(batch(2))


def test_extra_changes_the_logits() -> None:
    model = ranker(dataclasses.replace(RANKER, extra_author_dim=3)).eval()
    assert not torch.equal(model(batch(2), torch.zeros(2, 3)), model(batch(2), torch.ones(2, 3)))


def test_every_parameter_learns() -> None:
    model = ranker()
    model(batch(64)).square().sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


def test_saved_and_loaded_rankers_score_alike(tmp_path: Path) -> None:
    model = ranker()
    model(batch(16))
    model.save(tmp_path)
    loaded = Ranker.load(tmp_path)
    assert torch.equal(loaded(batch(5)), model.eval()(batch(5)))
    assert loaded.config == model.config


def test_a_ranker_is_filled_with_what_another_one_saved(tmp_path: Path) -> None:
    saved, model = ranker(), Ranker(RANKER, catalog().sizes).train()
    saved.save(tmp_path)
    parameters = list(model.parameters())
    model.fill(tmp_path)
    assert model.training and all(a is b for a, b in zip(parameters, model.parameters(), strict=True))
    assert torch.equal(model.eval()(batch(5)), saved.eval()(batch(5)))
    wide = Ranker(dataclasses.replace(RANKER, id_dim=2 * RANKER.id_dim), catalog().sizes)
    with pytest.raises(ValueError, match=r"has shape .* in the file"):
        wide.fill(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"class": "ComposedRanker"}, "class 'ComposedRanker', wanted 'Ranker'"),
        ({"version": 99}, "version 99, wanted 1"),
        ({"config": {"id_dim": 4}}, r"shape \[8, 8\] in the file, \[8, 4\] in the config"),
        ({"config": {"id_dims": 4}}, r"config: unknown key\(s\) id_dims; did you mean id_dim"),
    ],
)
def test_a_mismatch_is_refused_with_both_values(tmp_path: Path, change: dict[str, object], message: str) -> None:
    ranker().save(tmp_path)
    head = json.loads((tmp_path / "config.json").read_text())
    if "config" in change:
        change = {"config": head["config"] | change["config"]}
    (tmp_path / "config.json").write_text(json.dumps(head | change))
    with pytest.raises(ValueError, match=message):
        Ranker.load(tmp_path)


@pytest.mark.parametrize("change", [{"id_dim": 0}, {"cross_layers": -1}, {"extra_author_dim": -1}])
def test_impossible_sizes_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="RankerConfig|cross_layers"):
        dataclasses.replace(RANKER, **change)


def test_a_silent_head_leaves_a_factorisation_machine() -> None:
    """Logit = <user + W profile, author> + <interest, author> at the start, the same for every task."""
    torch.manual_seed(0)
    model, rows = Ranker(RANKER, catalog().sizes).eval(), batch(6)
    for tower in model.home.task.towers.values():
        for parameter in tower.parameters():
            torch.nn.init.zeros_(parameter)
    profile = torch.cat([table(rows.user_profile[:, i]) for i, table in enumerate(model.profile)], dim=-1)
    user, author = model.users(rows.user) + model.affinity.profile(profile), model.authors(rows.author)
    interest = model.rank_features(rows)[:, -RANKER.id_dim :].sum(dim=-1)
    wanted = ((user * author).sum(dim=-1) + interest).unsqueeze(1).expand(-1, 4)
    torch.testing.assert_close(model(rows), wanted)
