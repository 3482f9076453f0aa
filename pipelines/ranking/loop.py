"""The training loop. Knows models, tables and torch.distributed; does not know Ray.

One pass over the days in order: before a day the anchors in force move forward, then its impressions come in time
order.
"""

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from models import TASKS
from models.batch import RankingBatch
from models.catalog import Catalog
from models.losses import multi_task_bce
from models.optimizer import param_groups
from models.quantize import ResidualConfig
from models.ranker import Ranker
from models.sarm.live_tokenizer.tokenizer import LiveStreamingTokenizer
from models.sarm.memory_bank import MemoryBank
from models.sarm.model import SARM, SARMConfig
from models.sarm.training import TrainingSARM, TrainingStep
from models.two_stage import TwoStageConfig, TwoStageRanker
from pipelines.ranking.anchor_table import AnchorTable
from pipelines.ranking.variants.two_stage import READS, Content, open_content
from pipelines.samples.batches import DayBatches, build_catalog, read_examples
from pipelines.tables.storage import Storage

Report = Callable[[Mapping[str, Any], Path | None], None]
"""Called by every worker when a day is done: metrics, and the checkpoint's folder where this worker wrote one."""
LogLine = Callable[[str], None]
Model = SARM | TwoStageRanker | Ranker

_OPTIMIZER, _BANK, _PROGRESS = "optimizer.pt", "bank.safetensors", "progress.json"
CATALOG, CATEGORIES = "catalog.safetensors", "categories.json"
PUBLISHED = ("config.json", "model.safetensors", CATALOG, CATEGORIES)
"""Files of a checkpoint that make up a model's artifact."""
_UNTIMED_STEPS = 5


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingPlan:
    """All that fixes a run: the same plan gives the same weights."""

    variant: str
    """"sarm", "base" (the ranker without anchors), or a two-stage variant of `content.READS`."""
    seed: int
    model: SARMConfig
    """For "base" its ranker alone counts, for two-stage variants its ranker and width."""
    semantic_ids: ResidualConfig
    """Sizes of the codes of the variant "sids"."""
    days: tuple[str, ...]
    """Days to train on, oldest first."""
    rows: tuple[int, ...]
    """Examples of each day."""
    catalog_until: str
    """Users and authors known by this day get rows."""
    batch_size: int
    """Examples a step, of all workers together."""
    lr_ids: float
    lr_encoder: float
    lr_dense: float
    l2_ids: float
    warmup_steps: int
    end_rate: float
    log_every: int

    def rate_at(self, step: int) -> float:
        """Share of the learning rates that holds at a step: up over the warm-up, then down in a line to `end_rate`."""
        warm = min(1.0, (step + 1) / max(1, self.warmup_steps))
        return warm * (1.0 - (1.0 - self.end_rate) * step / self.num_steps)

    @property
    def num_steps(self) -> int:
        """Steps of the whole run."""
        return sum(max(1, -(-rows // self.batch_size)) for rows in self.rows)


@dataclass(frozen=True, kw_only=True, slots=True)
class Worker:
    """Which worker this is, and what it computes on."""

    rank: int = 0
    world_size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))


@dataclass(kw_only=True, slots=True)
class Progress:
    """How far a run has come; kept in its checkpoints."""

    step: int = 0
    examples: int = 0
    encoded: int = 0
    days: list[str] = field(default_factory=list)
    seconds: float = 0.0
    """Seconds in training steps, by the clock on the wall."""
    cpu_seconds: float = 0.0
    """The same in CPU seconds of this process, all its threads together."""
    curve: list[dict[str, float]] = field(default_factory=list)
    """{step, loss, main_loss, click_loss, aux_loss, examples_per_s}, means since the entry before."""


class RankerStep(nn.Module):
    """The training step of a ranker that encodes nothing, in the form of `TrainingSARM`."""

    def __init__(self, ranker: Ranker | TwoStageRanker) -> None:
        super().__init__()
        self.ranker = ranker
        self.content: Tensor | None = None
        """What a two-stage ranker reads, by author row."""

    def forward(self, batch: RankingBatch, bank: MemoryBank | None) -> TrainingStep:
        """The sum of the tasks' losses (SARM eq. 12); nothing is encoded."""
        logits = self.ranker(batch) if self.content is None else self.ranker(batch, self.content)
        per_task = multi_task_bce(logits, batch.labels)
        loss = per_task.sum()
        parts = {"rec": loss, "aux": loss.new_zeros(()), **dict(zip(TASKS, per_task, strict=True))}
        nothing = batch.author.new_zeros(0)
        return TrainingStep(
            loss=loss,
            parts={name: value.detach() for name, value in parts.items()},
            rows=nothing,
            vectors=loss.new_zeros(0, 2, 0),
        )


def all_gather_rows(rows: Tensor, vectors: Tensor, capacity: int) -> tuple[Tensor, Tensor]:
    """Every worker's freshly encoded rows [A] and vectors [A, 2, D], in the order of ranks: the same everywhere.

    `capacity` is the most rows that any worker has; what is missing to it travels as padding.
    """
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return rows, vectors
    padded_rows = rows.new_full((capacity,), -1)
    padded_rows[: len(rows)] = rows
    padded = vectors.new_zeros(capacity, *vectors.shape[1:])
    padded[: len(rows)] = vectors
    of_workers = [torch.empty_like(padded_rows) for _ in range(dist.get_world_size())]
    their_vectors = [torch.empty_like(padded) for _ in range(dist.get_world_size())]
    dist.all_gather(of_workers, padded_rows)
    dist.all_gather(their_vectors, padded)
    all_rows = torch.cat(of_workers)
    real = all_rows >= 0
    return all_rows[real], torch.cat(their_vectors)[real]


class Loop:
    """A model in training: steps over batches, bank kept equal on all workers, one line every `log_every` steps."""

    def __init__(
        self, plan: TrainingPlan, step: nn.Module, bank: MemoryBank | None, worker: Worker, log_line: LogLine
    ) -> None:
        self.plan, self.bank, self.worker = plan, bank, worker
        self.progress = Progress()
        self.step = step.to(worker.device)
        self._wrapped = DistributedDataParallel(step, broadcast_buffers=False) if worker.world_size > 1 else step
        rates = {"lr_ids": plan.lr_ids, "lr_encoder": plan.lr_encoder, "lr_dense": plan.lr_dense}
        groups = param_groups(step, **rates, l2_ids=plan.l2_ids)
        self.optimizer = torch.optim.Adam(groups, fused=True)
        self._rates = [float(group["lr"]) for group in groups]
        self._log_line = log_line
        self._sums = torch.zeros(4, dtype=torch.float64)
        self._since = 0
        self._clock = self._cpu_clock = 0.0
        self._first_step = 0
        self._timed_from: tuple[int, float] | None = None

    def train_day(self, day: str, batches: DayBatches) -> None:
        """One pass over a day's batches."""
        self._wrapped.train()
        self._clock, self._cpu_clock = time.perf_counter(), time.process_time()
        for batch, size in zip(batches, batches.global_sizes, strict=True):
            self._train_step(batch.to(self.worker.device), size)
            if self.progress.step % self.plan.log_every == 0:
                self._log(day)
        if self._since:
            self._log(day)
        self.progress.days.append(day)

    def _train_step(self, batch: RankingBatch, size: int) -> None:
        progress = self.progress
        for group, rate in zip(self.optimizer.param_groups, self._rates, strict=True):
            group["lr"] = rate * self.plan.rate_at(progress.step)
        self.optimizer.zero_grad()
        result = self._wrapped(batch, self.bank)
        result.loss.backward()
        self.optimizer.step()
        if self.bank is not None:
            budget = self.plan.model.encode_budget
            # A worker's batch is at most one row larger than another's.
            capacity = size // self.worker.world_size + 1
            rows, vectors = all_gather_rows(result.rows, result.vectors, min(capacity, budget or capacity))
            self.bank.write(rows, vectors, progress.step)
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

    def _log(self, day: str) -> None:
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
                f"{self.plan.variant} | step {progress.step}/{total} ({100 * progress.step / total:.0f} %) | {day} | "
                f"loss {main:.4f} | aux {aux:.4f} | encoded {progress.encoded} | {rate:.0f} examples/s | "
                f"eta {left / rate if rate else 0.0:.0f} s"
            )

    @property
    def model(self) -> Model:
        """The model itself, without its wrappers."""
        inner = self.step.sarm if isinstance(self.step, TrainingSARM) else self.step.ranker
        assert isinstance(inner, Model)
        return inner

    def save(self, folder: Path) -> None:
        """Everything to go on from: model, optimizer, bank, progress."""
        self.model.save(folder)
        torch.save(self.optimizer.state_dict(), folder / _OPTIMIZER)
        if self.bank is not None:
            self.bank.save(folder / _BANK)
        (folder / _PROGRESS).write_text(json.dumps(asdict(self.progress)))

    def restore(self, folder: Path) -> None:
        """Goes on from what `save` wrote."""
        trained = type(self.model).load(folder)
        self.model.load_state_dict(trained.state_dict())
        # By way of the CPU, because this worker may not have the device that the checkpoint was written on.
        self.optimizer.load_state_dict(torch.load(folder / _OPTIMIZER, map_location="cpu", weights_only=True))
        if self.bank is not None:
            self.bank = MemoryBank.load(folder / _BANK, self.worker.device)
        self.progress = read_progress(folder)
        self._first_step = self.progress.step


