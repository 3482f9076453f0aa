"""Job `loadtest`: what an endpoint holds, as a table, JSON, and a page with a figure.

Steps of a rate (open loop), or of clients who wait for their answers (closed loop). Reads the ids to ask for from what
is published below `storage.root`, or requests from a file; writes into `run_dir` alone.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from models.artifacts.store import ArtifactStore
from models.catalog import Catalog
from models.config import PathText
from pipelines.runtime.config import ConfigError
from pipelines.runtime.run import Run
from pipelines.runtime.verdict import JobError
from pipelines.serving.client import Client
from pipelines.serving.offered import Endpoint, Recorded, Step, offer

log = logging.getLogger(__name__)
PAGE = "loadtest.html"
"""In run_dir."""
_COLUMNS = "step requests ok shed failed ok_per_s p50_ms p95_ms p99_ms max_ms shed_p99_ms".split()
_SLOW_CLIENT_MS = 10.0
_LINES_EVERY_S = 30.0


class TooSlowError(JobError):
    """The endpoint did not hold what was asked of it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LoadtestConfig:
    """Which load, and what must hold under it."""

    url: str = "http://127.0.0.1:8000"
    """The endpoint."""
    token_env: str | None = None
    """Environment variable that holds the token to ask with; null = none is asked for."""
    rates: tuple[float, ...] = (20.0, 50.0, 100.0)
    """Requests a second, one step after another: a ramp, or a soak where it is one. Ignored with `clients`."""
    clients: tuple[int, ...] = ()
    """Closed loop instead: so many clients who each send the next request when the last is answered."""
    seconds: float = 20.0
    """Of each step."""
    warm_up_s: float = 2.0
    """Before the first step, with one client; not counted."""
    candidates: int = 100
    """Authors of each request, drawn by chance from those that are published."""
    users: int = 256
    """Users who ask, drawn by chance, one request each; the requests come in turn."""
    requests: PathText | None = None
    """File with one body of POST /rank in each line, instead of those drawn."""
    timeout_s: float = 10.0
    """After this a request has failed."""
    max_open: int = 1000
    """Connections at once."""
    max_p99_ms: float | None = None
    """Most that the p99 of any step may be, else the job fails; null = any."""
    max_failed: float = 1.0
    """Largest share of requests of any step that may fail or be shed, else the job fails."""

    def __post_init__(self) -> None:
        steps = self.clients or self.rates
        if not steps or min(steps) <= 0 or self.seconds <= 0:
            raise ValueError(f"wanted rates or clients > 0, and seconds > 0, got {steps} for {self.seconds} s")
        if min(self.candidates, self.users, self.max_open) < 1 or min(self.timeout_s, self.warm_up_s) < 0:
            raise ValueError(f"wanted candidates, users, max_open >= 1 and no negative seconds, got {self}")

    @property
    def steps(self) -> list[Step]:
        """What the load is made of."""
        if self.clients:
            return [Step(seconds=self.seconds, clients=clients) for clients in self.clients]
        return [Step(seconds=self.seconds, rate=rate) for rate in self.rates]


def run(config: LoadtestConfig, run: Run) -> dict[str, Any]:
    """Offers the load, prints the table, writes the page. Raises TooSlowError where what must hold does not."""
    from pipelines.serving.loadtest_page import page_of  # with matplotlib, which other jobs need not wait for

    token = _token(config.token_env)
    _check_ready(config.url, token)
    bodies = _given(Path(config.requests)) if config.requests else _drawn(config, run)
    recorded = asyncio.run(_offered(config, token, bodies, run.seed))
    rows = [step.figures() for step in recorded]
    for line in _table(rows):
        log.info("%s", line)
    page_of(config.url, recorded, rows, run.folder / PAGE)
    log.info("figure: %s", run.folder / PAGE)
    _check(config, rows)
    return {"loadtest/url": config.url, "loadtest/steps": rows}


