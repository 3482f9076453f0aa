"""Training runs of two workers, or of one, whose big id tables are spread or not, in processes that gloo joins."""

import multiprocessing
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors.torch import load_file

from models import embeddings
from pipelines.ranking import fit
from pipelines.ranking.checkpoint import OPTIMIZER, read_progress
from pipelines.ranking.follow_plan import make_follow_plan
from pipelines.ranking.following import follow
from pipelines.ranking.plan import make_plan
from pipelines.ranking.worker import Worker
from pipelines.settings import Settings
from pipelines.tables.artifacts import Artifacts

SPARSE_FROM = 20


@dataclass(frozen=True, kw_only=True)
class Run:
    """One run of `fit.train`, which leaves its checkpoints below `name`."""

    name: str
    sharded: bool
    resume: str | None = None
    """A checkpoint below the folder of all runs."""
    train: dict[str, Any]
    """What differs from the settings."""


def on_workers(settings: Settings, folder: Path, runs: Sequence[Run], world: int = 2) -> None:
    """The runs, one after another."""
    spawned(_train_all, world, (settings, str(folder), list(runs)))


def spawned(what: Callable[..., None], world: int, args: tuple[Any, ...]) -> None:
    """`what(rank, world, *args)` in so many processes."""
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=what, args=(rank, world, *args)) for rank in range(world)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0] * world


def join(rank: int, world: int, folder: str) -> None:
    """Meets the other processes; tables count as big from a few rows on."""
    embeddings.SPARSE_FROM = SPARSE_FROM
    torch.set_num_threads(1)
    Path(folder).mkdir(exist_ok=True)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting-{world}", rank=rank, world_size=world)


def _train_all(rank: int, world: int, settings: Settings, folder: str, runs: list[Run]) -> None:
    join(rank, world, folder)
    for of in runs:
        run = settings.open()
        config = replace(settings.train, **of.train)
        plan, made_from = make_plan(config, run, Artifacts(run.storage), config.sources)
        fit.train(
            plan,
            run.storage,
            made_from,
            work=Path(folder) / of.name,
            worker=Worker(rank=rank, world_size=world, shards_ids=of.sharded),
            report=lambda metrics, checkpoint: dist.barrier(),
            log_line=lambda line: None,
            resume=None if of.resume is None else Path(folder) / of.resume,
        )
    dist.destroy_process_group()


def weights(checkpoint: Path) -> dict[str, torch.Tensor]:
    """Of the model in a checkpoint."""
    return load_file(checkpoint / "model.safetensors")


def by_row(checkpoint: Path) -> list[dict[str, Any]]:
    """What the optimizer knows of each sparse table."""
    return list(torch.load(checkpoint / OPTIMIZER, weights_only=True)["rows"]["state"].values())


def newest(folder: Path) -> Path:
    """The last checkpoint of a run."""
    return max(folder.iterdir(), key=lambda of: read_progress(of).step)


def follow_on_two(settings: Settings, folder: Path, keys: int) -> None:
    """Follows the first days with tables whole and spread, below `whole` and `spread`."""
    spawned(_follow, 2, (settings, str(folder), keys))


def _follow(rank: int, world: int, settings: Settings, folder: str, keys: int) -> None:
    join(rank, world, folder)
    run = settings.open()
    plan, made_from = make_follow_plan(settings.train, run, Artifacts(run.storage), settings.train.sources)
    plan = replace(plan, keys=plan.keys[:keys], rows=plan.rows[:keys])
    for name in ("whole", "spread"):
        follow(
            plan,
            run.storage,
            made_from,
            work=Path(folder) / name,
            worker=Worker(rank=rank, world_size=world, shards_ids=name == "spread"),
            report=lambda metrics, checkpoint: dist.barrier(),
            log_line=lambda line: None,
        )
    dist.destroy_process_group()
