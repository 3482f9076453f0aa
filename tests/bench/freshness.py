"""What fresh vectors and fresh weights are worth: the next 30 seconds, scored by what serving may have by then.

SARM follows all days of a simulated platform but the newest `--days` by days, then those by windows. Everybody who is
shown something is scored three times before the window is learnt: by the ranker and the bank of the day's beginning; by
that ranker with the bank and its deltas up to then, which is what serving has; and by the ranker as it is by then.
Everything runs in this process, without Ray.
"""

import argparse
import copy
import json
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from models.metrics import gauc
from pipelines.ranking.by_days import ByDays
from pipelines.ranking.by_windows import ByWindows
from pipelines.ranking.checkpoint import folder_after, state_kind
from pipelines.ranking.fit import go_through
from pipelines.ranking.follow_plan import make_follow_plan
from pipelines.ranking.published import score
from pipelines.ranking.train import publish_ranker
from pipelines.ranking.worker import Worker
from pipelines.samples import window_examples, windows
from pipelines.samples.window_stream import SpanShare
from pipelines.settings import Settings, read_settings
from pipelines.tables.artifacts import Artifacts
from tests.bench import stores
from tests.pipelines.jobs import run_job

CONFIG = "pipelines/configs/studies/table1.yaml"
WAYS = ("ranker and bank of the morning", "that ranker, bank and deltas: served", "ranker and bank as they are")


class Probe(ByWindows):
    """Keeps what each way says of every impression."""

    def before_key(self, key: str) -> None:
        """Also keeps what the day begins with."""
        super().before_key(key)
        self.frozen = copy.deepcopy(self.loop.model).eval()
        self.full = {name: bank.vectors.clone().numpy() for name, bank in self.loop.banks.items()}
        self.scores: list[list[Any]] = [[] for _ in WAYS]
        self.users: list[Any] = []
        self.labels: list[Any] = []

    def learn_span(self, key: str, span: SpanShare) -> None:
        """Also scores it in every way."""
        if len(span.shown.get("user_id", ())):
            now = {name: bank.vectors.numpy() for name, bank in self.loop.banks.items()}
            self.loop.step.eval()
            ways = ((self.frozen, self.full), (self.frozen, now), (self.loop.model, now))
            for scores, (model, tables) in zip(self.scores, ways, strict=True):
                scores.append(score(model, self.catalog, span.shown, tables))
            self.loop.step.train()
            self.users.append(span.shown["user_id"])
            self.labels.append(np.stack([span.shown[task] for task in self.tasks], axis=1))
        super().learn_span(key, span)

    def figures(self) -> dict[str, dict[str, float]]:
        """GAUC of the day by way and task."""
        users, labels = np.concatenate(self.users), np.concatenate(self.labels)
        found = {}
        for way, scores in zip(WAYS, self.scores, strict=True):
            said = np.concatenate(scores)
            columns = enumerate(self.tasks)
            found[way] = {task: round(gauc(labels[:, at], said[:, at], users), 4) for at, task in columns}
        return found


def main(argv: list[str]) -> int:
    """Prints a table and one line of JSON; returns 0."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench freshness", description=__doc__)
    parser.add_argument("--config", default=CONFIG, help="configuration whose world and models are measured")
    parser.add_argument("--root", help="a store that stands already, made with this seed; it is only read")
    parser.add_argument("--days", type=int, default=3)
    parser.add_argument("--set", action="append", default=[], metavar="a.b=c", help="override one key, repeatable")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        settings = stores.at(Path(scratch), read_settings(args.config, args.set), args.root)
        settings = replace(settings, train=replace(settings.train, sources=("sarm",), base=False))
        run_job(windows, settings)
        window_examples.run(settings.examples, settings.open())
        by_day = measured(settings, Path(scratch), args.days)
    tasks = list(next(iter(by_day.values()))[WAYS[0]])
    for day, figures in by_day.items():
        print(f"{day:<44}" + "".join(f"{task:>12}" for task in tasks))
        for way in WAYS:
            print(f"  {way:<42}" + "".join(f"{figures[way][task]:>12.4f}" for task in tasks))
    print(json.dumps({"bench": "freshness", "seed": settings.seed, "options": vars(args), "gauc": by_day}))
    return 0


def measured(settings: Settings, scratch: Path, days: int) -> dict[str, dict[str, dict[str, float]]]:
    """By day, the figures of every way."""
    by_days = replace(settings, train=replace(settings.train, follow=replace(settings.train.follow, by="days")))
    _followed(by_days, scratch / "days", leave=days)
    by_windows = replace(settings.train.follow, by="windows")
    windowed, found = replace(settings, train=replace(settings.train, follow=by_windows)), {}
    for left in reversed(range(days)):
        probe = _followed(windowed, scratch / f"windows-{left}", leave=left)
        assert isinstance(probe, Probe)
        found[probe.plan.keys[-1]] = probe.figures()
    return found


def _followed(settings: Settings, work: Path, leave: int) -> ByDays:
    """Follows the days that are new, but for the newest ones, and publishes what came of it."""
    storage = settings.open().storage
    artifacts = Artifacts(storage)
    plan, made_from = make_follow_plan(settings.train, settings.open(), artifacts, ("sarm",))
    many = len(plan.keys) - leave
    plan = replace(plan, keys=plan.keys[:many], rows=plan.rows[:many], steps=plan.steps[:many])
    state = None if plan.state is None else artifacts.fetch(*plan.state)
    learner = (ByDays if plan.window_ms is None else Probe)(plan, storage, made_from, Worker(), lambda _: None, state)
    go_through(learner, plan, work, lambda *_: None)
    folder, run_id = work / folder_after(learner.loop.progress), f"{plan.keys[-1]}-x"
    artifacts.publish(state_kind("sarm"), folder, run_id, made_from)
    publish_ranker(folder, "sarm", run_id, artifacts, made_from)
    return learner
