"""The job that tests what an endpoint holds."""

import json
import logging
from pathlib import Path
from typing import Any

import pytest

from pipelines.runtime.config import ConfigError
from pipelines.serving import loadtest
from pipelines.serving.loadtest import LoadtestConfig, TooSlowError
from pipelines.settings import Settings
from pipelines.tables.storage import StorageConfig
from tests.pipelines.serving.endpoint import Endpoint
from tests.serve.conftest import AUTHOR_IDS, USER_IDS, Published

SHORT: dict[str, Any] = {"seconds": 0.3, "warm_up_s": 0.1}


def ran(tmp_path: Path, config: LoadtestConfig, root: Path | None = None) -> dict[str, Any]:
    settings = Settings(run_dir=str(tmp_path), storage=StorageConfig(root=str(root or tmp_path)))
    return loadtest.run(config, settings.open())


def bodies(tmp_path: Path, count: int = 4) -> str:
    file = tmp_path / "bodies.jsonl"
    file.write_text("".join(f'{{"n": {n}}}\n\n' for n in range(count)))
    return str(file)


def test_a_ramp_has_a_row_a_step_and_a_page(
    endpoint: Endpoint, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    endpoint.answer = lambda path, body: (200 if path == "/healthz" or body["n"] else 503, {"ready": True})
    caplog.set_level(logging.INFO)
    config = LoadtestConfig(url=endpoint.url, rates=(20.0, 60.0), requests=bodies(tmp_path), **SHORT)
    rows = ran(tmp_path, config)["loadtest/steps"]
    assert [row["step"] for row in rows] == ["20/s", "60/s"]
    assert all(row["shed"] + row["ok"] == row["requests"] for row in rows)
    assert sum(row["shed"] for row in rows) > 0
    lines = [line.split() for line in caplog.text.splitlines()]
    for row in rows:
        assert any(row["step"] in line and str(row["requests"]) in line and str(row["shed"]) in line for line in lines)
    page = (tmp_path / "loadtest.html").read_text()
    assert page.count("<svg") == 2 and endpoint.url in page
    for row in rows:
        assert f'<th scope="row">{row["step"]}</th><td class="n">{row["requests"]}</td>' in page


def test_what_must_hold_fails_the_job(endpoint: Endpoint, tmp_path: Path) -> None:
    endpoint.answer = lambda path, body: (200 if path == "/healthz" or body["n"] else 500, {})
    config: dict[str, Any] = {"url": endpoint.url, "clients": (1,), "requests": bodies(tmp_path), **SHORT}
    with pytest.raises(TooSlowError, match="1 clients: wanted at most 5.00% failed or shed, got 2"):
        ran(tmp_path, LoadtestConfig(max_failed=0.05, **config))
    with pytest.raises(TooSlowError, match="1 clients: wanted p99 of at most 1e-06 ms, got "):
        ran(tmp_path, LoadtestConfig(max_p99_ms=1e-6, **config))
    assert ran(tmp_path, LoadtestConfig(max_failed=0.6, max_p99_ms=1e4, **config))


def test_requests_are_drawn_from_what_is_published(endpoint: Endpoint, tmp_path: Path) -> None:
    Published(tmp_path / "store").publish("a")
    endpoint.answer = lambda path, body: (200, {})
    config = LoadtestConfig(url=endpoint.url, clients=(1,), candidates=3, users=6, **SHORT)
    ran(tmp_path, config, tmp_path / "store")
    asked = [body for _, path, body in endpoint.asked if path == "/rank"]
    for body in asked:
        assert set(body) == {"user_id", "candidates"}
        assert body["user_id"] in USER_IDS
        assert len(set(body["candidates"])) == 3 and set(body["candidates"]) <= set(AUTHOR_IDS)
    assert 1 < len({json.dumps(body) for body in asked}) <= 6


def test_a_token_is_sent(endpoint: Endpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    endpoint.answer = lambda path, body: (200, {})
    monkeypatch.setenv("ASK", "a-token-of-some-length")
    config = LoadtestConfig(url=endpoint.url, clients=(1,), token_env="ASK", requests=bodies(tmp_path), **SHORT)
    ran(tmp_path, config)
    assert {headers.get("authorization") for headers in endpoint.headers} == {"Bearer a-token-of-some-length"}
    monkeypatch.delenv("ASK")
    with pytest.raises(ConfigError, match="token_env: the environment variable ASK is not set"):
        ran(tmp_path, config)


def test_an_endpoint_that_is_not_ready_is_told(endpoint: Endpoint, tmp_path: Path) -> None:
    endpoint.answer = lambda path, body: (503, {"ready": False, "reason": "no bank"})
    with pytest.raises(
        ConfigError, match="wanted an endpoint that is ready, got: .*no bank.*python -m pipelines serve"
    ):
        ran(tmp_path, LoadtestConfig(url=endpoint.url, requests=bodies(tmp_path), **SHORT))


@pytest.mark.parametrize(
    ("content", "said"),
    [(None, "wanted a file, got: No such file"), ("", "got an empty file"), ("{}\n{", "body 2: wanted JSON")],
)
def test_a_file_of_requests_that_is_none(endpoint: Endpoint, tmp_path: Path, content: str | None, said: str) -> None:
    if content is not None:
        (tmp_path / "x.jsonl").write_text(content)
    with pytest.raises(ConfigError, match=f"loadtest.requests .*x.jsonl.*{said}"):
        ran(tmp_path, LoadtestConfig(url=endpoint.url, requests=str(tmp_path / "x.jsonl"), **SHORT))


@pytest.mark.parametrize(
    "wrong", [{"rates": (0.0,)}, {"clients": (-1,)}, {"rates": ()}, {"seconds": 0.0}, {"users": 0}]
)
def test_a_load_that_is_none_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="wanted"):
        LoadtestConfig(**wrong)
