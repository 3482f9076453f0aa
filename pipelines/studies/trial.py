"""One trial of a study: one variant, one seed, one process.

Trains on one thread, without Ray, and scores the newest day."""

import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.ranking import evaluate
from pipelines.ranking.train import make_plan
from pipelines.semantics import vocabulary
from pipelines.studies.trial_cost import peak_memory_gib, trial_cost
from pipelines.tables.artifacts import Artifacts
from pipelines.tables.storage import Storage

if TYPE_CHECKING:
    from pipelines.settings import Settings


def run_trial(settings: "Settings", kind: str) -> dict[str, Any]:
    """Trains one variant on one thread and measures it on the newest day. Runs inside a Ray task."""
    import torch

    from models.batch import collate
    from models.catalog import Catalog
    from models.sarm.live_tokenizer.tokenizer import LiveStreamingTokenizer
    from models.sarm.model import SARM
    from pipelines.ranking import published
    from pipelines.ranking.anchor_table import AnchorTable
    from pipelines.ranking.loop import CATALOG, Worker, train
    from pipelines.ranking.variants.two_stage import READS, open_content
    from pipelines.samples.batches import read_examples, take

    torch.set_num_threads(1)
    storage = Storage.open(settings.storage.root)
    artifacts = Artifacts(storage)
    plan, _ = make_plan(settings.train, settings.open(), storage, artifacts, kind)
    tokenizer = LiveStreamingTokenizer.load(artifacts.fetch(vocabulary.KIND))
    with tempfile.TemporaryDirectory() as work:
        progress = train(
            plan, storage, tokenizer, work=Path(work), worker=Worker(), report=lambda *_: None, log_line=lambda _: None
        )
        peak = peak_memory_gib()
        folder = Path(work) / f"after-{plan.days[-1]}"
        model, catalog = published.load_model(folder, kind), Catalog.load(folder / CATALOG)
    day = evaluate.day_of(settings.evaluate.day, storage)
    columns = read_examples(storage, day)
    bank = content = anchors = None
    if isinstance(model, SARM):
        anchors = AnchorTable(storage, catalog, tokenizer, tokens=model.config.tokens).advance(before=day)
        bank = model.encode_bank(anchors.tokens)
    elif kind in READS:
        content = open_content(kind, storage, catalog, plan.days, plan.semantic_ids).advance(before=day).table
    scores = published.score(model, catalog, columns, bank=bank, content=content)
    of_model = {"model": scores}
    oracle = None
    if day in storage.days("oracle_impressions"):
        of_model["oracle"] = oracle = evaluate.oracle_scores(settings.storage.root, day, columns)
    bounds = settings.evaluate.exposure_bounds
    some = collate(take(columns, slice(0, plan.batch_size)), catalog)
    record: dict[str, Any] = {
        "kind": kind,
        "day": day,
        "plan": asdict(plan),
        "seconds": progress.seconds,
        "encoded": progress.encoded,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "cost": trial_cost(model, some, anchors.tokens if anchors else content, progress, peak),
        "curve": progress.curve,
        "metrics": evaluate.measure(columns, scores),
        "buckets": evaluate.by_exposure(storage, list(plan.days), columns, of_model, bounds),
    }
    if oracle is not None:
        record["oracle"] = evaluate.measure(columns, oracle)
        for name, values in (("metrics", scores), ("oracle", oracle)):
            for task_name, value in evaluate.redrawn_gauc(columns, oracle, values).items():
                record[name][task_name]["gauc_redrawn"] = value
    return record
