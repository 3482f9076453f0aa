"""Goes on with the published rankers where there are new days of examples: each day is scored, then learnt, once.

So a run costs its days, however many came before. Publishes each ranker, what it goes on from, and an evaluation of the
newest day, by which the job publish judges. Reads the section `train`; without a published ranker it begins with a new
one at the oldest day.
Run: python -m pipelines follow --config my.yaml
"""

import logging
import time
from collections.abc import Mapping
from typing import Any

from pipelines.ranking import gate
from pipelines.ranking.checkpoint import read_progress, state_kind
from pipelines.ranking.follow_plan import FollowPlan, make_follow_plan
from pipelines.ranking.following import follow
from pipelines.ranking.on_ray import fitted, forget, places
from pipelines.ranking.plan import TrainConfig
from pipelines.ranking.train import publish_ranker
from pipelines.runtime.cluster import connected
from pipelines.runtime.run import Run
from pipelines.runtime.shared import require_shared
from pipelines.runtime.watch import require
from pipelines.tables.artifacts import Artifacts
from pipelines.tables.fingerprint import digest

log = logging.getLogger(__name__)


def run(config: TrainConfig, run: Run) -> dict[str, Any]:
    """Follows every ranker of the configuration."""
    artifacts = Artifacts(run.storage)
    require(config.watch)
    metrics: dict[str, Any] = {"rankers": {}}
    judged = []
    for sources in config.rankers:
        plan, made_from = make_follow_plan(config, run, artifacts, sources)
        if not plan.keys:
            metrics["rankers"][plan.name] = _nothing_new(plan, artifacts)
            continue
        started = time.perf_counter()
        with connected(run.cluster), artifacts.lease(plan.name):
            require_shared(places(config, run), config.scaling)
            run_id = f"{plan.keys[-1]}-{digest(made_from)}"
            figures = _follow(config, run, plan, run_id, artifacts, made_from)
        metrics["rankers"][plan.name] = figures | {"seconds": round(time.perf_counter() - started, 1)}
        if figures["judged"] and figures["judged"][-1]["key"] == plan.keys[-1]:
            tasks = {task: figures["judged"][-1][task] for task in plan.ranker.tasks}
            judged.append(gate.Judged(ranker=plan.name, run_id=run_id, metrics=tasks))
    if judged:
        gate.Evaluation(day=plan.keys[-1], rankers=tuple(judged), served=None).publish(artifacts)
    return metrics


def _follow(
    config: TrainConfig, run: Run, plan: FollowPlan, run_id: str, artifacts: Artifacts, made_from: Mapping[str, str]
) -> dict[str, Any]:
    """One run of Ray Train; its last checkpoint is published as what to go on from, then as the ranker."""
    name = f"follow-{plan.name}-{run_id}"
    with fitted(follow, config, run, plan, name, made_from, shards_ids=config.shards_ids) as (checkpoint, ended):
        progress = read_progress(checkpoint)
        if plan.next_key(progress) is not None:
            raise RuntimeError(f"the checkpoint of {run_id} ends after {progress.done[-1:]}, before {plan.keys[-1]}")
        artifacts.publish(state_kind(plan.name), checkpoint, run_id, made_from)
        publish_ranker(checkpoint, plan.name, run_id, artifacts, made_from)
    forget(config, run, name)
    artifacts.keep_newest(state_kind(plan.name), config.follow.keep_states)
    return {
        "run_id": run_id,
        "how": "followed" if plan.state else "begun",
        "days": list(plan.keys),
        "judged": [of for of in progress.judged if of["key"] in plan.keys],
        "steps": progress.step - plan.before.step,
        "examples": progress.examples - plan.before.examples,
        "loop_seconds": round(progress.seconds - plan.before.seconds, 1),
        "waited_seconds": round(progress.waited_s - plan.before.waited_s, 1),
        **ended,
    }


def _nothing_new(plan: FollowPlan, artifacts: Artifacts) -> dict[str, Any]:
    """Publishes the ranker of a state whose run died before it did."""
    current = artifacts.current(plan.name)
    if plan.state is not None and plan.state[0] == state_kind(plan.name) and plan.state[1] != current:
        folder, manifest = artifacts.verified(*plan.state)
        publish_ranker(folder, plan.name, manifest.run_id, artifacts, manifest.made_from)
        return {"run_id": manifest.run_id, "how": "published"}
    log.info("%s %s has learnt every day of examples", plan.name, current)
    return {"run_id": current, "how": "current"}
