"""Goes on with a ranker by days: each is scored, then its users and authors are admitted, then it is learnt, once.

An id gets a row with the day that brings it in `users` or `authors`. It loses it when it was in no example, and its row
did not change, for `forget_days`; where it comes back it begins anew. Rows, moments and banks of who stays move along.
"""

import copy
import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors.numpy import load_file, save_file
from torch import Tensor

from models.catalog import Catalog, CatalogSizes
from models.composed import ComposedRanker
from models.growth import kept_rows, moved_bank, take_over
from models.metrics import auc, calibration, gauc, normalised_entropy
from models.sarm.memory_bank import NEVER
from pipelines.ranking.checkpoint import CATALOG, CATEGORIES, PROGRESS, SEEN
from pipelines.ranking.follow_plan import FollowPlan
from pipelines.ranking.loop import LogLine, Loop, compose
from pipelines.ranking.published import advance, score
from pipelines.ranking.variants import SOURCES
from pipelines.ranking.variants.source import Context, State
from pipelines.ranking.worker import Worker
from pipelines.samples.batches import Still, build_catalog
from pipelines.samples.stream import DayStream
from pipelines.tables.artifacts import Artifacts
from pipelines.tables.columns import Columns
from pipelines.tables.days import day_number, day_of
from pipelines.tables.storage import Storage

_NEVER = 0
"""Day on which an id that was in no example yet was seen last."""


