"""The fast path's environment, and what becomes of HAProxy's configuration."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pipelines.serving import haproxy
from pipelines.serving.fast_path import environment, fast_path
from pipelines.serving.haproxy import UNAVAILABLE, of_twin, on_loopback, unavailable

CONFIG = """global
    stats socket /tmp/admin.sock mode 666 level admin
    stats timeout 30s
frontend prometheus
    bind :9101
frontend http_frontend
    bind *:8000
backend default_backend
    http-request return status 404 content-type text/plain lf-string "Path \\'%[path]\\' not found. Ping /-/routes."
backend ranking
    server one 10.0.0.7:9101 check
listen stats
  bind *:8404
"""


def test_the_ports_named_are_bound_to_this_machine_and_no_others() -> None:
    changed = on_loopback(CONFIG, [8404, 9101])
    assert [line.split()[1] for line in changed.splitlines() if "bind" in line] == [
        "127.0.0.1:9101",
        "*:8000",
        "127.0.0.1:8404",
    ]
    assert "server one 10.0.0.7:9101 check" in changed and on_loopback(changed, [8404, 9101]) == changed


def started(config: Path) -> list[str]:
    """What is started in HAProxy's place, by its arguments."""
    command = [
        sys.executable,
        "-I",
        "-S",
        haproxy.__file__,
        "/bin/echo",
        "8404,9101",
        "-db",
        "-dR",
        "-f",
        str(config),
        "-sf",
        "7",
    ]
    return sorted(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines())


def test_it_becomes_haproxy_with_a_twin_that_takes_over_from_the_twin_before(tmp_path: Path) -> None:
    config, twin = tmp_path / "haproxy.cfg", tmp_path / "twin.cfg"
    config.write_text(CONFIG)
    left = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)", str(twin)])
    try:
        assert started(config) == sorted([f"-db -f {config} -sf 7", f"-db -f {twin} -sf {left.pid}"])
    finally:
        left.kill()
        left.wait()
    assert started(config) == sorted([f"-db -f {config} -sf 7", f"-db -f {twin}"])
    assert "bind 127.0.0.1:8404" in config.read_text() and "bind *:8000" in config.read_text()
    assert "bind *:8000" in twin.read_text() and "8404" not in twin.read_text()
    assert (tmp_path / "500.http").read_bytes() == UNAVAILABLE.encode()


def test_one_that_knows_no_replica_does_not_listen_and_leaves_the_twin_before(tmp_path: Path) -> None:
    config = tmp_path / "haproxy.cfg"
    config.write_text(CONFIG.replace("server one", "# server one"))
    assert started(config) == [f"-db -f {config} -sf 7"]
    assert "bind *:8000" not in config.read_text() and "bind 127.0.0.1:8404" in config.read_text()


def test_the_twin_has_the_same_door_and_replicas_and_nothing_that_there_can_be_once() -> None:
    twin = of_twin(CONFIG)
    assert "stats" not in twin.replace("stats timeout", "") and "bind :9101" not in twin
    assert [line for line in CONFIG.splitlines() if line not in twin] == [
        "    stats socket /tmp/admin.sock mode 666 level admin",
        "frontend prometheus",
        "    bind :9101",
        "listen stats",
        "  bind *:8404",
    ]


def test_where_no_replica_answers_it_says_so_as_the_application_would() -> None:
    assert r'return status 503 content-type application/json hdr retry-after 1 string "{\"detail\"' in unavailable(
        CONFIG
    )
    head, _, body = UNAVAILABLE.partition("\r\n\r\n")
    assert head.startswith("HTTP/1.1 503 ") and f"Content-Length: {len(body)}" in head and "Retry-After: 1" in head
    assert list(json.loads(body)) == ["detail"]


def test_two_runs_get_ports_and_files_of_their_own_and_leave_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("RAY_SERVE")]:
        monkeypatch.delenv(name)
    found = []
    for _ in range(2):
        with fast_path():
            found.append({name: value for name, value in os.environ.items() if name.startswith("RAY_SERVE")})
            folder = Path(found[-1]["RAY_SERVE_HAPROXY_BINARY_PATH"]).parent
            assert folder.stat().st_mode & 0o077 == 0
            version = subprocess.run([found[-1]["RAY_SERVE_HAPROXY_BINARY_PATH"]], capture_output=True, text=True)
            assert version.returncode != 0  # it wants Serve's arguments
        assert not folder.exists()
    own = [name for name in found[0] if found[0][name] != found[1][name]]
    assert {name.rpartition("_")[2] for name in own} >= {"PORT", "PATH", "LOC", "FILE", "BASE"}
    assert found[0]["RAY_SERVE_ENABLE_HA_PROXY"] == found[0]["RAY_SERVE_THROUGHPUT_OPTIMIZED"] == "1"
    assert not [name for name in os.environ if name.startswith("RAY_SERVE")]


def test_a_variable_that_is_set_already_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_SERVE_HAPROXY_NBTHREAD", "3")
    with environment({"RAY_SERVE_HAPROXY_NBTHREAD": "1", "RAY_SERVE_OTHER": "2"}):
        assert (os.environ["RAY_SERVE_HAPROXY_NBTHREAD"], os.environ["RAY_SERVE_OTHER"]) == ("3", "2")
    assert os.environ["RAY_SERVE_HAPROXY_NBTHREAD"] == "3" and "RAY_SERVE_OTHER" not in os.environ
