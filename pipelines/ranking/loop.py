"""Training steps: a model, its optimizer and its banks, through the batches of one time key after another."""

import copy
import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path

import torch
import torch.distributed as dist

from models.batch import RankingBatch
from models.catalog import CatalogSizes
from models.composed import ComposedRanker, Sources
from models.id_dropout import without_some_ids
from models.optimizer import RankerOptimizer
from models.sarm.memory_bank import MemoryBank
from models.sources import Inputs, SourceSpec
from models.training import TrainingRanker, TrainingStep, Window
from pipelines.ranking.checkpoint import BEST, OPTIMIZER, PROGRESS, Progress, bank_file, read_progress
from pipelines.ranking.pace import Pace
from pipelines.ranking.plan import TrainingPlan
from pipelines.ranking.shards import Shards
from pipelines.ranking.variants import SOURCES
from pipelines.ranking.variants.source import State
from pipelines.ranking.whole_tables import Point, gathered, own
from pipelines.ranking.worker import Exchange, Worker
from pipelines.runtime.watch import Watch, unwatched
from pipelines.samples.stream import Stretch

LogLine = Callable[[str], None]


class Loop:
    """A model in training: steps over batches, bank kept equal on all workers, one line every `log_every` steps."""

    def __init__(self, plan: TrainingPlan, model: ComposedRanker, worker: Worker, log_line: LogLine) -> None:
        self.plan, self.model, self.worker = plan, model, worker
        self.progress = Progress()
        self.step = TrainingRanker(model).to(worker.device)
        banks = {name: source.memory_bank(model.sizes.num_authors, worker.device) for name, source in model.items()}
        self.banks = {name: bank for name, bank in banks.items() if bank is not None}
        """Of the sources that have one."""
        self.touched = {
            name: torch.zeros(len(bank.written_step), dtype=torch.bool) for name, bank in self.banks.items()
        }
        """Rows of each that were written since somebody took note, [N+1]; kept on the CPU, and not in checkpoints."""
        rates = {"lr_ids": plan.lr_ids, "lr_encoder": plan.lr_encoder, "lr_dense": plan.lr_dense}
        self.optimizer = RankerOptimizer(self.step, **rates, l2_ids=plan.l2_ids)
        self.exchange = Exchange(self.step, worker)
        self.shards = Shards(model, self.optimizer, worker)
        self._best: Point | None = None
        self._points: dict[str, Point] = {}
        self.log_line = log_line
        self.watch: Watch = unwatched
        """Of the first worker; who runs the loop sets it."""
        self._losses = {"loss": "loss", "main_loss": "rec", "aux_loss": "aux"}
        self._losses |= {f"{task}_loss": task for task in plan.ranker.tasks}
        """Which part of a step's result each loss of the curve is."""
        self._sums = torch.zeros(len(self._losses), dtype=torch.float64)
        self._since = 0
        self._clock = self._cpu_clock = 0.0
        self._pace = Pace()
        self.settle_s = 0.0
        """Seconds of the last `settle`."""

    def begin_key(self, inputs: Mapping[str, Inputs]) -> None:
        """Takes what the sources knew before a time key."""
        self.step.inputs = {name: tuple(part.to(self.worker.device) for part in of) for name, of in inputs.items()}
        self.step.train()

    def train_stretch(self, key: str, stretch: Stretch) -> None:
        """Once through the batches of a stretch."""
        self.progress.waited_s += stretch.waited_s
        self._clock, self._cpu_clock = time.perf_counter(), time.process_time()
        for window in stretch.windows(self.plan.encode_window):
            self._train_window(key, self._shown(batch for batch, _ in window), [size for _, size in window])
        self._tick()
        self.progress.stretches += 1

    def settle(self, key: str) -> None:
        """Makes the model what it is at this step, for whoever reads its weights, and says how far it is."""
        if self._since:
            self._log(key)
        started = time.perf_counter()
        self.optimizer.settle()
        self.settle_s = time.perf_counter() - started

    def end_key(self, key: str) -> None:
        """The key is done."""
        self.settle(key)
        self.progress.done.append(key)
        self.progress.stretches = 0

    def _shown(self, batches: Iterable[RankingBatch]) -> list[RankingBatch]:
        """Batches as the next steps see them."""
        plan, step = self.plan, self.progress.step
        return [
            without_some_ids(batch, plan.id_dropout, plan.seed, step + index).to(self.worker.device)
            for index, batch in enumerate(batches)
        ]

    def _train_window(self, key: str, batches: Sequence[RankingBatch], sizes: Sequence[int]) -> None:
        """Steps that share one encoding of their authors; `sizes` are rows of each batch over all workers."""
        window = Window(self.step, batches, self.banks, self.worker.group, partial(self.shards.open, batches))
        for index, (batch, size) in enumerate(zip(batches, sizes, strict=True)):
            self._train_step(batch, size, window, is_last=index == len(batches) - 1)
            if self.progress.step % self.plan.log_every == 0:
                self._log(key)

    def _train_step(self, batch: RankingBatch, size: int, window: Window, *, is_last: bool) -> None:
        progress = self.progress
        self.optimizer.scale(self.plan.rate_at(progress))
        self.optimizer.zero_grad()
        self.shards.next()
        result: TrainingStep = self.step(batch, self.banks, window.encoded)
        torch.autograd.backward(result.loss)
        if is_last:
            window.backward()
        self.exchange()
        self.shards.give_back(is_last=is_last)
        self.optimizer.step()
        if is_last:
            for name, encoded in window.encoded.items():
                self.banks[name].write(encoded.rows, encoded.vectors, progress.step)
                self.touched[name][encoded.rows.cpu()] = True
                progress.encoded += len(encoded.rows)
        progress.step += 1
        progress.examples += size
        self._since += 1
        parts = {"loss": result.loss.detach(), **result.parts}
        self._sums += torch.stack([parts[name] for name in self._losses.values()]).cpu().double()

    def _tick(self) -> None:
        now, cpu_now = time.perf_counter(), time.process_time()
        self.progress.seconds += now - self._clock
        self.progress.cpu_seconds += cpu_now - self._cpu_clock
        self._clock, self._cpu_clock = now, cpu_now

    def _log(self, key: str) -> None:
        self._tick()
        progress, losses = self.progress, self._mean_losses()
        rate, waiting = self._pace.lap(progress.examples, progress.waited_s)
        progress.curve.append({"step": progress.step, **losses, "examples_per_s": rate})
        if self.worker.rank == 0:
            ages = {name: bank.age(progress.step) for name, bank in self.banks.items()}
            self.log_line(self._line(key, losses, ages, rate, waiting))
            figures = {f"loss/{name.removesuffix('_loss')}": value for name, value in losses.items() if name != "loss"}
            figures |= {f"bank/{name}_age_steps": age for name, age in ages.items()}
            figures |= {"loss/total": losses["loss"], "pace/examples_per_s": rate, "pace/waiting_share": waiting}
            figures |= {"learning/rate_share": self.plan.rate_at(progress), "learning/encoded": progress.encoded}
            self.watch(progress.step, figures)

    def _mean_losses(self) -> dict[str, float]:
        """By name, over the steps since the last call and over all workers."""
        means = self._sums / self._since
        if self.worker.world_size > 1:
            shared = means.to(self.worker.device, torch.float32)
            dist.all_reduce(shared)
            means = shared.cpu().double() / self.worker.world_size
        self._sums.zero_()
        self._since = 0
        return dict(zip(self._losses, means.tolist(), strict=True))

    def _line(
        self, key: str, losses: Mapping[str, float], ages: Mapping[str, float], rate: float, waiting: float
    ) -> str:
        """One line for people."""
        progress, total, tasks = self.progress, self.plan.num_steps, list(self.plan.ranker.tasks)
        by_task = " ".join(f"{task} {losses[f'{task}_loss']:.3f}" for task in tasks)
        judged = progress.judged[-1] if progress.judged else {}
        return " | ".join(
            [
                f"{self.plan.name} | step {progress.step}/{total} ({100 * progress.step / total:.0f} %) | {key}",
                f"loss {losses['main_loss']:.4f} ({by_task}) | aux {losses['aux_loss']:.4f}",
                *([f"{tasks[0]} GAUC before {judged[tasks[0]]['gauc']:.4f}"] if judged.get("key") == key else []),
                f"encoded {progress.encoded}",
                *(f"{name} bank age {age:.0f} steps" for name, age in ages.items()),
                f"{rate:.0f} examples/s | waiting {100 * waiting:.0f} %",
                f"eta {self._pace.eta_s(self.plan.num_examples - progress.examples):.0f} s",
            ]
        )

    def go_on_as(self, other: "Loop") -> None:
        """Takes the progress of a loop that this one goes on with, and who watches it."""
        self.progress, self._pace, self.watch = other.progress, other._pace, other.watch

    @contextmanager
    def gathered(self) -> Iterator[None]:
        """On every worker, around the first one's `save`: it has whole tables then."""
        with gathered(self._all_points(), self.shards) as self._points:
            yield
        self._points = {}

    def save(self, folder: Path) -> None:
        """Everything to go on from: model, optimizer, banks, the best epoch, progress."""
        points = self._points or self._all_points()
        self.model.save(folder, points["now"]["model"])
        torch.save(points["now"]["optimizer"], folder / OPTIMIZER)
        for name, bank in self.banks.items():
            bank.save(folder / bank_file(name))
        if "best" in points:
            torch.save(points["best"], folder / BEST)
        (folder / PROGRESS).write_text(json.dumps(asdict(self.progress)))

    def restore(self, folder: Path) -> None:
        """Goes on from what `save` wrote, without a second copy of the big tables."""
        self.model.fill(folder)
        # By way of the CPU, because this worker may not have the device that the checkpoint was written on.
        saved = torch.load(folder / OPTIMIZER, map_location="cpu", weights_only=True, mmap=True)
        self.optimizer.load_state_dict(saved)
        for name in self.banks:
            self.banks[name] = MemoryBank.load(folder / bank_file(name), self.worker.device)
        if (folder / BEST).is_file():
            best = torch.load(folder / BEST, map_location="cpu", weights_only=True, mmap=True)
            self._best = own(best, self.shards)
        self.progress = read_progress(folder)
        self._pace = Pace(self.progress.examples, self.progress.waited_s)

    def keep_best(self) -> None:
        """Remembers this moment, for `go_back`."""
        self._best = copy.deepcopy(self._now())

    def _all_points(self) -> dict[str, Point]:
        return {"now": self._now()} | ({} if self._best is None else {"best": self._best})

    def _now(self) -> Point:
        banks = {name: [bank.vectors, bank.written_step] for name, bank in self.banks.items()}
        return {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict(), "banks": banks}

    def go_back(self) -> None:
        """Goes back to the moment of the last `keep_best`."""
        assert self._best is not None
        self.model.load_state_dict(self._best["model"])
        self.optimizer.load_state_dict(self._best["optimizer"])
        for name, (vectors, written_step) in self._best["banks"].items():
            self.banks[name].vectors.copy_(vectors)
            self.banks[name].written_step.copy_(written_step)


def compose(plan: TrainingPlan, sizes: CatalogSizes, states: Mapping[str, State]) -> ComposedRanker:
    """The plan's ranker with new parameters, drawn from torch's generator."""
    specs = tuple(
        SourceSpec.of(source.name, SOURCES[source.name].module, source.config, states[source.name].facts)
        for source in plan.sources
    )
    return ComposedRanker(plan.ranker, sizes, Sources(specs=specs))
