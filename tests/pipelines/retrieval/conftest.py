"""A platform that tests share, and must not change."""

import pytest

from pipelines.runtime.run import Run
from tests.pipelines.retrieval import little_platform


@pytest.fixture(scope="session")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return little_platform.write(tmp_path_factory.mktemp("platform"))
