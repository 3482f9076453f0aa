"""Trains the retrieval model of LARM (2.2) on clicks, by Ray Train: who was shown what, with what was on screen then.

Reads examples, segment_embeddings, users and authors; with `towers.codes`, also the codes in the histories of examples.
Publishes the artifact "towers". Workers share the lives of their clicks as negatives.
Run: python -m pipelines towers --config my.yaml
"""

import logging
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from models.artifacts.towers import Towers
from pipelines.ranking.checkpoint import Progress, read_progress
from pipelines.ranking.on_ray import fitted, places
from pipelines.retrieval.tower_loop import fit
from pipelines.retrieval.towers_plan import TowersConfig, TowersPlan, make_plan
from pipelines.runtime.cluster import connected
from pipelines.runtime.run import Run
from pipelines.runtime.shared import require_shared
from pipelines.runtime.watch import require
from pipelines.tables.artifacts import Artifacts
from pipelines.tables.fingerprint import digest

log = logging.getLogger(__name__)


def run(config: TowersConfig, run: Run) -> dict[str, Any]:
    """Trains and publishes towers where those in use were made from something else."""
    require(config.watch)
    artifacts = Artifacts(run.storage)
    plan, made_from = make_plan(config, run)
    run_id = f"{plan.days[-1]}-{digest(made_from)}"
    if artifacts.current(plan.name) == run_id:
        log.info("%s %s is current", plan.name, run_id)
        return {"kind": plan.name, "run_id": run_id, "how": "current"}
    started = time.perf_counter()
    with connected(run.cluster):
        require_shared(places(config, run, "towers"), config.scaling)
        with artifacts.lease(plan.name):
            figures = _fit(config, run, plan, run_id, artifacts, made_from)
    figures["seconds"] = round(time.perf_counter() - started, 1)
    return {"kind": plan.name, "run_id": run_id, "how": "trained", **figures}


def _fit(
    config: TowersConfig,
    run: Run,
    plan: TowersPlan,
    run_id: str,
    artifacts: Artifacts,
    made_from: Mapping[str, str],
) -> dict[str, Any]:
    """One run of Ray Train, and the publication of its last checkpoint."""
    with fitted(fit, config, run, plan, f"{plan.name}-{run_id}", made_from) as (checkpoint, ended):
        progress = read_progress(checkpoint)
        if plan.next_key(progress) is not None:
            raise RuntimeError(f"the checkpoint of {run_id} ends after {progress.done}")
        with tempfile.TemporaryDirectory() as scratch:
            Towers.load(checkpoint).save(Path(scratch))  # without what only training needs
            artifacts.publish(plan.name, Path(scratch), run_id, made_from)
    return figures_of(plan, progress) | ended


def figures_of(plan: TowersPlan, progress: Progress) -> dict[str, Any]:
    """How training went. `gate` is the mean weight of the content in the clicked lives of the last epoch; the paper
    has 0.35, and 0.47 with codes."""
    ends = np.array([0, *(of["step"] for of in progress.curve)])
    is_last = ends[1:] > plan.num_steps * (plan.epochs - 1) / plan.epochs
    gates = np.array([of["gate"] for of in progress.curve])
    return {
        "days": list(plan.days),
        "clicks": sum(plan.rows),
        "steps": progress.step,
        "loss": progress.curve[-1]["loss"],
        "gate": float(np.average(gates[is_last], weights=np.diff(ends)[is_last])),
        "loop_seconds": round(progress.seconds, 1),
        "waited_seconds": round(progress.waited_s, 1),
        "clicks_per_s": round(progress.examples / progress.seconds, 1),
        "curve": progress.curve,
    }
