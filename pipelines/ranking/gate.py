"""What a ranker must show before it is served: its evaluation, kept as an artifact, and the rule that judges it.

The bank's CURRENT is what is served, and names its model and its evaluation, so that the three go out together. A
ranker that is trained and not let through stays beside the one that is served.
"""

import json
import logging
import math
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from models.artifacts.manifest import ArtifactError
from pipelines.tables.artifacts import Artifacts
from pipelines.tables.fingerprint import digest

log = logging.getLogger(__name__)
KIND = "evaluation"
RULES = ("served", "floor", "off")
_FILE = "evaluation.json"
_BANK = "bank"
Metrics = Mapping[str, Mapping[str, float]]
"""By task: auc, gauc."""


@dataclass(frozen=True, kw_only=True, slots=True)
class GateConfig:
    """When a bank is published."""

    rule: str = "served"
    """served: the ranker's GAUC on the evaluated day is not below that of the one which is served, on the same day, by
    more than `tolerance`; floor: it is at least `floor`; off: nothing is judged."""
    task: str | None = None
    """The task that is judged; null = the first one."""
    tolerance: float = 0.01
    """How far below the served one a ranker may be: a day's GAUC is not exact."""
    floor: float = 0.5
    """Least GAUC, with rule: floor. 0.5 is chance."""

    def __post_init__(self) -> None:
        if self.rule not in RULES:
            raise ValueError(f"rule: wanted one of {', '.join(RULES)}, got {self.rule!r}")
        if self.tolerance < 0 or not 0 <= self.floor <= 1:
            raise ValueError(f"wanted tolerance >= 0 and floor in 0..1, got {self.tolerance} and {self.floor}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Judged:
    """One version of a ranker, as it was measured."""

    ranker: str
    run_id: str
    metrics: Metrics


@dataclass(frozen=True, kw_only=True, slots=True)
class Evaluation:
    """What the job evaluate found out on one day."""

    day: str
    rankers: tuple[Judged, ...]
    """The newest version of each ranker."""
    served: Judged | None
    """The version that was served then, where it is another and was not trained on that day."""

    def publish(self, artifacts: Artifacts) -> None:
        """Makes it the newest evaluation."""
        made_from = {judged.ranker: judged.run_id for judged in self.rankers}
        content = json.dumps(asdict(self), indent=1, sort_keys=True)
        with tempfile.TemporaryDirectory() as scratch:
            (Path(scratch) / _FILE).write_text(content, encoding="utf-8")
            artifacts.publish(KIND, Path(scratch), f"{self.day}-{digest(content)}", made_from)

    @classmethod
    def load(cls, folder: Path) -> "Evaluation":
        """What `publish` wrote."""
        raw = json.loads((folder / _FILE).read_text(encoding="utf-8"))
        served = raw["served"] and Judged(**raw["served"])
        return cls(day=raw["day"], rankers=tuple(Judged(**judged) for judged in raw["rankers"]), served=served)


def served_version(artifacts: Artifacts) -> tuple[str, str] | None:
    """(ranker, run id) of the model that the published bank names; None where no bank is published."""
    if artifacts.current(_BANK) is None:
        return None
    made_from = artifacts.verified(_BANK, without="")[1].made_from
    return made_from["ranker"], made_from["model"]


def judge(config: GateConfig, artifacts: Artifacts, ranker: str, run_id: str) -> dict[str, Any]:
    """What lets a version of a ranker through: {rule, evaluation, and the figures compared}.

    Raises ArtifactError where the rule does not, or where the version was not evaluated.
    """
    if config.rule == "off":
        return {"rule": "off"}
    version = artifacts.current(KIND)
    evaluation = Evaluation.load(artifacts.fetch(KIND)) if version else None
    rankers = evaluation.rankers if evaluation else ()
    judged = next((judged for judged in rankers if (judged.ranker, judged.run_id) == (ranker, run_id)), None)
    if evaluation is None or judged is None:
        shown = ", ".join(f"that of {judged.ranker} {judged.run_id}" for judged in rankers) or "none"
        raise ArtifactError(
            f"publish.gate: wanted an evaluation of {ranker} {run_id}, got {shown}; run the job evaluate, or publish "
            "it unjudged with --set publish.gate.rule=off"
        )
    task = config.task or next(iter(judged.metrics))
    gauc, other = _gauc(judged, task), evaluation.served
    if config.rule == "floor" or other is None:
        least, against = (config.floor if config.rule == "floor" else 0.0), config.rule
    else:
        least, against = _gauc(other, task) - config.tolerance, f"{other.ranker} {other.run_id}"
    if math.isnan(gauc) or gauc < least:
        raise ArtifactError(
            f"publish.gate: wanted a {task} GAUC of at least {least:.4f} on {evaluation.day} ({against}), got "
            f"{gauc:.4f} for {ranker} {run_id}; what is served stays; look at the day's tables, or publish it all the "
            "same with --set publish.gate.rule=off"
        )
    log.info("gate | %s GAUC %.4f on %s, wanted %.4f (%s)", task, gauc, evaluation.day, least, against)
    return {"rule": config.rule, "evaluation": version, "task": task, "gauc": gauc, "least": least, "against": against}


def _gauc(judged: Judged, task: str) -> float:
    if task not in judged.metrics:
        raise ArtifactError(
            f"publish.gate.task: wanted a task of {judged.ranker} ({', '.join(judged.metrics)}), got {task!r}"
        )
    return judged.metrics[task]["gauc"]
