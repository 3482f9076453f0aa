"""Goes on with a ranker by windows of seconds, within each day of a stream of samples.

Whoever was shown something in a window is scored by what is known before it, with the labels that the impression has in
the end. Then what was reported in the window is learnt. So a day's figures are those of a ranker that is seconds old.

A day begins with a table of all its authors, as the bank that serving reads has them; who is new is as the unknown
author there. From then on an author's vectors are those of the step that encoded it last, here as in the deltas of
that bank, which bring them to serving.
"""

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy.typing as npt
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from models.metrics import auc
from models.sarm.memory_bank import NEVER
from pipelines.ranking.by_days import ByDays
from pipelines.ranking.checkpoint import SAID
from pipelines.ranking.deltas import DeltaFeed
from pipelines.samples.event_reader import day_start_ms
from pipelines.samples.window_stream import SpanShare, WindowStream
from pipelines.tables.days import day_of

_HOUR_MS = 3_600_000


class ByWindows(ByDays):
    """A loop whose model grows with its catalog, window after window."""

    def __init__(self, *given: Any) -> None:
        self._said: list[tuple[Tensor, Tensor]] = []
        """Users, and labels and scores, of this worker's impressions since the last pause."""
        self._of_all: list[tuple[Tensor, Tensor]] = []
        """Those of all workers up to then, in the first one."""
        self._still: dict[str, npt.NDArray[Any]] = {}
        """Tables of sources without a memory bank, which stay what they are for a key."""
        super().__init__(*given)
        self._feed = None
        if self.plan.bank is not None and self.worker.rank == 0:
            self._feed = DeltaFeed(self.artifacts, self.plan.bank)

    def restore(self, folder: Path) -> None:
        """Also what was scored of a key that is not done."""
        super().restore(folder)
        if (folder / SAID).is_file() and self.worker.rank == 0:
            said = load_file(folder / SAID)
            self._of_all = [(said["users"], said["said"])]

    def before_key(self, key: str) -> None:
        """Begins with what serving has, and admits who is new."""
        everyone = self.tables(key)
        for name, bank in self.loop.banks.items():
            vectors = torch.from_numpy(everyone[name]).to(self.worker.device)
            bank.write(torch.arange(len(vectors), device=self.worker.device), vectors, self.loop.progress.step)
        is_first = self.loop.progress.bank != (self.plan.bank or "")
        self.admit(key)
        for name, bank in self.loop.banks.items():
            bank.vectors[bank.written_step == NEVER] = bank.vectors[0].clone()
            self.loop.touched[name].fill_(not is_first)
        progress = self.loop.progress
        progress.until_ms = day_start_ms(day_of(key))
        if is_first and self.plan.bank is not None:
            progress.bank, progress.deltas = self.plan.bank, 0
            if self._feed is not None:
                progress.deltas = self._feed.begin(self.loop.banks, self.catalog, self.states, progress.until_ms)

    def learn_key(self, key: str) -> Iterator[None]:
        """Scores and learns the spans that are left of a key; yields where it is worth a checkpoint before the end."""
        assert self.plan.window_ms is not None
        progress, unsaved, sent_ms = self.loop.progress, 0, self.loop.progress.until_ms
        told = 0  # of what was scored since the last pause, how much was told of
        if len(self.loop.banks) < len(self.plan.sources):
            self._still = {name: of for name, of in self.tables(key).items() if name not in self.loop.banks}
        stream = WindowStream(
            self.storage, key, self.catalog, self.plan.cut, window_ms=self.plan.window_ms,
            seed=self.seed(key), tasks=self.tasks, screens=self.plan.screens,
            rank=self.worker.rank, world=self.worker.world_size,
        )  # fmt: skip
        for span in stream.after(progress.stretches):
            self.learn_span(key, span)
            hour, progress.until_ms = progress.until_ms // _HOUR_MS, span.until_ms
            unsaved += sum(span.told.sizes)
            is_due = unsaved >= self.plan.checkpoint_rows and progress.stretches < len(stream)
            if is_due or span.until_ms // _HOUR_MS > hour:
                self._tell(key, self._said[told:])
                told = len(self._said)
            if self.plan.delta_ms is not None and span.until_ms - sent_ms >= self.plan.delta_ms:
                self._send()
                sent_ms = span.until_ms
            if is_due:
                yield
                unsaved, told, sent_ms = 0, 0, span.until_ms

    def learn_span(self, key: str, span: SpanShare) -> None:
        """Scores who was shown something in a span, then learns what was reported in it."""
        with self.loop.shards.reading():
            if len(span.shown.get("user_id", ())):
                self.loop.step.eval()
                tables = {name: bank.vectors.cpu().numpy() for name, bank in self.loop.banks.items()}
                self._said.append(self.score(key, span.shown, self._still | tables))
                self.loop.step.train()
                self.note(key, span.shown)
        self.check(key, span.told.columns)
        self.note(key, span.told.columns)
        self.loop.train_stretch(key, span.told)

    def _tell(self, key: str, said: list[tuple[Tensor, Tensor]]) -> None:
        """A line of the impressions that the first worker has scored since the last one."""
        if self.worker.rank or not said:
            return
        labels, scores = torch.cat([of for _, of in said])[:, :, 0].numpy().T
        value, task = auc(labels, scores), self.tasks[0]
        at = datetime.fromtimestamp(self.loop.progress.until_ms / 1000, UTC).strftime("%H:%M")
        counts = f"{len(labels)} impressions before their windows were learnt"
        self.log_line(f"{self.plan.name} | {key} {at} | {task} AUC {value:.4f} of {counts}")
        self.loop.watch(self.loop.progress.step, {f"before_learning/{task}_auc_by_the_hour": value})

    def _send(self) -> None:
        """What was encoded since the last delta becomes one. All workers count it, and the first one publishes it."""
        if self.plan.bank is None or not any(touched.any() for touched in self.loop.touched.values()):
            return
        progress = self.loop.progress
        progress.deltas += 1
        if self._feed is not None:
            self._feed.send(
                progress.deltas, self.loop.banks, self.loop.touched, self.catalog, self.states, progress.until_ms
            )
        for touched in self.loop.touched.values():
            touched.zero_()

    def pause(self, key: str) -> None:
        """Before a checkpoint, also: what is learnt is sent, and the first worker has all that was scored."""
        super().pause(key)
        self._send()
        nothing = torch.zeros(0, dtype=torch.int64), torch.zeros(0, 2, len(self.tasks))
        users, said = (torch.cat(of).to(self.worker.device) for of in zip(nothing, *self._said, strict=True))
        self._of_all.append(self.loop.exchange.gather(users, said))
        self._said = []

    def end_key(self, key: str) -> None:
        """The key is done, and its figures are known."""
        if self.worker.rank == 0:
            self.judged(key, *(torch.cat(of) for of in zip(*self._of_all, strict=True)))
        self._of_all = []
        super().end_key(key)

    def save(self, folder: Path) -> None:
        """Also what was scored of a key that is not done."""
        super().save(folder)
        if self._of_all:
            users, said = (torch.cat(of).cpu() for of in zip(*self._of_all, strict=True))
            save_file({"users": users, "said": said}, folder / SAID)
