"""Job `serve`: runs the deployments over what is published and answers over HTTP until it is stopped.

Reads artifacts below `storage.root`, writes nothing. On a cluster that lasts, `serve deploy serve/config.yaml` does it.
"""

import http.client
import importlib
import json
import logging
import os
import shlex
import signal
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from types import FrameType
from typing import Any

from pipelines.runtime.cluster import connected, is_connected, is_shared
from pipelines.runtime.config import ConfigError
from pipelines.runtime.run import Run
from pipelines.serving.fast_path import STEADY, environment, fast_path

log = logging.getLogger(__name__)

BUILDER = "serve.app:build"
"""Import path of the application, as `serve run` and serve/config.yaml name it."""
ARGUMENTS = "serve.args"
"""Import path of the application's arguments, which are light to import."""
_APPLICATION = "ranking"
_ROUTES_TIMEOUT_S = 60
_LOOK_S = 1.0
_LOOPBACK = ("127.0.0.1", "localhost", "::1")


@dataclass(frozen=True, kw_only=True, slots=True)
class ServeConfig:
    """Where and how the deployments are reached."""

    host: str = "127.0.0.1"
    """Address that the proxy binds. Other machines reach it only if this is changed; name `app.token_env` then."""
    port: int = 8000
    """Port of HTTP."""
    request_timeout_s: float = 10.0
    """Requests that take longer are given up with 408."""
    high_throughput: bool = True
    """HAProxy in front, several times more requests per second. For a Ray that this command starts: one that runs
    already has what its nodes were started with, see cluster.yaml."""
    lost_after_s: float = 60.0
    """Without an answer of its own endpoint for this long the command ends with an error: what starts it again is to
    see that. Proxies and replicas that die are replaced within seconds."""
    app: Mapping[str, Any] = field(default_factory=dict)
    """Arguments of serve.app:build but for root, for example {replicas: 2, token_env: SERVE_TOKEN}: see ServeArgs in
    serve/args.py, which checks them and adds those that are missing."""

    def __post_init__(self) -> None:
        if not 0 < self.port < 65_536:
            raise ValueError(f"port must be within 1..65535, got {self.port}")
        if min(self.request_timeout_s, self.lost_after_s) <= 0:
            raise ValueError(f"request_timeout_s and lost_after_s must be > 0, got {self}")
        if "root" in self.app:
            raise ValueError("app.root is storage.root; set that one, so that all jobs share it")
        try:
            # By its name: jobs and deployments share models and artifacts, not code.
            app = importlib.import_module(ARGUMENTS).resolved(self.app)
        except ValueError as error:
            raise ValueError(f"app: {error}") from error
        object.__setattr__(self, "app", app)


class EndpointLostError(RuntimeError):
    """Nothing answers at the endpoint any more."""


