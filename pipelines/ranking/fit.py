"""Fits a ranker: epochs over the time keys, the choice of the best one, checkpoints. Does not know Ray.

Within an epoch keys come in order: before each, the sources move forward to it. Validation keys, where there are any,
are scored after every epoch. When that gets no better, training goes back to the best epoch and learns them last, once.
"""

import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from models.artifacts.manifest import Manifest
from models.metrics import gauc
from models.shard import spread
from pipelines.ranking.checkpoint import CATALOG, CATEGORIES, Progress, folder_after, full_disk_told
from pipelines.ranking.loop import LogLine, Loop, compose
from pipelines.ranking.plan import TrainingPlan
from pipelines.ranking.published import advance, score
from pipelines.ranking.variants import SOURCES
from pipelines.ranking.variants.source import Context, State
from pipelines.ranking.worker import Worker, from_first
from pipelines.runtime.watch import Watch, unwatched
from pipelines.samples.batches import build_catalog
from pipelines.samples.stream import DayStream
from pipelines.tables.artifacts import Artifacts
from pipelines.tables.columns import Columns
from pipelines.tables.days import day_number, day_of
from pipelines.tables.storage import Storage

Report = Callable[[Mapping[str, Any], Path | None], None]
"""Called by every worker at a checkpoint: metrics, and the checkpoint's folder where this worker wrote one."""


