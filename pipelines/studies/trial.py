"""One trial of a study: one variant, one seed, one process.

Trains on one thread, without Ray, and scores the newest day."""

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch

from models.artifacts.manifest import Manifest
from models.batch import collate
from pipelines.ranking import evaluate
from pipelines.ranking.checkpoint import folder_after
from pipelines.ranking.fit import train
from pipelines.ranking.plan import make_plan
from pipelines.ranking.published import advance, load_folder
from pipelines.ranking.worker import Worker
from pipelines.runtime.config import to_dict
from pipelines.runtime.freed_memory import keep_freed_memory
from pipelines.samples.batches import read_examples, take
from pipelines.studies import ablations
from pipelines.studies.config import Variant
from pipelines.studies.trial_cost import peak_memory_gib, trial_cost
from pipelines.tables.artifacts import Artifacts

if TYPE_CHECKING:
    from pipelines.settings import Settings


def run_trial(settings: "Settings", variant: Variant) -> tuple[dict[str, Any], dict[str, npt.NDArray[np.float32]]]:
    """Trains one variant on one thread and measures it on the newest day. Runs inside a Ray task.

    Returns the trial's record and its scores [n, K], in the order of `read_examples`.
    """
    torch.set_num_threads(1)
    keep_freed_memory()
    run = settings.open()
    storage, artifacts = run.storage, Artifacts(run.storage)
    plan, made_from = make_plan(variant.train, run, artifacts, variant.train.sources)
    with tempfile.TemporaryDirectory() as work:
        progress = train(
            plan,
            storage,
            made_from,
            work=Path(work),
            worker=Worker(),
            report=lambda *_: None,
            log_line=lambda _: None,
        )
        peak = peak_memory_gib()
        folder = Path(work) / folder_after(progress)
        # As the job train would publish it, without publishing: evaluation then reads trials and artifacts alike.
        Manifest.create(folder, kind=plan.name, run_id="trial", made_from=made_from)
        ranker = load_folder(folder, plan.name)
        states = ranker.states(storage, artifacts)
    day = evaluate.day_of(settings.evaluate.day, storage)
    columns = read_examples(storage, day, plan.screens)
    scores = evaluate.score_day(ranker, states, day, columns)
    by_model = {"model": scores}
    oracle = None
    if evaluate.has_oracle(storage, day, ranker.tasks):
        by_model["oracle"] = oracle = evaluate.oracle_scores(storage, day, columns, ranker.tasks)
    inputs = advance(states, day)
    some = collate(take(columns, slice(0, plan.batch_size)), ranker.catalog, ranker.tasks)
    record: dict[str, Any] = {
        "kind": plan.name,
        "day": day,
        "plan": to_dict(plan),
        "seconds": progress.seconds,
        "encoded": progress.encoded,
        "parameters": sum(parameter.numel() for parameter in ranker.model.parameters()),
        "cost": trial_cost(ranker.model, some, inputs, progress, peak, sum(plan.rows)),
        "curve": progress.curve,
        "metrics": evaluate.measured(columns, scores, ranker.tasks, oracle),
        "buckets": evaluate.by_exposure(
            storage, list(plan.days), columns, by_model, ranker.tasks[0], settings.evaluate.exposure_bounds
        ),
        "ablation": ablations.measure(ranker, inputs, columns, scores, oracle),
    }
    if oracle is not None:
        record["oracle"] = evaluate.measured(columns, oracle, ranker.tasks, oracle)
    return record, {"scores": scores}
