from __future__ import annotations

import numpy as np
import pytest
import torch

from models import TASK_CATEGORIES, TASKS
from models.home import FeatureGates, HoME, HoMEConfig, MetaLayer, TaskLayer, check_tasks, meta_groups, task_groups
from tests.models import reference
from tests.models.reference import part, weights
from tests.models.worlds import HOME, scatter_parameters

META_GROUPS, TASK_GROUPS = meta_groups(TASK_CATEGORIES), task_groups(TASK_CATEGORIES)


def test_feature_gates_start_at_one() -> None:
    v = torch.randn(3, 5, 8)
    torch.testing.assert_close(FeatureGates(3, 8, 2).gates(v), torch.ones(3, 5, 8))


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("per_group", [1, 2])
def test_home_by_the_published_equations(per_group: int, training: bool) -> None:
    """Feature gates (eq. 8 to 10), then experts (4, 5), meta layer and self gates (6, 11), then the task layer (7)."""
    torch.manual_seed(0)
    config = HoMEConfig(input_width=6, expert_dim=4, experts_per_group=per_group, tower_hidden=3)
    home = HoME(5, config, TASK_CATEGORIES).double()
    scatter_parameters(home)
    home(torch.randn(9, 5).double())  # running statistics of their own, for evaluation
    home.train(training)
    w, features = weights(home), torch.randn(7, 5).double()

    v = np.array([reference.linear(x, w, "project") for x in features.numpy()])
    gates = home.meta.feature_gates.gates(torch.from_numpy(v).expand(3, -1, -1)).detach().numpy()
    for group in range(3):
        wanted = np.array([reference.feature_gate(x, part(w, "meta.feature_gates"), group) for x in v])
        np.testing.assert_allclose(gates[group], wanted)
    z = reference.home_meta(v, part(w, "meta"), per_group, training)
    for name, found in home.meta(torch.from_numpy(v)).items():
        np.testing.assert_allclose(found.detach().numpy(), z[name], err_msg=name)
    logits = reference.home_task(z, part(w, "task"), per_group, training)
    np.testing.assert_allclose(home(features).detach().numpy(), logits)


@pytest.mark.parametrize("changed", META_GROUPS)
def test_a_meta_expert_is_seen_by_its_own_group_and_by_shared_or_by_all_if_it_is_shared(changed: str) -> None:
    torch.manual_seed(0)
    layer = MetaLayer(HOME, TASK_CATEGORIES).eval()
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
    layer = TaskLayer(HOME, TASK_CATEGORIES).eval()
    z = {group: torch.randn(4, HOME.expert_dim) for group in META_GROUPS}
    before = layer(z)
    with torch.no_grad():
        layer.experts.weight[TASK_GROUPS.index(changed)] += 1.0
    moved = (before != layer(z)).any(dim=0)
    assert {task for task, is_moved in zip(TASKS, moved.tolist(), strict=True) if is_moved} == seen_by


OTHER = {"click": "inter", "subscribe": "inter", "stay": "watch", "buy": "trade"}


def test_tasks_of_any_name_make_their_groups_gates_and_towers() -> None:
    assert meta_groups(OTHER) == ("inter", "watch", "trade", "shared")
    home = HoME(6, HOME, OTHER)
    assert list(home.task.towers) == list(home.task.gates) == list(OTHER)
    assert home(torch.randn(8, 6)).shape == (8, 4)


@pytest.mark.parametrize("category", ["inter", "watch", "trade", "shared"])
def test_the_experts_of_a_category_reach_its_own_tasks(category: str) -> None:
    torch.manual_seed(0)
    layer = TaskLayer(HOME, OTHER).eval()
    z = {group: torch.randn(4, HOME.expert_dim) for group in meta_groups(OTHER)}
    before = layer(z)
    with torch.no_grad():
        layer.experts.weight[task_groups(OTHER).index(category)] += 1.0
    moved = (before != layer(z)).any(dim=0).tolist()
    assert moved == [category in (of, "shared") for of in OTHER.values()]


@pytest.mark.parametrize(
    ("tasks", "message"),
    [
        ({}, "wanted at least one task"),
        ({"click": "inter", "long view": "watch"}, "got 'long view'; rename it"),
        ({"click": "shared"}, "got 'shared'"),
        ({"forward": "inter"}, "got 'forward'"),
        ({"score": "inter"}, "got 'score'"),
        ({"class": "inter"}, "got 'class'"),
        ({"click": "inter", "inter": "watch"}, "inter is a task and a category"),
    ],
)
def test_tasks_that_cannot_be_told_apart_are_refused(tasks: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_tasks(tasks)


def test_every_parameter_learns_once_the_gates_have_left_one() -> None:
    torch.manual_seed(0)
    home = HoME(6, HOME, TASK_CATEGORIES)
    scatter_parameters(home)
    home(torch.randn(8, 6)).square().sum().backward()
    for name, parameter in home.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


def test_loras_must_divide_the_widths() -> None:
    with pytest.raises(ValueError, match="feature_loras=3 must divide input_width=16"):
        HoMEConfig(input_width=16, expert_dim=9, feature_loras=3)