def read_progress(folder: Path) -> Progress:
    """The progress in a checkpoint's folder."""
    return Progress(**json.loads((folder / _PROGRESS).read_text()))


def train(
    plan: TrainingPlan,
    storage: Storage,
    tokenizer: LiveStreamingTokenizer | None,
    *,
    work: Path,
    worker: Worker,
    report: Report,
    log_line: LogLine,
    resume: Path | None = None,
) -> Progress:
    """Trains over the plan's days and reports each; goes on after the last finished day of the checkpoint `resume`.

    Every worker calls this with its own `worker`; the first one leaves a checkpoint below `work` at each report.
    `tokenizer` may be None for all but "sarm", which alone reads anchors.
    """
    torch.manual_seed(plan.seed)
    catalog, categories = build_catalog(storage, plan.catalog_until)
    anchors = None if tokenizer is None else AnchorTable(storage, catalog, tokenizer, tokens=plan.model.tokens)
    content = (
        open_content(plan.variant, storage, catalog, plan.days, plan.semantic_ids) if plan.variant in READS else None
    )
    loop = _make_loop(plan, catalog, anchors, content, worker, log_line)
    if resume is not None:
        loop.restore(resume)
        log_line(f"{plan.variant} | goes on after {loop.progress.days[-1]}")
    for day in plan.days[len(loop.progress.days) :]:
        columns = read_examples(storage, day)
        if isinstance(loop.step, TrainingSARM):
            assert anchors is not None
            anchors.advance(before=day).check_examples(day, columns)
            loop.step.base, loop.step.live = (t.to(worker.device) for t in anchors.tokens.tensors())
        elif isinstance(loop.step, RankerStep) and content is not None:
            loop.step.content = content.advance(before=day).table.to(worker.device)
        loop.train_day(day, DayBatches(columns, catalog, plan.batch_size, worker.rank, worker.world_size))
        folder = None
        if worker.rank == 0:
            folder = work / f"after-{day}"
            folder.mkdir(parents=True, exist_ok=True)
            loop.save(folder)
            catalog.save(folder / CATALOG)
            (folder / CATEGORIES).write_text(json.dumps(categories, ensure_ascii=False))
        report({"day": day, **loop.progress.curve[-1]}, folder)
    return loop.progress


def _make_loop(
    plan: TrainingPlan,
    catalog: Catalog,
    anchors: AnchorTable | None,
    content: Content | None,
    worker: Worker,
    log_line: LogLine,
) -> Loop:
    if plan.variant == "base":
        return Loop(plan, RankerStep(Ranker(plan.model.ranker, catalog.sizes)), None, worker, log_line)
    if content is not None:
        config = TwoStageConfig(
            reads=READS[plan.variant],
            num_codes=content.num_codes,
            embedding_dim=content.table.shape[1],
            width=plan.model.width,
            ranker=plan.model.ranker,
        )
        return Loop(plan, RankerStep(TwoStageRanker(config, catalog.sizes)), None, worker, log_line)
    assert anchors is not None
    sarm = SARM(plan.model, catalog.sizes, anchors.rows)
    bank = MemoryBank(catalog.num_authors, plan.model.width, worker.device)
    return Loop(plan, TrainingSARM(sarm, *anchors.tokens.tensors()), bank, worker, log_line)
