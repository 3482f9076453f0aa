"""The training loop. Knows models, tables and torch.distributed; does not know Ray.

Once through the time keys in order: before each, the sources move forward; then its impressions come in time order.
"""

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from models.batch import RankingBatch
from models.catalog import Catalog
from models.composed import ComposedRanker, Sources
from models.optimizer import param_groups
from models.sarm.memory_bank import MemoryBank
from models.sources import Inputs, SourceSpec
from models.training import TrainingRanker, TrainingStep
from pipelines.ranking.checkpoint import (
    CATALOG,
    CATEGORIES,
    OPTIMIZER,
    PROGRESS,
    Progress,
    bank_file,
    folder_after,
    read_progress,
)
from pipelines.ranking.plan import TrainingPlan
from pipelines.ranking.variants import SOURCES
from pipelines.ranking.variants.source import Context, State
from pipelines.ranking.worker import Worker, all_gather_rows
from pipelines.samples.batches import DayBatches, build_catalog, read_examples
from pipelines.tables.artifacts import Artifacts
from pipelines.tables.storage import Storage

Report = Callable[[Mapping[str, Any], Path | None], None]
"""Called by every worker when a time key is done: metrics, and the checkpoint's folder where this worker wrote one."""
LogLine = Callable[[str], None]
_UNTIMED_STEPS = 5


