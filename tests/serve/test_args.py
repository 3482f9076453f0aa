"""Arguments of the deployments: refused with a reason, completed with defaults, light to import."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from models import TASKS
from serve.args import ServeArgs, WatchConfig, fusion_weights, resolved


@pytest.mark.parametrize("wrong", [{}, {"root": "r", "replica": 2}, {"root": "r", "watch": {"poll": 1}}])
def test_wrong_arguments_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="ServeArgs"):
        ServeArgs.model_validate(wrong)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"replica": 2}, "^unknown key replica; valid keys are cache_dir, watch, .*, replicas, num_cpus"),
        ({"watch": {"poll": 1}}, "^unknown key watch.poll; valid keys are poll_s, retry_refused_s$"),
        ({"lookup": "far"}, "lookup: Input should be 'local' or 'remote', got 'far'"),
        ({"replicas": 0, "threads": "x"}, "replicas: .* got 0; threads: .* got 'x'"),
        ({"watch": {"poll_s": 0}}, "watch: .*poll_s must be > 0"),
    ],
)
def test_a_wrong_key_is_named_with_the_valid_ones(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        resolved(wrong)


def test_what_is_resolved_holds_every_argument_and_is_the_same_when_read_again() -> None:
    found = resolved({"replicas": 3, "watch": {"poll_s": 1}})
    assert found.keys() == ServeArgs.model_fields.keys() - {"root"}
    assert found["replicas"] == 3 and found["watch"] == {"poll_s": 1.0, "retry_refused_s": 300.0}
    assert resolved(found) == found
    args = ServeArgs.model_validate({"root": "r", "replicas": 3, "watch": {"poll_s": 1}})
    assert ServeArgs(root="r", **found) == args


def test_every_argument_is_described() -> None:
    assert [name for name, field in ServeArgs.model_fields.items() if not field.description] == []


@pytest.mark.parametrize("config", [{"poll_s": 0.0}, {"retry_refused_s": -1.0}])
def test_the_watch_is_checked(config: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="poll_s must be > 0"):
        WatchConfig(**config)


@pytest.mark.parametrize("weights", [{"click": float("nan")}, {"gift": 1e6}, {"stay": "x"}])
def test_weights_are_checked(weights: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=rf"weights\.{next(iter(weights))}: Input should be"):
        resolved({"weights": weights})


def test_weights_stand_in_the_order_of_the_ranker_s_tasks_and_are_1_by_default() -> None:
    assert fusion_weights({"gift": 2.0, "click": 0.5}, TASKS).tolist() == [0.5, 1.0, 1.0, 2.0]
    with pytest.raises(ValueError, match="weights: stay is no task of the ranker; it has click, follow"):
        fusion_weights({"stay": 1.0}, TASKS)
    with pytest.raises(ValueError, match="wanted one that is not 0, got 0 for all of click, follow"):
        fusion_weights(dict.fromkeys(TASKS, 0.0), TASKS)


def test_importing_them_starts_nothing_heavy() -> None:
    code = "import sys, serve.args; print({'ray', 'torch', 'fastapi'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout == "set()\n"
