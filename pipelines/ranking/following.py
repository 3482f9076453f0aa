"""Goes on with a ranker, one time key after another, by days or by windows of seconds. Does not know Ray."""

from collections.abc import Mapping
from pathlib import Path

from models.shard import spread
from pipelines.ranking.by_days import ByDays
from pipelines.ranking.by_windows import ByWindows
from pipelines.ranking.checkpoint import Progress, folder_after
from pipelines.ranking.fit import Report, go_through
from pipelines.ranking.follow_plan import FollowPlan
from pipelines.ranking.loop import LogLine
from pipelines.ranking.worker import Worker
from pipelines.runtime.watch import Watch, unwatched
from pipelines.tables.artifacts import Artifacts
from pipelines.tables.storage import Storage


def follow(
    plan: FollowPlan,
    storage: Storage,
    made_from: Mapping[str, str],
    *,
    work: Path,
    worker: Worker,
    report: Report,
    log_line: LogLine,
    watch: Watch = unwatched,
    resume: Path | None = None,
) -> Progress:
    """Goes through the keys of the plan, from its state or from the checkpoint `resume` of a run that died.

    Every worker calls this with its own `worker`; the first one leaves a checkpoint below `work` at each report.
    """
    state = resume or (None if plan.state is None else Artifacts(storage).fetch(*plan.state))
    learner = ByDays if plan.window_ms is None else ByWindows
    with spread(worker.shard):  # which also holds for the tables of a catalog that has grown
        following = learner(plan, storage, made_from, worker, log_line, state)
        following.loop.watch = watch
        progress = following.loop.progress
        if state is not None:
            log_line(f"{plan.name} | goes on from {folder_after(progress)}, {following.catalog.num_authors} authors")
        go_through(following, plan, work, report)
    return following.loop.progress
