from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from models import TASK_CATEGORIES
from models.fused_home import FusedHoME
from models.home import HoME, HoMEConfig
from tests.models.worlds import scatter_parameters

ONE_CATEGORY = {"click": "inter", "gift": "inter"}
MANY = {"stay": "watch", "click": "inter", "like": "inter", "buy": "shop", "pay": "shop"}


@given(
    tasks=st.sampled_from([TASK_CATEGORIES, ONE_CATEGORY, MANY, {"click": "inter"}]),
    per_group=st.integers(1, 3),
    loras=st.sampled_from([1, 2, 4]),
    batch=st.sampled_from([1, 2, 33]),
    seed=st.integers(0, 2**20),
)
def test_it_gives_what_home_gives(tasks: dict[str, str], per_group: int, loras: int, batch: int, seed: int) -> None:
    torch.manual_seed(seed)
    config = HoMEConfig(input_width=8, expert_dim=4, experts_per_group=per_group, feature_loras=loras, tower_hidden=3)
    home = HoME(7, config, tasks).double()
    scatter_parameters(home)
    home(torch.randn(9, 7).double())  # running statistics of their own
    home.eval()
    features = torch.randn(batch, 7).double()
    torch.testing.assert_close(FusedHoME(home)(features), home(features).detach(), atol=1e-12, rtol=1e-9)


def test_in_single_precision_at_the_default_sizes_it_is_within_a_millionth() -> None:
    torch.manual_seed(0)
    home = HoME(328, HoMEConfig(), TASK_CATEGORIES)
    home(torch.randn(64, 328))
    home.eval()
    features = torch.randn(100, 328)
    torch.testing.assert_close(FusedHoME(home)(features), home(features).detach(), atol=1e-6, rtol=1e-5)


def test_gates_far_apart_stay_finite() -> None:
    torch.manual_seed(0)
    home = HoME(7, HoMEConfig(input_width=8, expert_dim=4), TASK_CATEGORIES).eval()
    features = 1e4 * torch.randn(5, 7)
    wanted = home(features).detach()
    assert wanted.isfinite().all()
    torch.testing.assert_close(FusedHoME(home)(features), wanted, rtol=1e-4, atol=1e-3)


def test_a_home_in_training_is_refused() -> None:
    with pytest.raises(ValueError, match=r"wants home.eval\(\)"):
        FusedHoME(HoME(7, HoMEConfig(input_width=8, expert_dim=4), TASK_CATEGORIES))
