"""Fits towers: epochs over the days of clicks, in the order of time, a checkpoint after each. Does not know Ray."""

import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist

from models.artifacts.towers import Towers
from models.larm.sampled_softmax import log_probability, log_rate
from models.larm.two_tower import TwoTower
from models.optimizer import RankerOptimizer
from models.whitening import Whitening
from pipelines.ranking.checkpoint import OPTIMIZER, PROGRESS, Progress, folder_after, read_progress
from pipelines.ranking.fit import Report, go_through
from pipelines.ranking.pace import Pace
from pipelines.ranking.worker import Exchange, Worker
from pipelines.retrieval.clicks import Click, ClickStream, Stretch, counts_by_author, segments_by_author
from pipelines.retrieval.towers_plan import TowersPlan
from pipelines.runtime.watch import Watch, unwatched
from pipelines.samples.batches import build_catalog
from pipelines.semantics import segment_vectors
from pipelines.tables.days import day_number
from pipelines.tables.storage import Storage

LogLine = Callable[[str], None]
_SEEN = 65_536
"""Segments, at least, whose embeddings say how all are read: whole parts of the newest days."""
_FIGURES = ("loss", "gate")


def fit(
    plan: TowersPlan,
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
    """Trains as the plan says and reports each checkpoint; goes on from the checkpoint `resume`.

    Every worker calls this with its own `worker`; the first one leaves a checkpoint below `work` at each report.
    """
    torch.manual_seed(plan.seed)
    loop = TowerLoop(plan, storage, worker, log_line)
    loop.watch = watch
    if resume is not None:
        loop.restore(resume)
        log_line(f"{plan.name} | goes on from its checkpoint {folder_after(loop.progress)}")
    go_through(loop, plan, work, report)
    return loop.progress


class TowerLoop:
    """Towers in training: steps over clicks, and one line every `log_every` of them."""

    settle_s = 0.0

    def __init__(self, plan: TowersPlan, storage: Storage, worker: Worker, log_line: LogLine) -> None:
        self.plan, self.worker, self.log_line = plan, worker, log_line
        self.progress = Progress()
        self.watch: Watch = unwatched
        self._storage = storage
        self._catalog, _ = build_catalog(storage, plan.catalog_until)
        self.model = TwoTower(plan.model, plan.facts, self._catalog.sizes)
        self._log_q = self._how_likely()
        self.model.read_by(*self._how_to_read())
        self.model.to(worker.device)
        self._optimizer = RankerOptimizer(
            self.model, lr_ids=plan.lr_ids, lr_encoder=plan.lr_dense, lr_dense=plan.lr_dense, l2_ids=plan.l2_ids
        )
        self._exchange = Exchange(self.model, worker)
        self._sums, self._since = torch.zeros(len(_FIGURES), dtype=torch.float64), 0
        self._clock, self._pace = 0.0, Pace()

    @property
    def loop(self) -> "TowerLoop":
        """Itself, for `go_through`."""
        return self

    def _how_likely(self) -> torch.Tensor:
        """log q [N+1] of authors to be in a step: of all days, or, in the order of time, while they are on air."""
        days = self.plan.days
        clicks = counts_by_author(self._storage, days, self._catalog, clicked=True)
        if self.plan.shuffle:
            return log_probability(clicks)
        return log_rate(clicks, segments_by_author(self._storage, days, self._catalog))

    def _how_to_read(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Center and axes of segment embeddings; the first worker's, so that all have the same bits."""
        space = self.plan.reading.space
        found = torch.zeros(space.width, space.width + 1)
        if self.worker.rank == 0:
            whitening = Whitening.fit(_newest_embeddings(self._storage, self.plan))
            found = torch.from_numpy(np.concatenate([whitening.mean[:, None], whitening.axes], axis=1))
        if self.worker.world_size > 1:
            found = found.to(self.worker.device)
            dist.broadcast(found, src=0)
        return found[:, 0].cpu(), found[:, 1:].cpu()

    def learn(self, key: str) -> Iterator[None]:
        """Trains on a day, or on what is left of it; yields where a checkpoint is due."""
        progress, plan, worker = self.progress, self.plan, self.worker
        seed = [plan.seed, len(progress.done), day_number(key)] if plan.shuffle else None
        stream = ClickStream(
            self._storage, key, plan.reading, plan.cut, seed=seed, rank=worker.rank, world=worker.world_size
        )
        unsaved = 0
        self.model.train()
        for stretch in stream.after(progress.stretches):
            self._train_stretch(key, stretch)
            unsaved += sum(stretch.sizes)
            if unsaved >= plan.checkpoint_rows and progress.stretches < len(stream):
                self._settle(key)
                yield
                unsaved = 0
        self._settle(key)
        progress.done.append(key)
        progress.stretches = 0
        yield

    def _train_stretch(self, key: str, stretch: Stretch) -> None:
        self.progress.waited_s += stretch.waited_s
        self._clock = time.perf_counter()
        steps = stretch.steps(self._catalog, self.plan.reading)
        for click, size in zip(steps, stretch.sizes, strict=True):
            self._step(click, size)
            if self.progress.step % self.plan.log_every == 0:
                self._log(key)
        self._tick()
        self.progress.stretches += 1

    def _step(self, click: Click, size: int) -> None:
        device, progress = self.worker.device, self.progress
        self._optimizer.scale(self.plan.rate_at(progress.step))
        self._optimizer.zero_grad()
        log_q = self._log_q[click.lives.author].to(device)
        loss, gate = self.model.loss(click.viewers.to(device), click.lives.to(device), log_q, self.worker.group)
        torch.autograd.backward(loss)
        self._exchange()
        self._optimizer.step()
        progress.step += 1
        progress.examples += size
        self._since += 1
        mean_gate = gate.detach().sum() * (self.worker.world_size / size)
        self._sums += torch.stack([loss.detach(), mean_gate]).cpu().double()

    def _settle(self, key: str) -> None:
        if self._since:
            self._log(key)
        self._optimizer.settle()

    def _tick(self) -> None:
        now = time.perf_counter()
        self.progress.seconds += now - self._clock
        self._clock = now

    def _log(self, key: str) -> None:
        self._tick()
        progress, plan = self.progress, self.plan
        means = self._sums / self._since
        if self.worker.world_size > 1:
            told = means.to(self.worker.device, torch.float32)
            dist.all_reduce(told)
            means = told.cpu().double() / self.worker.world_size
        self._sums.zero_()
        self._since = 0
        figures = dict(zip(_FIGURES, means.tolist(), strict=True))
        rate, waiting = self._pace.lap(progress.examples, progress.waited_s)
        progress.curve.append({"step": progress.step, **figures, "examples_per_s": rate})
        if self.worker.rank:
            return
        share = 100 * progress.step / plan.num_steps
        self.log_line(
            f"{plan.name} | step {progress.step}/{plan.num_steps} ({share:.0f} %) | {key} | loss {figures['loss']:.4f} "
            f"| content {figures['gate']:.3f} | {rate:.0f} clicks/s | waiting {100 * waiting:.0f} % "
            f"| eta {self._pace.eta_s(plan.num_examples - progress.examples):.0f} s"
        )
        self.watch(
            progress.step,
            {
                "loss/total": figures["loss"],
                "gate/content": figures["gate"],
                "pace/examples_per_s": rate,
                "pace/waiting_share": waiting,
                "learning/rate_share": plan.rate_at(progress.step),
            },
        )

    def gathered(self) -> AbstractContextManager[None]:
        """Every worker has whole tables."""
        return nullcontext()

    def towers(self) -> Towers:
        """As they are published."""
        reading = self.plan.reading
        return Towers(
            model=self.model,
            catalog=self._catalog,
            embeddings=reading.space.model,
            rule=self.plan.rule,
            codebook=None if reading.codes is None else reading.codes.codebook,
            mean_days=reading.mean_days,
        )

    def save(self, folder: Path) -> None:
        """A checkpoint: what is published, and what training goes on from."""
        folder.mkdir(parents=True, exist_ok=True)
        self.towers().save(folder)
        torch.save(self._optimizer.state_dict(), folder / OPTIMIZER)
        (folder / PROGRESS).write_text(json.dumps(asdict(self.progress)))

    def restore(self, folder: Path) -> None:
        """Goes on from what `save` wrote."""
        self.model.fill(folder)
        self._optimizer.load_state_dict(torch.load(folder / OPTIMIZER, map_location="cpu", weights_only=True))
        self.progress = read_progress(folder)
        self._pace = Pace(self.progress.examples, self.progress.waited_s)


def _newest_embeddings(
    storage: Storage, plan: TowersPlan
) -> Iterator[np.ndarray[tuple[int, ...], np.dtype[np.float32]]]:
    """Usable ones of the newest days that are learnt, part by part."""
    left, space = _SEEN, plan.reading.space
    known = storage.listing(space.table).up_to(until=plan.days[-1])
    for day in reversed(known):
        for part in segment_vectors.parts(storage, day, space):
            values = segment_vectors.read(storage, part, space).values
            left -= len(values)
            yield values
            if left <= 0:
                return
