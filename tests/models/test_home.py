from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from models import TASKS
from models.home import META_GROUPS, TASK_GROUPS, Experts, FeatureGates, HoME, HoMEConfig, MetaLayer, TaskLayer, mix
from tests.models.worlds import HOME, scatter_parameters


def test_feature_gates_start_at_one() -> None:
    v = torch.randn(3, 5, 8)
    torch.testing.assert_close(FeatureGates(3, 8, 2).gates(v), torch.ones(3, 5, 8))


def test_a_feature_gate_by_the_published_formula() -> None:
    torch.manual_seed(0)
    gates = FeatureGates(2, 4, 2)
    scatter_parameters(gates)
    v = torch.randn(2, 3, 4)
    for group in range(2):
        wanted = torch.zeros(3, 4)
        weight = torch.softmax(v[group] @ gates.mix[group], dim=-1)
        for lora in range(2):
            down, up = gates.down[group][:, 2 * lora : 2 * lora + 2], gates.up[group, lora]
            wanted = wanted + weight[:, lora : lora + 1] * 2 * torch.sigmoid(v[group] @ (down @ up))
        torch.testing.assert_close(gates.gates(v)[group], wanted)
        torch.testing.assert_close(gates(v)[group], v[group] * wanted)


def test_experts_are_swish_of_batch_norm_of_a_linear_map() -> None:
    torch.manual_seed(0)
    experts = Experts(2, 4, HOME)
    x = torch.randn(2, 6, 4)
    out = experts(x)
    assert out.shape == (6, 2, HOME.experts_per_group, HOME.expert_dim)
    hidden = x[1] @ experts.weight[1]
    normed = (hidden - hidden.mean(dim=0)) / torch.sqrt(hidden.var(dim=0, unbiased=False) + 1e-5)
    torch.testing.assert_close(out[:, 1].flatten(1), F.silu(normed))


def test_mix_weighs_experts_in_the_order_of_their_groups() -> None:
    weights = torch.tensor([[0.5, 0.25, 0.25]])
    groups = [torch.tensor([[[1.0], [2.0]]]), torch.tensor([[[10.0]]])]
    assert mix(weights, groups).item() == pytest.approx(0.5 + 0.5 + 2.5)


@pytest.mark.parametrize("changed", META_GROUPS)
def test_a_meta_expert_is_seen_by_its_own_group_and_by_shared_or_by_all_if_it_is_shared(changed: str) -> None:
    torch.manual_seed(0)
    layer = MetaLayer(HOME).eval()
    v = torch.randn(4, HOME.input_width)
    before = layer(v)
    with torch.no_grad():
        layer.experts.weight[META_GROUPS.index(changed)] += 1.0
    after = layer(v)
    moved = {group for group in META_GROUPS if not torch.equal(before[group], after[group])}
    assert moved == (set(META_GROUPS) if changed == "shared" else {changed, "shared"})


@pytest.mark.parametrize(
    ("changed", "seen_by"),
    [
        ("shared", set(TASKS)),
        ("inter", {"click", "follow", "gift"}),
        ("watch", {"long_view"}),
        ("gift", {"gift"}),
        ("long_view", {"long_view"}),
    ],
)
def test_a_task_expert_is_seen_by_the_tasks_of_its_group(changed: str, seen_by: set[str]) -> None:
    torch.manual_seed(0)
    layer = TaskLayer(HOME).eval()
    z = {group: torch.randn(4, HOME.expert_dim) for group in META_GROUPS}
    before = layer(z)
    with torch.no_grad():
        layer.experts.weight[TASK_GROUPS.index(changed)] += 1.0
    moved = (before != layer(z)).any(dim=0)
    assert {task for task, is_moved in zip(TASKS, moved.tolist(), strict=True) if is_moved} == seen_by


def test_watch_input_reaches_long_view_but_no_task_of_inter() -> None:
    layer = TaskLayer(HOME).eval()
    z = {group: torch.randn(4, HOME.expert_dim) for group in META_GROUPS}
    moved = (layer(z) != layer(z | {"watch": z["watch"] + 1.0})).any(dim=0)
    assert moved.tolist() == [task == "long_view" for task in TASKS]


@pytest.mark.parametrize("per_group", [1, 2])
def test_the_meta_output_is_the_gated_sum_plus_the_self_gated_own_experts(per_group: int) -> None:
    torch.manual_seed(0)
    layer = MetaLayer(HoMEConfig(input_width=4, expert_dim=2, experts_per_group=per_group, tower_hidden=2)).eval()
    scatter_parameters(layer)
    v = torch.randn(3, 4)
    experts = layer.experts(layer.feature_gates(v.expand(3, -1, -1)))
    inter, shared = experts[:, META_GROUPS.index("inter")], experts[:, META_GROUPS.index("shared")]
    gate = torch.softmax(layer.gates["inter"](v), dim=-1)
    own = layer.self_gates["inter"](v)
    own = torch.sigmoid(own) if per_group == 1 else torch.softmax(own, dim=-1)
    seen = torch.cat([shared, inter], dim=1)
    wanted = torch.einsum("bn,bnd->bd", gate, seen) + torch.einsum("bn,bnd->bd", own, inter)
    torch.testing.assert_close(layer(v)["inter"], wanted)


def test_every_parameter_learns_once_the_gates_have_left_one() -> None:
    torch.manual_seed(0)
    home = HoME(6, HOME)
    scatter_parameters(home)
    home(torch.randn(8, 6)).square().sum().backward()
    for name, parameter in home.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


def test_loras_must_divide_the_widths() -> None:
    with pytest.raises(ValueError, match="feature_loras=3 must divide input_width=16"):
        HoMEConfig(input_width=16, expert_dim=9, feature_loras=3)
