"""What the tests of serving share."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from models.online.config import StoreConfig
from models.online.embedded import EmbeddedStore
from tests.pipelines.serving.coded_platform import Coded, make_coded
from tests.pipelines.serving.endpoint import Endpoint, answering


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    with answering() as server:
        yield server


@pytest.fixture(scope="session")
def coded(tiny_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Coded:
    """Shared: whoever changes anything copies it."""
    root = tmp_path_factory.mktemp("served") / "tiny"
    shutil.copytree(tiny_store, root)
    return make_coded(root)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[EmbeddedStore]:
    """An online store of one's own."""
    made = EmbeddedStore(StoreConfig(backend="embedded", path=str(tmp_path / "online"), map_gib=0.25))
    yield made
    made.close()