class ByDays:
    """A loop whose model grows with its catalog, day after day."""

    def __init__(
        self,
        plan: FollowPlan,
        storage: Storage,
        made_from: Mapping[str, str],
        worker: Worker,
        log_line: LogLine,
        state: Path | None,
    ) -> None:
        self.plan, self.storage, self.worker, self.log_line = plan, storage, worker, log_line
        self.artifacts = Artifacts(storage)
        self._made_from = made_from
        self.tasks = list(plan.ranker.tasks)
        if state is None:
            self._begin()
        else:
            self.restore(state)

    def _begin(self) -> None:
        """A new ranker, of those who are known on the first day."""
        self.catalog, self.categories = build_catalog(self.storage, day_of(self.plan.keys[0]))
        self.states = self._open()
        torch.manual_seed(self.plan.seed)
        self.loop = Loop(self.plan, compose(self.plan, self.catalog.sizes, self.states), self.worker, self.log_line)
        self._seen = {"users": _nobody(self.catalog.num_users), "authors": _nobody(self.catalog.num_authors)}

    def restore(self, folder: Path) -> None:
        """What a checkpoint has, or a published ranker that was trained without one."""
        self.catalog = Catalog.load(folder / CATALOG)
        self.categories = json.loads((folder / CATEGORIES).read_text(encoding="utf-8"))
        self.loop = Loop(self.plan, ComposedRanker.load(folder), self.worker, self.log_line)
        if (folder / PROGRESS).is_file():
            self.loop.restore(folder)
            self._seen = load_file(folder / SEEN)
        else:
            self.loop.progress = copy.deepcopy(self.plan.before)
            newest = day_number(day_of(self.plan.before.done[-1]))
            self._seen = {
                name: np.full(count + 1, newest, np.int32)
                for name, count in (("users", self.catalog.num_users), ("authors", self.catalog.num_authors))
            }
        self.states = self._open()

    def _open(self) -> dict[str, State]:
        """States that know nothing yet, for the rows of the catalog."""
        context = Context(
            storage=self.storage,
            artifacts=self.artifacts,
            catalog=self.catalog,
            days=self.plan.keys,
            made_from=self._made_from,
        )
        return {source.name: SOURCES[source.name].open(source.config, context) for source in self.plan.sources}

    def learn(self, key: str) -> Iterator[None]:
        """Scores a key, admits who is new, and learns it, or what is left of it; yields where a checkpoint is due."""
        if not self.loop.progress.stretches:
            if self._have_new_facts(self.states):  # a tokenizer that was extended since the day before
                same = [torch.arange(count + 1) for count in (self.catalog.num_users, self.catalog.num_authors)]
                self._grow(key, self.loop.model.sizes, self.states, *same)
            self.before_key(key)
        self.loop.begin_key(advance(self.states, key))
        for _ in self.learn_key(key):
            self.pause(key)
            yield
        self.pause(key)
        self.end_key(key)
        yield

    def before_key(self, key: str) -> None:
        """What comes before a key is learnt."""
        if self.loop.progress.done:
            self._judge(key)
        self.admit(key)

    def learn_key(self, key: str) -> Iterator[None]:
        """Learns what is left of a key; yields where it is worth a checkpoint before the end."""
        progress, unsaved = self.loop.progress, 0
        stream = self._stream(key, self.seed(key))
        for stretch in stream.after(progress.stretches):
            self.check(key, stretch.columns)
            self.note(key, stretch.columns)
            self.loop.train_stretch(key, stretch)
            unsaved += sum(stretch.sizes)
            if unsaved >= self.plan.checkpoint_rows and progress.stretches < len(stream):
                yield
                unsaved = 0

    def end_key(self, key: str) -> None:
        """The key is done."""
        self.loop.end_key(key)

    def seed(self, key: str) -> list[int] | None:
        """Of the order of a key; None is that of time."""
        return [self.plan.seed, day_number(day_of(key))] if self.plan.shuffle else None

    def _stream(self, key: str, seed: list[int] | None) -> DayStream:
        return DayStream(
            self.storage, key, self.catalog, self.plan.cut,
            seed=seed, tasks=self.tasks, screens=self.plan.screens, rank=self.worker.rank, world=self.worker.world_size,
        )  # fmt: skip

    def check(self, key: str, columns: Columns) -> None:
        """Raises ContractError for examples that were joined with other anchors than those in use."""
        for state in self.states.values():
            state.check(key, columns)

    def note(self, key: str, columns: Columns) -> None:
        """Remembers whom the examples of this worker show."""
        day = day_number(day_of(key))
        self._seen["users"][self.catalog.user_rows(np.unique(columns["user_id"]))] = day
        authors = np.unique(np.concatenate([columns["author_id"], columns["history_author_ids"].ravel()]))
        self._seen["authors"][self.catalog.author_rows(authors)] = day

    def pause(self, key: str) -> None:
        """Before a checkpoint: every worker knows what each has seen, and the model is whole."""
        self.loop.settle(key)
        for name, days in self._seen.items():
            shared = self.loop.exchange.newest(torch.from_numpy(days).to(self.worker.device))
            self._seen[name] = shared.cpu().numpy()

    def tables(self, key: str) -> dict[str, npt.NDArray[Any]]:
        """What the model says of every author as of a key, by source."""
        inputs = advance(self.states, key)
        there = {name: tuple(part.to(self.worker.device) for part in of) for name, of in inputs.items()}
        with self.loop.shards.reading():
            return self.loop.model.eval().tables(there)

    def _judge(self, key: str) -> None:
        """Scores a key with what is known before it, as serving would have, and keeps the figures.

        A bank that nothing was written to, as that of a ranker which was trained anew, begins with what serving reads.
        """
        tables = self.tables(key)
        for name, bank in self.loop.banks.items():
            if (bank.written_step == NEVER).all():
                everyone = torch.arange(len(tables[name]), device=self.worker.device)
                bank.write(everyone, torch.from_numpy(tables[name]).to(self.worker.device), self.loop.progress.step)
        with self.loop.shards.reading():
            parts = [self.score(key, stretch.columns, tables) for stretch in self._stream(key, None).after(0)]
        users, said = (torch.cat(of).to(self.worker.device) for of in zip(*parts, strict=True))
        gathered = self.loop.exchange.gather(users, said)
        if self.worker.rank == 0:
            self.judged(key, *gathered)

    def score(self, key: str, columns: Columns, tables: Mapping[str, npt.NDArray[Any]]) -> tuple[Tensor, Tensor]:
        """Examples as the model scores them now: their users [n], and labels and scores [n, 2, K]."""
        self.check(key, columns)
        scores = score(self.loop.model, self.catalog, columns, tables)
        labels = np.stack([columns[task] for task in self.tasks], axis=1)
        said = np.stack([labels, scores], axis=1).astype(np.float32)
        return torch.from_numpy(columns["user_id"].copy()), torch.from_numpy(said)

    def judged(self, key: str, users: Tensor, said: Tensor) -> None:
        """Keeps the figures of a key's examples, users [n] and labels and scores [n, 2, K], and says them."""
        groups, (labels, scores) = users.cpu().numpy(), said.cpu().numpy().transpose(1, 2, 0)
        figures: dict[str, Any] = {"key": key, "examples": len(groups)}
        for task, label, value in zip(self.tasks, labels, scores, strict=True):
            of = figures[task] = {
                "auc": auc(label, value),
                "gauc": gauc(label, value, groups),
                "normalised_entropy": normalised_entropy(label, value),
                "calibration": calibration(label, value),
            }
            # With the first step that learns the key: a run that goes on from the step before it judges the key again.
            named = {f"before_learning/{task}_{name}": figure for name, figure in of.items()}
            self.loop.watch(self.loop.progress.step + 1, named)
            shown = " | ".join(f"{name} {figure:.4f}" for name, figure in of.items())
            self.log_line(f"{self.plan.name} | {key} before learning it | {task} | {shown}")
        self.loop.progress.judged.append(figures)

    def admit(self, key: str) -> None:
        """The users and authors of a key's day get rows, and who was away for too long loses theirs."""
        day, forget = day_of(key), self.plan.forget_days
        still = None
        if forget is not None:
            first = day_number(day) - forget
            ids = {"users": self.catalog.user_ids, "authors": self.catalog.author_ids}
            still = {name: Still(seen=of[self._seen[name][1:] >= first], since=first) for name, of in ids.items()}
        catalog, categories = build_catalog(self.storage, day, self.categories, still)
        users = kept_rows(self.catalog.user_ids, catalog.user_ids)
        authors = kept_rows(self.catalog.author_ids, catalog.author_ids)
        before, self.catalog, self.categories = self.catalog, catalog, categories
        states = self._open()
        sizes = _at_least(catalog.sizes, self.loop.model.sizes)
        grown = sizes != self.loop.model.sizes or self._have_new_facts(states)
        if grown or not (_same(users) and _same(authors)):
            self._grow(key, sizes, states, users, authors)
        self._say(key, before, users, authors)
        self.states = states

    def _have_new_facts(self, states: dict[str, State]) -> bool:
        facts = {spec.name: spec.typed_facts() for spec in self.loop.model.described.specs}
        return any(states[name].facts != of for name, of in facts.items())

    def _grow(self, key: str, sizes: CatalogSizes, states: dict[str, State], users: Tensor, authors: Tensor) -> None:
        """A model of the new sizes that goes on with what the old one has learnt."""
        # What is drawn for new rows depends on the day alone, however many runs came before.
        torch.manual_seed(self.plan.seed * 1_000_003 + day_number(day_of(key)))
        old = self.loop
        model = compose(self.plan, sizes, states)
        self.loop = Loop(self.plan, model, self.worker, self.log_line)
        kept = {"model.ranker.users.weight": users, "model.ranker.authors.weight": authors}
        take_over(self.loop.step, old.step, kept, self.loop.optimizer, old.optimizer, old.shards.rows_of)
        for name, source in model.items():
            states[name].go_on(source, old.model.source(name))
        self.loop.banks = {name: moved_bank(bank, authors) for name, bank in old.banks.items()}
        self.loop.go_on_as(old)
        for name, rows in (("users", users), ("authors", authors)):
            moved = self._seen[name][rows.clamp(min=0).numpy()]
            moved[rows.numpy() < 0] = _NEVER
            self._seen[name] = moved

    def _say(self, key: str, before: Catalog, users: Tensor, authors: Tensor) -> None:
        counts = []
        for name, rows, size in (("users", users, before.num_users), ("authors", authors, before.num_authors)):
            new = int((rows < 0).sum())
            counts.append(f"{name} {len(rows) - 1}: {new} new, {size - (len(rows) - 1 - new)} forgotten")
        self.log_line(f"{self.plan.name} | {key} | {' | '.join(counts)}")

    def save(self, folder: Path) -> None:
        """A checkpoint: all that a later run goes on from, and all that a published ranker has."""
        folder.mkdir(parents=True, exist_ok=True)
        self.loop.save(folder)
        self.catalog.save(folder / CATALOG)
        (folder / CATEGORIES).write_text(json.dumps(self.categories, ensure_ascii=False))
        save_file(self._seen, folder / SEEN)
        for state in self.states.values():
            state.save(folder)


def _nobody(count: int) -> np.ndarray[Any, np.dtype[np.int32]]:
    return np.full(count + 1, _NEVER, np.int32)


def _same(rows: Tensor) -> bool:
    return torch.equal(rows, torch.arange(len(rows)))


def _at_least(sizes: CatalogSizes, before: CatalogSizes) -> CatalogSizes:
    """Tables of small values never shrink: a value that nobody has today may come back."""
    pairs = zip(sizes.profile_cardinalities, before.profile_cardinalities, strict=True)
    return replace(
        sizes,
        profile_cardinalities=tuple(max(pair) for pair in pairs),
        num_categories=max(sizes.num_categories, before.num_categories),
    )
