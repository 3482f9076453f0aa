"""The training loop in two processes, joined as Ray Train and its loop would join them."""

import multiprocessing
from pathlib import Path

import torch
import torch.distributed as dist
from safetensors.torch import load_file

from pipelines.ranking import fit as train_loop
from pipelines.ranking.loop import Loop
from pipelines.ranking.plan import make_plan
from pipelines.ranking.worker import Worker, joined
from pipelines.settings import Settings
from pipelines.tables.artifacts import Artifacts

Tensors = dict[str, torch.Tensor]


def train_on_two(settings: Settings, folder: Path) -> tuple[list[torch.Tensor], list[Tensors]]:
    """Bank and weights of each worker after training SARM."""
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=_worker, args=(settings, str(folder), rank)) for rank in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0
    found = [load_file(folder / f"rank{rank}.safetensors") for rank in range(2)]
    return [tensors.pop("bank") for tensors in found], found


def _worker(settings: Settings, folder: str, rank: int) -> None:
    from safetensors.torch import save_file

    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    run = settings.open()
    plan, made_from = make_plan(settings.train, run, Artifacts(run.storage), settings.train.sources)
    loops: list[Loop] = []
    watched = Loop.begin_key

    def begin_key(self: Loop, *args: object) -> None:
        loops.append(self)
        watched(self, *args)

    Loop.begin_key = begin_key
    with joined(Worker(rank=rank, world_size=2), lambda line: None) as worker:
        train_loop.train(
            plan,
            run.storage,
            made_from,
            work=Path(folder) / "work",
            worker=worker,
            report=lambda metrics, checkpoint: dist.barrier(),
            log_line=lambda line: None,
        )
    bank = loops[-1].banks["sarm"]
    weights = {name: tensor.clone() for name, tensor in loops[-1].model.state_dict().items()}
    save_file(weights | {"bank": bank.vectors}, Path(folder) / f"rank{rank}.safetensors")
    dist.destroy_process_group()
