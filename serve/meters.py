"""Metrics through Ray, which every node exports for Prometheus."""

from __future__ import annotations

from typing import Any

from ray.serve.metrics import Counter, Gauge, Histogram

from serve.observe import METRICS, Metric


class RayMeter:
    """The metrics of a replica; Ray tags them with its deployment and its own name."""

    def __init__(self) -> None:
        self._metrics: dict[str, Any] = {name: _made(name, metric) for name, metric in METRICS.items()}

    def count(self, name: str, value: float = 1.0, **tags: str) -> None:
        """See Meter."""
        if value > 0:  # Ray refuses to add nothing
            self._metrics[name].inc(value, tags=tags)

    def observe(self, name: str, value: float, **tags: str) -> None:
        """See Meter."""
        self._metrics[name].observe(value, tags=tags)

    def set(self, name: str, value: float, **tags: str) -> None:
        """See Meter."""
        self._metrics[name].set(value, tags=tags)


def _made(name: str, metric: Metric) -> Any:
    told = {"description": metric.description, "tag_keys": metric.tags}
    if metric.kind == "histogram":
        return Histogram(name, boundaries=list(metric.boundaries), **told)
    return {"counter": Counter, "gauge": Gauge}[metric.kind](name, **told)