async def _offered(config: LoadtestConfig, token: str | None, bodies: list[bytes], seed: int) -> list[Recorded]:
    headers = {"authorization": f"Bearer {token}"} if token else {}
    endpoint = Endpoint(
        url=f"{config.url.rstrip('/')}/rank", headers=headers, timeout_s=config.timeout_s, max_open=config.max_open
    )
    if config.warm_up_s:
        await offer(endpoint, [Step(seconds=config.warm_up_s, clients=1)], bodies)
    total = sum(step.seconds for step in config.steps)
    recorded: list[Recorded] = []
    for step in config.steps:
        ticking = asyncio.create_task(_tell(step.name, total - len(recorded) * config.seconds))
        try:
            recorded += await offer(endpoint, [step], bodies, seed)
        finally:
            ticking.cancel()
    return recorded


async def _tell(step: str, left_s: float) -> None:
    """A line now and then, for a soak."""
    while True:
        log.info("%s | eta %.0f s", step, max(0.0, left_s))
        await asyncio.sleep(_LINES_EVERY_S)
        left_s -= _LINES_EVERY_S


def _token(variable: str | None) -> str | None:
    if variable is None:
        return None
    token = os.environ.get(variable)
    if not token:
        raise ConfigError(f"config.loadtest.token_env: the environment variable {variable} is not set; export it")
    return token


def _check_ready(url: str, token: str | None) -> None:
    try:
        with Client(url, token) as client:
            client.health()
    except (OSError, RuntimeError) as error:
        raise ConfigError(
            f"config.loadtest.url {url}: wanted an endpoint that is ready, got: {error}; start one with: "
            "python -m pipelines serve --config pipelines/configs/serve.yaml"
        ) from error


def _drawn(config: LoadtestConfig, run: Run) -> list[bytes]:
    """Requests of published users for published authors."""
    store = ArtifactStore.open(run.storage.url)
    manifest = store.manifest("bank")
    catalog = Catalog.load(
        store.fetch(manifest.made_from["ranker"], manifest.made_from["model"]) / "catalog.safetensors"
    )
    rng = np.random.default_rng(run.seed)
    size = min(config.candidates, catalog.num_authors)
    if size < config.candidates:
        log.warning("only %d authors are published: requests have so many candidates", size)
    users = rng.choice(catalog.user_ids, config.users)
    asked = [{"user_id": int(u), "candidates": rng.choice(catalog.author_ids, size, False).tolist()} for u in users]
    return [json.dumps(request).encode() for request in asked]


def _given(path: Path) -> list[bytes]:
    try:
        bodies = [line for line in path.read_bytes().splitlines() if line.strip()]
    except OSError as error:
        raise ConfigError(f"config.loadtest.requests {path}: wanted a file, got: {error.strerror}") from error
    for number, body in enumerate(bodies, start=1):
        try:
            json.loads(body)
        except ValueError as error:
            raise ConfigError(f"config.loadtest.requests {path}, body {number}: wanted JSON, got: {error}") from error
    if not bodies:
        raise ConfigError(f"config.loadtest.requests {path}: wanted a body in each line, got an empty file")
    return bodies


def _table(rows: list[dict[str, Any]]) -> list[str]:
    cells = [list(_COLUMNS)] + [["-" if row[name] is None else str(row[name]) for name in _COLUMNS] for row in rows]
    widths = [max(len(row[i]) for row in cells) for i in range(len(_COLUMNS))]
    return ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in cells]


def _check(config: LoadtestConfig, rows: list[dict[str, Any]]) -> None:
    """A client that could not keep up is told, a server that could not fails the job where the config says so."""
    for row in rows:
        late = row["client_late_p99_ms"] or 0.0
        if late > _SLOW_CLIENT_MS:
            log.warning(
                "%s: this client came %.0f ms late (p99): its machine is too busy for the load", row["step"], late
            )
        missed = (row["requests"] - row["ok"]) / max(1, row["requests"])
        if missed > config.max_failed:
            raise TooSlowError(
                f"{row['step']}: wanted at most {config.max_failed:.2%} failed or shed, got {missed:.2%}"
            )
        if config.max_p99_ms is not None and (row["p99_ms"] is None or row["p99_ms"] > config.max_p99_ms):
            raise TooSlowError(f"{row['step']}: wanted p99 of at most {config.max_p99_ms} ms, got {row['p99_ms']}")