def train(
    plan: TrainingPlan,
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
    `made_from` is what `make_plan` gave with the plan.
    """
    torch.manual_seed(plan.seed)
    with spread(worker.shard):
        fit = _Fit(plan, storage, made_from, worker, log_line)
    fit.loop.watch = watch
    if resume is not None:
        fit.loop.restore(resume)
        log_line(f"{plan.name} | goes on from its checkpoint {folder_after(fit.loop.progress)}")
    go_through(fit, plan, work, report)
    if worker.rank == 0:
        fit.warn()
    return fit.loop.progress


class Course(Protocol):
    """The keys that are gone through, in order."""

    @property
    def name(self) -> str:
        """Of what learns."""
        ...

    def next_key(self, progress: Progress) -> str | None:
        """The one after all that are done; None at the end."""
        ...


class Steps(Protocol):
    """What `go_through` asks of a loop of training steps."""

    worker: Worker
    progress: Progress
    watch: Watch
    log_line: LogLine

    @property
    def settle_s(self) -> float:
        """Seconds that were needed to make the model what it is at this step."""
        ...

    def gathered(self) -> AbstractContextManager[None]:
        """Around the first worker's `save`, on every worker."""
        ...


class Learner(Protocol):
    """What goes through keys."""

    @property
    def loop(self) -> Steps:
        """Its steps."""
        ...

    def learn(self, key: str) -> Iterator[None]:
        """Learns a key, or what is left of it; yields where a checkpoint is due."""
        ...

    def save(self, folder: Path) -> None:
        """Leaves a checkpoint."""
        ...


def go_through(learner: Learner, plan: Course, work: Path, report: Report) -> None:
    """Through all keys of a plan that are left, reporting each checkpoint, whose manifest tells whether it is whole."""
    loop = learner.loop
    if loop.worker.rank == 0:
        loop.watch(loop.progress.step, {})
    while (key := plan.next_key(loop.progress)) is not None:
        for _ in learner.learn(key):
            loop, folder, line, started = learner.loop, None, "", time.perf_counter()
            if loop.worker.rank == 0:
                folder = work / folder_after(loop.progress)
            with loop.gathered():
                if folder is not None:
                    with full_disk_told(folder):
                        learner.save(folder)
                        Manifest.create(folder, kind="checkpoint", run_id=folder.name, made_from={})
            if folder is not None:
                gib = sum(file.stat().st_size for file in folder.iterdir()) / 2**30
                saved_s = time.perf_counter() - started
                line = f"{folder.name} | {gib:.2f} GiB | settled {loop.settle_s:.1f} s, saved {saved_s:.1f} s"
            started = time.perf_counter()
            is_last = plan.next_key(loop.progress) is None
            report({"key": key, "is_last": is_last, **loop.progress.curve[-1]}, folder)
            loop.log_line(f"{plan.name} | checkpoint {line}, kept {time.perf_counter() - started:.1f} s")


class _Fit:
    """A loop with the data that it goes through."""

    def __init__(
        self, plan: TrainingPlan, storage: Storage, made_from: Mapping[str, str], worker: Worker, log_line: LogLine
    ) -> None:
        self.plan, self.storage, self.worker, self.log_line = plan, storage, worker, log_line
        self.catalog, self.categories = build_catalog(storage, plan.catalog_until)
        self._context = Context(
            storage=storage, artifacts=Artifacts(storage), catalog=self.catalog, days=plan.days, made_from=made_from
        )
        self.states = self._open()
        self.tasks = list(plan.ranker.tasks)
        """The first one is that whose GAUC on the validation keys chooses the epoch."""
        self.loop = Loop(plan, compose(plan, self.catalog.sizes, self.states), worker, log_line)

    def _open(self) -> dict[str, State]:
        """States that know nothing yet: they move forward only, and every epoch begins with the first key again."""
        return {source.name: SOURCES[source.name].open(source.config, self._context) for source in self.plan.sources}

    def learn(self, key: str) -> Iterator[None]:
        """Trains on a key, or on what is left of it, and ends the epoch where it was the last of one.

        Yields where a checkpoint is due: within a long key, and at its end.
        """
        progress, plan = self.loop.progress, self.plan
        is_first = progress.epochs_end is None and len(progress.done) % len(plan.keys) == 0
        if is_first and progress.done:
            self.states = self._open()
        if progress.epochs_end == len(progress.done):
            self.states = self._open()
            if not progress.stretches:
                self.loop.go_back()
        stream = self._stream(key)
        self.loop.begin_key(advance(self.states, key))
        unsaved = 0
        for stretch in stream.after(progress.stretches):
            self._check(key, stretch.columns)
            self.loop.train_stretch(key, stretch)
            unsaved += sum(stretch.sizes)
            if unsaved >= plan.checkpoint_rows and progress.stretches < len(stream):
                self.loop.settle(key)
                yield
                unsaved = 0
        self.loop.end_key(key)
        if progress.epochs_end is None and len(progress.done) % len(plan.keys) == 0:
            self._end_epoch()
        yield

    def _stream(self, key: str) -> DayStream:
        """The key's examples, in an order of this epoch."""
        seed = [self.plan.seed, len(self.loop.progress.done), day_number(day_of(key))] if self.plan.shuffle else None
        worker, plan = self.worker, self.plan
        return DayStream(
            self.storage, key, self.catalog, plan.cut,
            seed=seed, tasks=self.tasks, rank=worker.rank, world=worker.world_size,
        )  # fmt: skip

    def _check(self, key: str, columns: Columns) -> None:
        for state in self.states.values():
            state.check(key, columns)

    def _end_epoch(self) -> None:
        plan, progress = self.plan, self.loop.progress
        epoch = len(progress.done) // len(plan.keys)
        if plan.validation:
            # One worker's figure for all: they must agree on when to stop.
            with self.loop.shards.reading():
                own = self._validate() if self.worker.rank == 0 else 0.0
            value = from_first(own, self.worker)
            progress.scores.append(value)
            if value == max(progress.scores):
                self.loop.keep_best()
            self.log_line(
                f"{plan.name} | epoch {epoch}/{plan.epochs} | {self.tasks[0]} GAUC {value:.4f} on "
                f"{plan.validation[0]} to {plan.validation[-1]} | best epoch {progress.best_epoch}"
            )
            if self.worker.rank == 0:
                self.loop.watch(progress.step, {f"validation/{self.tasks[0]}_gauc": value})
        is_stuck = bool(plan.validation) and epoch - progress.best_epoch >= plan.patience
        if is_stuck or epoch == plan.epochs:
            progress.epochs_end = len(progress.done)

    def _validate(self) -> float:
        """GAUC over all validation keys, each scored with what the sources knew before it."""
        states, self.states = self.states, self._open()
        model = self.loop.model.eval()
        labels, scores, users = [], [], []
        for key in self.plan.validation:
            inputs = advance(self.states, key)
            there = {name: tuple(part.to(self.worker.device) for part in of) for name, of in inputs.items()}
            tables = model.tables(there)
            stream = DayStream(self.storage, key, self.catalog, self.plan.cut, seed=None, tasks=())
            for stretch in stream.after(0):
                self._check(key, stretch.columns)
                labels.append(stretch.columns[self.tasks[0]])
                scores.append(score(model, self.catalog, stretch.columns, tables)[:, 0])
                users.append(stretch.columns["user_id"])
        self.states = states
        return gauc(np.concatenate(labels), np.concatenate(scores), np.concatenate(users))

    def warn(self) -> None:
        """Says what sources have to say of the data that they read."""
        for name, state in self.states.items():
            if warning := state.warning():
                self.log_line(f"{self.plan.name} | warning: {name}: {warning}")

    def save(self, folder: Path) -> None:
        """A checkpoint: all that the loop goes on from, and all that a published ranker has."""
        folder.mkdir(parents=True, exist_ok=True)
        self.loop.save(folder)
        self.catalog.save(folder / CATALOG)
        (folder / CATEGORIES).write_text(json.dumps(self.categories, ensure_ascii=False))
        for state in self.states.values():
            state.save(folder)
