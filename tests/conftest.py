"""What every test shares: one Hypothesis profile, one thread, one local Ray. Other fixtures live beside their tests."""

import os
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

# As `connected` would: Ray reads it once, when any test first imports Ray.
os.environ.setdefault("RAY_AUTH_MODE", "token")

# The same examples on every run, and no limit of time: a loaded two-core machine is slow, not wrong.
settings.register_profile("project", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("project")


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Of torch, in this process: for tensors of this size a second thread costs more than it does, the most when the
    machine is busy. Workers, engines and replicas choose their own."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    """One local Ray for the whole session: jobs under test join it and leave it running."""
    from pipelines.runtime.cluster import ClusterConfig, connected

    with connected(ClusterConfig(object_store_gb=0.5)):
        yield