class Loop:
    """A model in training: steps over batches, bank kept equal on all workers, one line every `log_every` steps."""

    def __init__(self, plan: TrainingPlan, model: ComposedRanker, worker: Worker, log_line: LogLine) -> None:
        self.plan, self.model, self.worker = plan, model, worker
        self.progress = Progress()
        self.step = TrainingRanker(model).to(worker.device)
        banks = {name: source.memory_bank(model.sizes.num_authors, worker.device) for name, source in model.items()}
        self.banks = {name: bank for name, bank in banks.items() if bank is not None}
        """Of the sources that have one."""
        step: nn.Module = self.step
        self._wrapped = DistributedDataParallel(step, broadcast_buffers=False) if worker.world_size > 1 else step
        rates = {"lr_ids": plan.lr_ids, "lr_encoder": plan.lr_encoder, "lr_dense": plan.lr_dense}
        groups = param_groups(self.step, **rates, l2_ids=plan.l2_ids)
        self.optimizer = torch.optim.Adam(groups, fused=True)
        self._rates = [float(group["lr"]) for group in groups]
        self._log_line = log_line
        self._sums = torch.zeros(4, dtype=torch.float64)
        self._since = 0
        self._clock = self._cpu_clock = 0.0
        self._first_step = 0
        self._timed_from: tuple[int, float] | None = None

    def train_key(self, key: str, inputs: Mapping[str, Inputs], batches: DayBatches) -> None:
        """Once through the batches of a time key, with what the sources knew before it."""
        self.step.inputs = {name: tuple(part.to(self.worker.device) for part in of) for name, of in inputs.items()}
        self._wrapped.train()
        self._clock, self._cpu_clock = time.perf_counter(), time.process_time()
        for batch, size in zip(batches, batches.global_sizes, strict=True):
            self._train_step(batch.to(self.worker.device), size)
            if self.progress.step % self.plan.log_every == 0:
                self._log(key)
        if self._since:
            self._log(key)
        self.progress.done.append(key)

    def _train_step(self, batch: RankingBatch, size: int) -> None:
        progress = self.progress
        for group, rate in zip(self.optimizer.param_groups, self._rates, strict=True):
            group["lr"] = rate * self.plan.rate_at(progress.step)
        self.optimizer.zero_grad()
        result: TrainingStep = self._wrapped(batch, self.banks)
        torch.autograd.backward(result.loss)
        self.optimizer.step()
        for name, fresh in result.fresh.items():
            # A worker's batch is at most one row larger than another's.
            capacity = self.model.source(name).most_encoded(size // self.worker.world_size + 1)
            rows, vectors = all_gather_rows(fresh.rows, fresh.vectors, capacity)
            self.banks[name].write(rows, vectors, progress.step)
            progress.encoded += len(rows)
        progress.step += 1
        progress.examples += size
        self._since += 1
        parts = [result.parts[name] for name in ("rec", "click", "aux")]
        self._sums += torch.stack([result.loss.detach(), *parts]).cpu().double()
        if self._timed_from is None and progress.step >= self._first_step + _UNTIMED_STEPS:
            self._timed_from = (progress.examples, time.perf_counter())

    def _tick(self) -> None:
        now, cpu_now = time.perf_counter(), time.process_time()
        self.progress.seconds += now - self._clock
        self.progress.cpu_seconds += cpu_now - self._cpu_clock
        self._clock, self._cpu_clock = now, cpu_now

    def _log(self, key: str) -> None:
        self._tick()
        means = self._sums / self._since
        if self.worker.world_size > 1:
            shared = means.to(self.worker.device, torch.float32)
            dist.all_reduce(shared)
            means = shared.cpu().double() / self.worker.world_size
        loss, main, click, aux = means.tolist()
        self._sums.zero_()
        self._since = 0
        progress, total = self.progress, self.plan.num_steps
        rate, left = 0.0, sum(self.plan.rows) - progress.examples
        if self._timed_from is not None and progress.examples > self._timed_from[0]:
            rate = (progress.examples - self._timed_from[0]) / (time.perf_counter() - self._timed_from[1])
        losses = {"loss": loss, "main_loss": main, "click_loss": click, "aux_loss": aux}
        entry = {"step": progress.step, **losses, "examples_per_s": rate}
        progress.curve.append(entry)
        if self.worker.rank == 0:
            self._log_line(
                f"{self.plan.name} | step {progress.step}/{total} ({100 * progress.step / total:.0f} %) | {key} | "
                f"loss {main:.4f} | aux {aux:.4f} | encoded {progress.encoded} | {rate:.0f} examples/s | "
                f"eta {left / rate if rate else 0.0:.0f} s"
            )

    def save(self, folder: Path) -> None:
        """Everything to go on from: model, optimizer, bank, progress."""
        self.model.save(folder)
        torch.save(self.optimizer.state_dict(), folder / OPTIMIZER)
        for name, bank in self.banks.items():
            bank.save(folder / bank_file(name))
        (folder / PROGRESS).write_text(json.dumps(asdict(self.progress)))

    def restore(self, folder: Path) -> None:
        """Goes on from what `save` wrote."""
        trained = type(self.model).load(folder)
        self.model.load_state_dict(trained.state_dict())
        # By way of the CPU, because this worker may not have the device that the checkpoint was written on.
        self.optimizer.load_state_dict(torch.load(folder / OPTIMIZER, map_location="cpu", weights_only=True))
        for name in self.banks:
            self.banks[name] = MemoryBank.load(folder / bank_file(name), self.worker.device)
        self.progress = read_progress(folder)
        self._first_step = self.progress.step


def train(
    plan: TrainingPlan,
    storage: Storage,
    made_from: Mapping[str, str],
    *,
    work: Path,
    worker: Worker,
    report: Report,
    log_line: LogLine,
    resume: Path | None = None,
) -> Progress:
    """Trains over the plan's time keys and reports each; goes on after the last one of the checkpoint `resume`.

    Every worker calls this with its own `worker`; the first one leaves a checkpoint below `work` at each report.
    `made_from` is what `make_plan` gave with the plan.
    """
    torch.manual_seed(plan.seed)
    catalog, categories = build_catalog(storage, plan.catalog_until)
    context = Context(
        storage=storage, artifacts=Artifacts(storage), catalog=catalog, days=plan.keys, made_from=made_from
    )
    states = {source.name: SOURCES[source.name].open(source.config, context) for source in plan.sources}
    loop = Loop(plan, compose(plan, catalog, states), worker, log_line)
    if resume is not None:
        loop.restore(resume)
        log_line(f"{plan.name} | goes on after {loop.progress.done[-1]}")
    for key in plan.keys[len(loop.progress.done) :]:
        columns = read_examples(storage, key)
        inputs = {}
        for name, state in states.items():
            inputs[name] = state.advance(before=key)
            state.check(key, columns)
        batches = DayBatches(columns, catalog, plan.batch_size, worker.rank, worker.world_size)
        loop.train_key(key, inputs, batches)
        folder = None
        if worker.rank == 0:
            folder = work / folder_after(key)
            folder.mkdir(parents=True, exist_ok=True)
            loop.save(folder)
            catalog.save(folder / CATALOG)
            (folder / CATEGORIES).write_text(json.dumps(categories, ensure_ascii=False))
            for state in states.values():
                state.save(folder)
        report({"key": key, **loop.progress.curve[-1]}, folder)
    for name, warning in ((name, state.warning()) for name, state in states.items()):
        if warning and worker.rank == 0:
            log_line(f"{plan.name} | warning: {name}: {warning}")
    return loop.progress


def compose(plan: TrainingPlan, catalog: Catalog, states: Mapping[str, State]) -> ComposedRanker:
    """The plan's ranker with new parameters, drawn from torch's generator."""
    specs = tuple(
        SourceSpec.of(source.name, SOURCES[source.name].module, source.config, states[source.name].facts)
        for source in plan.sources
    )
    return ComposedRanker(plan.ranker, catalog.sizes, Sources(specs=specs))
