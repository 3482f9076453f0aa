"""The job that runs the deployments; with Ray it is tested in tests/serve/test_app.py."""

import socket

import pytest

from pipelines.runtime.config import ConfigError, build, to_dict
from pipelines.serving.serve import ServeConfig, sample_curl, serving
from pipelines.settings import Settings


@pytest.mark.parametrize("wrong", [{"port": 0}, {"port": 70_000}, {"request_timeout_s": 0.0}, {"app": {"root": "x"}}])
def test_the_config_refuses(wrong: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=r"port|request_timeout_s|app\.root"):
        build(Settings, {"serve": wrong})


@pytest.mark.parametrize(
    ("app", "message"),
    [
        ({"replica": 2}, "config.serve: app: unknown key replica; valid keys are .*replicas"),
        ({"watch": {"poll": 1}}, "app: unknown key watch.poll; valid keys are poll_s"),
        ({"threads": 0}, "app: threads: .* got 0"),
    ],
)
def test_a_typo_in_the_application_s_arguments_fails_when_the_config_is_read(app: dict[str, object], message: str):
    with pytest.raises(ConfigError, match=message):
        build(Settings, {"serve": {"app": app}})


def test_the_dumped_config_holds_every_argument_of_the_application() -> None:
    app = to_dict(build(Settings, {"serve": {"app": {"replicas": 2}}}))["serve"]["app"]
    assert app["replicas"] == 2 and app["threads"] == 1 and app["watch"]["poll_s"] == 5.0 and "root" not in app
    assert ServeConfig(app=app) == ServeConfig(app={"replicas": 2})


def test_a_token_that_is_not_set_is_said_before_anything_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SOME_TOKEN", raising=False)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with (
        pytest.raises(ConfigError, match="SOME_TOKEN is not set; export SOME_TOKEN"),
        serving(ServeConfig(app={"token_env": "SOME_TOKEN"}), Settings().open()),
    ):
        pass


def test_a_port_in_use_is_said_before_anything_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr("ray.is_initialized", lambda: False)
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with (
            pytest.raises(ConfigError, match=f"config.serve: 127.0.0.1:{port} cannot be listened at .*serve.port=PORT"),
            serving(ServeConfig(port=port), Settings().open()),
        ):
            pass


def test_an_address_of_another_machine_is_said_before_anything_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr("ray.is_initialized", lambda: False)
    with (
        pytest.raises(ConfigError, match="config.serve: 192.0.2.1:8000 cannot be listened at"),
        serving(ServeConfig(host="192.0.2.1"), Settings().open()),
    ):
        pass


def test_the_sample_names_the_variable_and_not_the_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_TOKEN", "a-secret-of-some-length")
    curl = sample_curl("http://127.0.0.1:1", ServeConfig(app={"token_env": "SOME_TOKEN"}))
    assert 'Authorization: Bearer $SOME_TOKEN"' in curl and "a-secret" not in curl
