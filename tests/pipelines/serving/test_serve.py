"""The job that runs the deployments; with Ray it is tested in tests/serve/test_app.py."""

import pytest

from pipelines.runtime.config import ConfigError, build
from pipelines.serving.serve import ServeConfig, sample_curl, serving
from pipelines.settings import Settings


@pytest.mark.parametrize("wrong", [{"port": 0}, {"port": 70_000}, {"request_timeout_s": 0.0}, {"app": {"root": "x"}}])
def test_the_config_refuses(wrong: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=r"port|request_timeout_s|app\.root"):
        build(Settings, {"serve": wrong})


def test_a_token_that_is_not_set_is_said_before_anything_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SOME_TOKEN", raising=False)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with (
        pytest.raises(ConfigError, match="SOME_TOKEN is not set; export SOME_TOKEN"),
        serving(ServeConfig(app={"token_env": "SOME_TOKEN"}), Settings().open()),
    ):
        pass


def test_the_sample_names_the_variable_and_not_the_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_TOKEN", "a-secret-of-some-length")
    curl = sample_curl("http://127.0.0.1:1", ServeConfig(app={"token_env": "SOME_TOKEN"}))
    assert 'Authorization: Bearer $SOME_TOKEN"' in curl and "a-secret" not in curl
