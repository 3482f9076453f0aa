"""The pool of engines: what it asks of a cluster, and what this process need not import."""

import subprocess
import sys

import pytest
import ray

from pipelines.runtime.cluster import ROOT
from pipelines.runtime.config import ConfigError
from pipelines.semantics.author_day import PromptConfig
from pipelines.semantics.engine import check_room, processor_kwargs
from pipelines.semantics.engine_config import EngineConfig
from pipelines.semantics.engine_pool import watched_processor

BUILT = """
import sys
from pipelines.semantics.author_day import PromptConfig
from pipelines.semantics.engine import processor_kwargs
from pipelines.semantics.engine_config import EngineConfig
from pipelines.semantics.engine_pool import watched_processor
config = EngineConfig()
watched_processor(processor_kwargs("model", PromptConfig(), config), None, config, key_columns=["day"], probe=None)
print(sorted({"torch", "vllm", "transformers"} & set(sys.modules)))
"""


def stage(config: EngineConfig) -> dict[str, object]:
    """What Ray Data is told of the pool."""
    kwargs = processor_kwargs("model", PromptConfig(), config)
    processor = watched_processor(kwargs, None, config, key_columns=["day"], probe=None)
    (only,) = processor.stages.values()
    told: dict[str, object] = only.map_batches_kwargs
    return told


def test_the_driver_builds_a_pool_without_what_engines_import() -> None:
    done = subprocess.run([sys.executable, "-c", BUILT], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize(
    ("config", "cpus", "gpus"),
    [
        (EngineConfig(cpus_per_engine=3), 3, 0),
        (EngineConfig(use_gpu=True), 1, 1),
        (EngineConfig(use_gpu=True, engine_kwargs={"tensor_parallel_size": 4}), 1, 4),
    ],
)
def test_an_engine_reserves_what_it_computes_with(config: EngineConfig, cpus: int, gpus: int) -> None:
    told = stage(config)
    assert (told["num_cpus"], told["num_gpus"]) == (cpus, gpus)


def test_an_engine_over_several_nodes_is_refused() -> None:
    config = EngineConfig(use_gpu=True, engine_kwargs={"distributed_executor_backend": "ray"})
    with pytest.raises(ConfigError, match="wanted uni or mp, got ray"):
        stage(config)


def test_a_batch_that_would_stand_still_is_refused_or_said(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    config = EngineConfig(num_engines=2)
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 2.0})
    with pytest.raises(ConfigError, match="wanted 2.95 CPUs at once.*got 2; set it to 3"):
        check_room(config, can_grow=False)
    check_room(config, can_grow=True)
    assert "waits until nodes join" in caplog.text
    caplog.clear()
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 3.0})
    check_room(config, can_grow=False)
    assert not caplog.text
