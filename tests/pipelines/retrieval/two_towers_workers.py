"""Towers in two processes, joined as Ray Train and its loop would join them."""

import multiprocessing
from pathlib import Path

import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file

from pipelines.ranking.worker import Worker, joined
from pipelines.retrieval.tower_loop import TowerLoop, go_through
from pipelines.retrieval.towers_plan import TowersConfig, make_plan
from pipelines.runtime.run import Run

Tensors = dict[str, torch.Tensor]


def fit_on_two(run: Run, config: TowersConfig, folder: Path) -> list[Tensors]:
    """Of each worker its weights, and its curve's losses and gates under their names."""
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=_worker, args=(run, config, str(folder), rank)) for rank in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0
    return [load_file(folder / f"rank{rank}.safetensors") for rank in range(2)]


def fit_alone(run: Run, config: TowersConfig, folder: Path) -> Tensors:
    """The same of one worker."""
    return _fit(run, config, folder, Worker())


def _worker(run: Run, config: TowersConfig, folder: str, rank: int) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    with joined(Worker(rank=rank, world_size=2), lambda line: None) as worker:
        save_file(_fit(run, config, Path(folder), worker), Path(folder) / f"rank{rank}.safetensors")
    dist.destroy_process_group()


def _fit(run: Run, config: TowersConfig, folder: Path, worker: Worker) -> Tensors:
    plan, _ = make_plan(config, run)
    torch.manual_seed(plan.seed)
    loop = TowerLoop(plan, run.storage, worker, lambda line: None)
    go_through(loop, plan, folder / "work", lambda metrics, checkpoint: None)
    curve = {name: torch.tensor([of[name] for of in loop.progress.curve]) for name in ("loss", "gate")}
    return {name: tensor.clone() for name, tensor in loop.model.state_dict().items()} | curve
