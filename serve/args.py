"""Arguments of the deployments, checked without starting them: no Ray and no torch is imported here."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from models import TASKS


@dataclass(frozen=True, kw_only=True, slots=True)
class WatchConfig:
    """How a deployment follows the published bank."""

    poll_s: float = 5.0
    """Seconds between two looks at CURRENT."""
    retry_refused_s: float = 300.0
    """Seconds after which a version that did not fit is tried again (it may have been repaired in place)."""

    def __post_init__(self) -> None:
        if self.poll_s <= 0 or self.retry_refused_s < 0:
            raise ValueError(f"poll_s must be > 0 and retry_refused_s >= 0, got {self}")


@dataclass(frozen=True, kw_only=True, slots=True)
class FusionWeights:
    """Exponents of the fused score: the product over tasks of (1 + probability) ** weight."""

    click: float = 1.0
    """Weight of a click."""
    follow: float = 1.0
    """Weight of a follow."""
    long_view: float = 1.0
    """Weight of a long view."""
    gift: float = 1.0
    """Weight of a gift."""

    def __post_init__(self) -> None:
        weights = self.in_order
        if not np.isfinite(weights).all() or max(abs(weights)) > 100 or not weights.any():
            raise ValueError(f"fusion weights must be within -100..100 and not all 0, got {self}")

    @property
    def in_order(self) -> npt.NDArray[np.float64]:
        """[K], in the order of TASKS."""
        return np.array([getattr(self, task) for task in TASKS], dtype=np.float64)


@dataclass(frozen=True, kw_only=True, slots=True)
class ApiConfig:
    """Limits in front of the routes."""

    max_body_bytes: int = 1 << 20
    """Larger bodies are answered 413. 1 MiB is twice the largest request that the schema allows."""

    def __post_init__(self) -> None:
        if self.max_body_bytes < 1:
            raise ValueError(f"max_body_bytes must be >= 1, got {self.max_body_bytes}")


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
    weights: FusionWeights = FusionWeights()
    """How the tasks become one score."""
    api: ApiConfig = ApiConfig()
    """Limits in front of the routes."""
    token_env: str | None = None
    """Environment variable that holds the bearer token of all requests; null = open to all that reach the port."""
    replicas: int = Field(default=1, ge=1)
    """Replicas of the ranker."""
    num_cpus: float = Field(default=1.0, ge=0)
    """Logical CPUs of each of them."""
    threads: int = Field(default=1, ge=1)
    """Requests that a replica ranks at once, each on one thread of torch."""
    author_replicas: int = Field(default=1, ge=1)
    """Replicas of the author cache."""
    author_num_cpus: float = Field(default=0.5, ge=0)
    """Logical CPUs of each of them."""
    max_ongoing_requests: int = Field(default=16, ge=1)
    """Requests inside one replica, those that wait for a thread included."""
    max_queued_requests: int = Field(default=64, ge=0)
    """Requests that each proxy keeps waiting for a replica; those beyond are answered 503 with Retry-After."""


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
