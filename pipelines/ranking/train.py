"""Trains SARM and, in the same order with the same budget, the Base ranker, by Ray Train.

Reads examples, anchors, authors, users and the tokenizer; publishes the artifacts "sarm" and "base".
Run: python -m pipelines train --config pipelines/configs/demo.yaml
"""

import logging
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.runtime.cluster import connected
from pipelines.runtime.config import build, to_dict
from pipelines.runtime.progress import progress_lines
from pipelines.runtime.run import Run
from pipelines.runtime.scaling import TrainScaling
from pipelines.semantics import embed, vocabulary
from pipelines.tables.artifacts import Artifacts
from pipelines.tables.contract import ContractError
from pipelines.tables.fingerprint import digest
from pipelines.tables.storage import Storage, shared_root

if TYPE_CHECKING:
    from models.sarm.model import SARMConfig
    from pipelines.ranking.loop import TrainingPlan

log = logging.getLogger(__name__)
KINDS = {"sarm": "sarm", "base": "base"}
"""Artifact kind of each variant."""
_RAY_TRAIN = {
    # A worker that hangs is noticed after this long; the default is ten minutes.
    "RAY_TRAIN_WORKER_HEALTH_CHECK_TIMEOUT_S": "120",
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "120",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainConfig:
    """What is trained, and how."""

    variants: tuple[str, ...] = ("sarm", "base")
    """What to train, one after another: sarm, base."""
    test_days: int = 1
    """Newest days of examples that are left out."""
    batch_size: int = 512
    """Examples a step, of all workers together."""
    lr_ids: float = 0.01
    """Adam's rate for id tables."""
    lr_encoder: float = 0.0005
    """Adam's rate for the anchor encoder, but for its tokens: a Transformer wants smaller steps than the ranker."""
    lr_dense: float = 0.002
    """Adam's rate for everything else."""
    l2_ids: float = 0.0
    """Weight of half the squared norm of id tables in the loss."""
    warmup_steps: int = 0
    """Steps over which the rates rise to their value."""
    end_rate: float = 1.0
    """Share of the rates that is left at the last step; they fall in a line from the first on."""
    log_every: int = 50
    """Steps from one line of progress, and one point of the loss curve, to the next."""
    max_failures: int = 2
    """Worker failures after which training goes on from its last finished day, before it gives up."""
    checkpoints: str | None = None
    """Folder or URL for checkpoints, shared by all nodes; null = `ray` below run_dir."""
    scaling: TrainScaling = field(default_factory=TrainScaling)
    """Workers."""
    model: dict[str, Any] = field(default_factory=dict)
    """Keys of SARMConfig in models/sarm/model.py; its `ranker` is the Base ranker too."""
    semantic_ids: dict[str, Any] = field(default_factory=dict)
    """Keys of ResidualConfig in models/quantize.py, for the two-stage variant `sids` of studies."""

    def __post_init__(self) -> None:
        unknown = [v for v in self.variants if v not in KINDS]
        if unknown or not self.variants or len(set(self.variants)) != len(self.variants):
            raise ValueError(f"variants: wanted some of {', '.join(KINDS)}, each once, got {list(self.variants)}")
        if min(self.batch_size, self.log_every, self.scaling.num_workers, self.scaling.cpus_per_worker) < 1:
            raise ValueError("batch_size, log_every and the scaling's num_workers and cpus_per_worker must be >= 1")
        if min(self.test_days, self.max_failures, self.warmup_steps, self.l2_ids) < 0 or not 0 <= self.end_rate <= 1:
            raise ValueError("test_days, max_failures, warmup_steps and l2_ids must be >= 0, end_rate in 0..1")


def run(config: TrainConfig, run: Run) -> dict[str, Any]:
    """Trains every variant whose published artifact is not current, and publishes it."""
    storage = run.storage
    artifacts = Artifacts(storage)
    metrics: dict[str, Any] = {"variants": {}}
    jobs = []
    for variant in config.variants:
        plan, made_from = make_plan(config, run, storage, artifacts, variant)
        run_id = f"{plan.days[-1]}-{digest(made_from)}"
        current = artifacts.current(KINDS[variant])
        if current == run_id:
            log.info("%s %s is current", variant, run_id)
            metrics["variants"][variant] = {"run_id": run_id, "how": "current"}
        else:
            jobs.append((plan, made_from, run_id))
    if not jobs:
        return metrics
    os.environ.update({name: os.environ.get(name, value) for name, value in _RAY_TRAIN.items()})
    with connected(run.cluster):
        for plan, made_from, run_id in jobs:
            started = time.perf_counter()
            trained = _fit(config, run, plan, run_id, artifacts, made_from)
            metrics["variants"][plan.variant] = {"run_id": run_id, "how": "trained", **trained}
            metrics["variants"][plan.variant]["seconds"] = round(time.perf_counter() - started, 1)
    return metrics


def sarm_config(config: TrainConfig) -> "SARMConfig":
    """The model of the config. Raises ConfigError for keys that SARMConfig does not have."""
    from models.sarm.model import SARMConfig

    return build(SARMConfig, config.model, "config.train.model")


def train_days(config: TrainConfig, storage: Storage) -> list[str]:
    """Days of `examples` to train on: all but the newest `test_days`. Raises ContractError where none is left."""
    days = storage.days("examples")
    if len(days) <= config.test_days:
        raise ContractError(
            f"table examples: wanted more than train.test_days={config.test_days} day(s), got {len(days)} "
            f"({', '.join(days) or 'none'}); run the job examples over more days"
        )
    return days[: len(days) - config.test_days]


def make_plan(
    config: TrainConfig, run: Run, storage: Storage, artifacts: Artifacts, variant: str
) -> tuple["TrainingPlan", dict[str, str]]:
    """What a variant's run does, and fingerprints of all that it depends on."""
    from models.quantize import ResidualConfig
    from pipelines.ranking.loop import TrainingPlan

    days = train_days(config, storage)
    plan = TrainingPlan(
        variant=variant,
        seed=run.seed,
        model=sarm_config(config),
        semantic_ids=build(ResidualConfig, config.semantic_ids, "config.train.semantic_ids"),
        days=tuple(days),
        rows=tuple(storage.dataset("examples", day).count_rows() for day in days),
        catalog_until=storage.days("examples")[-1],
        batch_size=config.batch_size,
        lr_ids=config.lr_ids,
        lr_encoder=config.lr_encoder,
        lr_dense=config.lr_dense,
        l2_ids=config.l2_ids,
        warmup_steps=config.warmup_steps,
        end_rate=config.end_rate,
        log_every=config.log_every,
    )
    made_from = {"config": digest([to_dict(plan), config.scaling.num_workers])}
    for table in ("users", "authors"):
        known = [d for d in storage.days(table) if d <= plan.catalog_until]
        made_from[table] = digest([[d, storage.fingerprint(table, d)] for d in known])
    made_from |= {f"examples/{day}": storage.fingerprint("examples", day) for day in days}
    if variant == "sarm":
        made_from["tokenizer"] = artifacts.manifest(vocabulary.KIND).run_id
        anchors = [d for d in storage.days("anchors") if d < days[-1]]
        made_from |= {f"anchors/{day}": storage.fingerprint("anchors", day) for day in anchors}
    if variant in embed.READERS:
        known = [d for d in storage.days(embed.TABLE) if d < days[-1]]
        made_from |= {f"{embed.TABLE}/{day}": storage.fingerprint(embed.TABLE, day) for day in known}
    return plan, made_from


def _fit(
    config: TrainConfig, run: Run, plan: "TrainingPlan", run_id: str, artifacts: Artifacts, made_from: Mapping[str, str]
) -> dict[str, Any]:
    """One run of Ray Train, and the publication of its last checkpoint."""
    from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    where = config.checkpoints or str(run.folder.resolve() / "ray")
    with progress_lines(log) as lines:
        trainer = TorchTrainer(
            _worker,
            train_loop_config={
                "plan": plan,
                "root": shared_root(run.storage.url),
                "threads": config.scaling.cpus_per_worker,
                "tokenizer": made_from.get("tokenizer"),
                "lines": lines,
            },
            scaling_config=ScalingConfig(
                num_workers=config.scaling.num_workers,
                use_gpu=config.scaling.use_gpu,
                resources_per_worker={"CPU": config.scaling.cpus_per_worker}
                | ({"GPU": 1} if config.scaling.use_gpu else {}),
            ),
            run_config=RunConfig(
                name=f"{plan.variant}-{run_id}",
                storage_path=where,
                failure_config=FailureConfig(max_failures=config.max_failures),
                checkpoint_config=CheckpointConfig(num_to_keep=2),
            ),
        )
        result = trainer.fit()
    if result.checkpoint is None:
        raise RuntimeError(f"training {plan.variant} left no checkpoint below {where}")
    with result.checkpoint.as_directory() as folder:
        return publish_checkpoint(Path(folder), plan, run_id, artifacts, made_from)


def publish_checkpoint(
    checkpoint: Path, plan: "TrainingPlan", run_id: str, artifacts: Artifacts, made_from: Mapping[str, str]
) -> dict[str, Any]:
    """Publishes model, catalog and categories of a checkpoint; its optimizer and bank stay behind."""
    from pipelines.ranking.loop import PUBLISHED, read_progress

    progress = read_progress(checkpoint)
    if tuple(progress.days) != plan.days:
        raise RuntimeError(f"the checkpoint of {run_id} ends after {progress.days}, wanted {list(plan.days)}")
    with tempfile.TemporaryDirectory() as folder:
        for name in PUBLISHED:
            shutil.copy(checkpoint / name, Path(folder) / name)
        artifacts.publish(KINDS[plan.variant], Path(folder), run_id, made_from)
    return {
        "days": list(plan.days),
        "steps": progress.step,
        "examples": progress.examples,
        "encoded_authors": progress.encoded,
        "loop_seconds": round(progress.seconds, 1),
        "examples_per_s": round(progress.examples / progress.seconds, 1),
        "main_loss": progress.curve[-1]["main_loss"],
        "curve": progress.curve,
    }


def _worker(config: dict[str, Any]) -> None:
    """What each worker of Ray Train runs."""
    import ray.train
    import torch
    from ray.train import Checkpoint
    from ray.train.torch import get_device

    from models.sarm.live_tokenizer.tokenizer import LiveStreamingTokenizer
    from pipelines.ranking.loop import Worker, train

    torch.set_num_threads(config["threads"])
    context = ray.train.get_context()
    storage = Storage.open(config["root"])
    tokenizer = None
    if config["tokenizer"] is not None:
        tokenizer = LiveStreamingTokenizer.load(Artifacts(storage).fetch(vocabulary.KIND, config["tokenizer"]))
    worker = Worker(rank=context.get_world_rank(), world_size=context.get_world_size(), device=get_device())

    def report(metrics: Mapping[str, Any], folder: Path | None) -> None:
        ray.train.report(dict(metrics), checkpoint=None if folder is None else Checkpoint.from_directory(str(folder)))

    with tempfile.TemporaryDirectory() as work, _resume() as resume:
        train(
            config["plan"],
            storage,
            tokenizer,
            work=Path(work),
            worker=worker,
            report=report,
            log_line=config["lines"].put_nowait if worker.rank == 0 else _silent,
            resume=resume,
        )


@contextmanager
def _resume() -> Iterator[Path | None]:
    """The folder of the checkpoint to go on from, None at the start of a run."""
    import ray.train

    checkpoint = ray.train.get_checkpoint()
    if checkpoint is None:
        yield None
    else:
        with checkpoint.as_directory() as folder:
            yield Path(folder)


def _silent(line: str) -> None:
    """Other workers than the first say nothing."""
