"""What the tests of serving share."""

from collections.abc import Iterator

import pytest

from tests.pipelines.serving.endpoint import Endpoint, answering


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    with answering() as server:
        yield server