def run(config: ServeConfig, run: Run) -> dict[str, Any]:
    """Serves until Ctrl-C or SIGTERM, then stops the application. Raises EndpointLostError, see `lost_after_s`."""
    stop = threading.Event()

    def on_signal(_number: int, _frame: FrameType | None) -> None:
        stop.set()

    with serving(config, run) as url:
        started = time.perf_counter()
        # Ray's own handlers would end the process in the middle of it; Serve is stopped first.
        previous = {number: signal.signal(number, on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
        log.info("serving at %s (page /, API /docs, health /healthz); stop with Ctrl-C", url)
        log.info("try: %s", sample_curl(url, config))
        try:
            _watch(url, config.lost_after_s, stop)
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)
        log.info("stopping")
    return {"serve/up_s": round(time.perf_counter() - started, 1)}


@contextmanager
def serving(config: ServeConfig, run: Run) -> Iterator[str]:
    """The running application for the duration of a block, as its URL. Raises ConfigError if the token is not set."""
    if config.app["token_env"] is None and config.host not in _LOOPBACK:
        log.warning("other machines can reach port %d and no token is asked for; set serve.app.token_env", config.port)
    _check_token(config, run)
    _check_port(config, run)
    with environment_of(config, run), connected(run.cluster):
        from ray import serve as ray_serve

        application = _application(config, run)
        ray_serve.start(
            http_options={
                "host": config.host,
                "port": config.port,
                "request_timeout_s": config.request_timeout_s,
            },
            # Of the proxy: a line for each request costs more than passing it on.
            logging_config={"enable_access_log": False},
        )
        is_lost = False
        try:
            ray_serve.run(application, name=_APPLICATION, route_prefix="/")
            url = f"http://{'127.0.0.1' if config.host == '0.0.0.0' else config.host}:{config.port}"
            _wait_for_routes(url)
            yield url
        except EndpointLostError:
            is_lost = True
            raise
        finally:
            if not is_lost:  # else nothing is asked of what may be dead, too: Ray's processes end with this one
                ray_serve.delete(_APPLICATION)
                if not ray_serve.status().applications:
                    ray_serve.shutdown()


@contextmanager
def environment_of(config: ServeConfig, run: Run) -> Iterator[None]:
    """What a Ray that is started within inherits, so that `serving` there is as fast as alone. Nothing for others."""
    if is_shared(run.cluster):
        log.info("Ray runs already: how requests reach replicas is what its nodes were started with")
    if is_shared(run.cluster) or is_connected():
        yield
        return
    with environment(STEADY), fast_path() if config.high_throughput else nullcontext():
        yield


def _wait_for_routes(url: str) -> None:
    """Serve calls an application ready a moment before its proxy knows the way to it. Raises TimeoutError."""
    deadline = time.monotonic() + _ROUTES_TIMEOUT_S
    while not (said := _health(url))[0]:
        if time.monotonic() > deadline:
            raise TimeoutError(
                f"{url}/healthz: no answer of the application within {_ROUTES_TIMEOUT_S} s, got {said[1]!r}; "
                "if Serve ran on this cluster already, it kept its own host and port"
            )
        time.sleep(0.1)


def _watch(url: str, lost_after_s: float, stop: threading.Event) -> None:
    """Looks every second until it is to stop. Raises EndpointLostError after so many seconds without an answer."""
    answered_s, is_told = time.monotonic(), True
    while not stop.wait(_LOOK_S):
        answers, said = _health(url)
        silent_s = time.monotonic() - answered_s
        if answers:
            if not is_told:
                log.info("%s answers again, after %.0f s", url, silent_s)
            answered_s, is_told = time.monotonic(), True
        elif silent_s > lost_after_s:
            raise EndpointLostError(
                f"{url}/healthz has not answered for {silent_s:.0f} s (serve.lost_after_s: {lost_after_s:g}), got "
                f"{said!r}; start the command again, and look at the newest logs of Serve below /tmp/ray"
            )
        elif is_told:
            log.warning("%s does not answer: %r", url, said)
            is_told = False


def _health(url: str) -> tuple[bool, bytes]:
    """Whether the application itself answers, and what was got."""
    try:
        with urllib.request.urlopen(f"{url}/healthz", timeout=10) as answer:
            body = answer.read()
    except urllib.error.HTTPError as error:
        body = error.read()  # the application's own 503 while nothing is published is an answer, too
    except (OSError, http.client.HTTPException) as error:
        body = str(error).encode()
    return body.startswith(b'{"ready"'), body


def _check_token(config: ServeConfig, run: Run) -> None:
    """Replicas of a local cluster inherit this environment: say at once what they would fail on."""
    if run.cluster.address or os.environ.get("RAY_ADDRESS"):
        return
    for key in ("token_env", "admin_token_env"):
        variable = config.app[key]
        if variable and not os.environ.get(variable):
            raise ConfigError(
                f"config.serve.app.{key}: the environment variable {variable} is not set; "
                f'export {variable}="$(openssl rand -hex 32)", or take {key} out to serve without one'
            )


def _check_port(config: ServeConfig, run: Run) -> None:
    """Of this machine alone: on a cluster, the nodes bind it, and Serve may be running there on purpose."""
    if is_shared(run.cluster) or is_connected():  # to a chain's own cluster, on which Serve may run as well
        return
    try:
        found = socket.getaddrinfo(config.host, config.port, type=socket.SOCK_STREAM)
        for family, kind, _, _, address in found:
            with socket.socket(family, kind) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(address)
    except OSError as error:
        raise ConfigError(
            f"config.serve: {config.host}:{config.port} cannot be listened at ({error.strerror}); "
            "stop what listens there, or choose another by --set serve.port=PORT and serve.host"
        ) from error


def _application(config: ServeConfig, run: Run) -> Any:
    """What serve.app:build makes of `storage.root` and `serve.app`."""
    module, _, builder = BUILDER.partition(":")
    args = importlib.import_module(ARGUMENTS).ServeArgs(root=run.storage.url, **config.app)
    return getattr(importlib.import_module(module), builder)(args)


def sample_curl(url: str, config: ServeConfig) -> str:
    """A command that ranks a few published authors for a user, to paste into a shell."""
    variable, authorization = config.app["token_env"], ""
    request = urllib.request.Request(f"{url}/bank")
    if variable:
        authorization = f'-H "Authorization: Bearer ${variable}" '
        request.add_header("Authorization", f"Bearer {os.environ.get(variable, '')}")
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            bank = json.load(answer)
        body = json.dumps({"user_id": bank["sample_user_ids"][0], "candidates": bank["sample_author_ids"]})
    except (OSError, LookupError) as error:
        log.warning("no bank to rank from yet (%s); publish one, it is picked up by itself", error)
        body = '{"user_id": 1, "candidates": [1, 2, 3]}'
    return f"curl -s {url}/rank -H 'content-type: application/json' {authorization}-d {shlex.quote(body)}"
