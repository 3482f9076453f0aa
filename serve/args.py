"""Arguments of the deployments, checked without starting them: no Ray and no torch is imported here."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from models.online.config import StoreConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class WatchConfig:
    """How a deployment follows the published bank."""

    poll_s: float = 2.0
    """Seconds between two looks at CURRENT and the deltas of the bank in use."""
    retry_refused_s: float = 300.0
    """Seconds after which a version that did not fit is tried again (it may have been repaired in place)."""

    def __post_init__(self) -> None:
        if self.poll_s <= 0 or self.retry_refused_s < 0:
            raise ValueError(f"poll_s must be > 0 and retry_refused_s >= 0, got {self}")


Weight = Annotated[float, Field(ge=-100, le=100, allow_inf_nan=False)]


def fusion_weights(weights: Mapping[str, float], tasks: Sequence[str]) -> npt.NDArray[np.float64]:
    """Exponents [K] of the fused score, the product over tasks of (1 + probability) ** weight; 1 where not named.

    Raises ValueError for the weight of a task that the ranker does not have, and where all are 0.
    """
    if unknown := [task for task in weights if task not in tasks]:
        raise ValueError(
            f"weights: {', '.join(unknown)} is no task of the ranker; it has {', '.join(tasks)}; name those"
        )
    found = np.array([weights.get(task, 1.0) for task in tasks], dtype=np.float64)
    if not found.any():
        raise ValueError(f"weights: wanted one that is not 0, got 0 for all of {', '.join(tasks)}")
    return found


@dataclass(frozen=True, kw_only=True, slots=True)
class AdmissionConfig:
    """What is let in, and when: bounds in front of the routes, for each replica."""

    max_body_bytes: int = 1 << 20
    """Larger bodies are answered 413. 1 MiB is twice the largest `/rank` that the schema allows."""
    body_timeout_s: float = 1.0
    """Bodies that are not whole after this are answered 408."""
    max_bodies: int = 1024
    """Bodies that are read at once; beyond, the oldest that is not whole is answered 408."""
    max_wait_s: float = 0.5
    """Requests that would wait longer for their turn at ranking are answered 503 at once."""
    max_waiting: int = 1024
    """So are those beyond this many that wait."""

    def __post_init__(self) -> None:
        if min(self.max_body_bytes, self.max_bodies, self.max_waiting) < 1:
            raise ValueError(f"max_body_bytes, max_bodies and max_waiting must be >= 1, got {self}")
        if min(self.body_timeout_s, self.max_wait_s) <= 0:
            raise ValueError(f"body_timeout_s and max_wait_s must be > 0, got {self}")


@dataclass(frozen=True, kw_only=True, slots=True)
class TelemetryConfig:
    """What is told of requests, beside the metrics."""

    access_log: bool = False
    """A line of JSON for each request, without its content, in the replica's log."""
    otlp: str | None = None
    """Collector of OpenTelemetry for a span of each request, such as http://collector:4318; null = none."""


class ServeArgs(BaseModel):
    """Arguments of `build`: `key=value` behind `serve run`, `args` in serve/config.yaml, `serve.app` of a run."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    root: str
    """Storage root, a folder or a URL (s3://, gs://): artifacts are read from <root>/artifacts."""
    cache_dir: str | None = None
    """Where each node keeps versions of a remote root; null = its temporary folder."""
    watch: WatchConfig = WatchConfig()
    """How the published bank is followed."""
    lookup: Literal["local", "remote"] = "local"
    """Where the ranker finds vectors: in its own mapping, or at the author cache, for banks larger than a node."""
    lookup_timeout_s: float = Field(default=0.2, gt=0)
    """After this a remote lookup is given up, and the request is answered with cold-start vectors and `degraded`."""
    weights: dict[str, Weight] = {}
    """How the tasks become one score: task -> exponent of (1 + its probability); 1 for tasks that are not named."""
    admission: AdmissionConfig = AdmissionConfig()
    """What is let in, and when."""
    telemetry: TelemetryConfig = TelemetryConfig()
    """What is told of requests, beside the metrics."""
    store: StoreConfig = StoreConfig()
    """What users do now and which lives are on air: POST /events and POST /lives fill it, /rank reads it. Every replica
    reads and writes it; one that is embedded is of one node, so that with replicas on several it has to be redis."""
    token_env: str | None = None
    """Environment variable that holds the bearer token to ask with; null = open to all that reach the port."""
    admin_token_env: str | None = None
    """Environment variable that holds the bearer token to send events with, and to choose models. Where others are
    asked for and this is not, nobody can."""
    tokens_file: str | None = None
    """File on every node with a line for each further token: `rank sha256:HEX` or `admin sha256:HEX`."""
    replicas: int = Field(default=1, ge=1)
    """Replicas of the ranker."""
    num_cpus: float = Field(default=1.0, ge=0)
    """Logical CPUs of each of them."""
    threads: int = Field(default=1, ge=1)
    """With `lookup: remote`, requests that a replica ranks at once, most of the time waiting for vectors. Otherwise one
    after another; take more replicas for more cores."""
    author_replicas: int = Field(default=1, ge=1)
    """Replicas of the author cache."""
    author_num_cpus: float = Field(default=0.5, ge=0)
    """Logical CPUs of each of them."""


def resolved(given: Mapping[str, Any]) -> dict[str, Any]:
    """Every argument but root: those given, and the others' defaults. Raises ValueError that names each wrong key."""
    try:
        args = ServeArgs.model_validate({"root": "", **given})
    except ValidationError as error:
        raise ValueError("; ".join(_explained(item) for item in error.errors())) from error
    return args.model_dump(exclude={"root"})


def _explained(item: Mapping[str, Any]) -> str:
    *sections, _ = path = item["loc"]
    key = ".".join(map(str, path))
    if item["type"] not in ("extra_forbidden", "unexpected_keyword_argument"):
        return f"{key}: {item['msg']}, got {item['input']!r}"
    section: Any = ServeArgs
    for name in sections:
        section = section.__annotations__[name]
    return f"unknown key {key}; valid keys are {', '.join(name for name in section.__annotations__ if name != 'root')}"
