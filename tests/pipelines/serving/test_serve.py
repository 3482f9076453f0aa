"""The job that runs the deployments; what they answer is tested in tests/serve."""

import os
import signal
import socket
import subprocess
import sys
import threading
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import psutil
import pytest

from pipelines.ranking import publish
from pipelines.runtime import config
from pipelines.runtime.cluster import ROOT
from pipelines.runtime.config import ConfigError, build, to_dict
from pipelines.serving import serve
from pipelines.serving.serve import EndpointLostError, ServeConfig, sample_curl, serving
from pipelines.settings import Settings
from tests.pipelines.jobs import run_job


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
    assert app["replicas"] == 2 and app["threads"] == 1 and app["watch"]["poll_s"] == 2.0 and "root" not in app
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
    monkeypatch.setattr(serve, "is_connected", lambda: False)
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
    monkeypatch.setattr(serve, "is_connected", lambda: False)
    with (
        pytest.raises(ConfigError, match="config.serve: 192.0.2.1:8000 cannot be listened at"),
        serving(ServeConfig(host="192.0.2.1"), Settings().open()),
    ):
        pass


def test_the_sample_names_the_variable_and_not_the_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_TOKEN", "a-secret-of-some-length")
    curl = sample_curl("http://127.0.0.1:1", ServeConfig(app={"token_env": "SOME_TOKEN"}))
    assert 'Authorization: Bearer $SOME_TOKEN"' in curl and "a-secret" not in curl


class Endpoint(BaseHTTPRequestHandler):
    """Says the next of `says`, the last one again and again; None closes the connection."""

    says: ClassVar[list[tuple[int, bytes] | None]]

    def do_GET(self) -> None:
        said = self.says.pop(0) if len(self.says) > 1 else self.says[0]
        if said is not None:
            self.send_response(said[0])
            self.end_headers()
            self.wfile.write(said[1])

    def log_message(self, *_: object) -> None:
        pass


def watched(says: list[tuple[int, bytes] | None], monkeypatch: pytest.MonkeyPatch, lost_after_s: float) -> int:
    """Looks of the watch until it stops or raises: it stops when the last of `says` is reached."""
    monkeypatch.setattr(serve, "_LOOK_S", 0.01)
    endpoint = type("Given", (Endpoint,), {"says": says})
    stop = threading.Event()
    with ThreadingHTTPServer(("127.0.0.1", 0), endpoint) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        threading.Thread(target=lambda: (stop.wait(0.5), stop.set()), daemon=True).start()
        try:
            serve._watch(f"http://127.0.0.1:{server.server_port}", lost_after_s, stop)
        finally:
            stop.set()
            server.shutdown()
    return len(says)


READY, NOT_READY = (200, b'{"ready":true}'), (503, b'{"ready":false}')


def test_an_endpoint_that_comes_back_in_time_or_has_no_bank_is_watched_on(monkeypatch: pytest.MonkeyPatch) -> None:
    assert watched([READY, None, (404, b"no such path"), NOT_READY, READY], monkeypatch, lost_after_s=30) == 1


@pytest.mark.parametrize("says", [None, (404, b"Path not found"), (500, b"Internal Server Error")])
def test_an_endpoint_that_is_lost_ends_the_command_with_what_it_said(
    monkeypatch: pytest.MonkeyPatch, says: tuple[int, bytes] | None
) -> None:
    said = "closed" if says is None else says[1].decode()
    with pytest.raises(
        EndpointLostError, match=rf"has not answered for .*lost_after_s: 0.1.*{said}.*start the command"
    ):
        watched([READY, says], monkeypatch, lost_after_s=0.1)


def haproxy_below(pid: int) -> set[tuple[str, int]]:
    """Where HAProxy listens."""
    found = [each for each in psutil.Process(pid).children(recursive=True) if each.name() == "haproxy"]
    connections = [each for process in found for each in process.net_connections("tcp")]
    return {tuple(each.laddr) for each in connections if each.status == psutil.CONN_LISTEN}


@pytest.mark.ray
def test_the_command_serves_until_it_is_stopped(trained: Settings) -> None:
    """In an environment that says nothing of Ray, as a user's is."""
    run_job(publish, trained)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    file = Path(trained.run_dir) / "serve.yaml"
    config.dump(replace(trained, serve=replace(trained.serve, port=port)), file)
    command = [sys.executable, "-m", "pipelines", "serve", "--config", str(file)]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    lines, listening = [], set()
    with subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True) as job:
        for line in job.stderr or ():
            lines.append(line)
            if f"serving at http://127.0.0.1:{port}" in line:
                listening = haproxy_below(job.pid)
                job.send_signal(signal.SIGTERM)
    assert job.returncode == 0, "".join(lines)
    # Requests, statistics and metrics; the twin listens for requests as well; nothing is left of either.
    assert len(listening) == 3 and ("127.0.0.1", port) in listening
    assert {host for host, _ in listening} == {"127.0.0.1"}
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), timeout=5)
    assert any("serving at" in line for line in lines)
