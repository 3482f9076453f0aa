"""Runs of `follow` without Ray, published as the job does, and what two of them must have in common."""

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.numpy import load_file

from models.composed import ComposedRanker
from models.sarm.memory_bank import MemoryBank
from pipelines.ranking.checkpoint import OPTIMIZER, SEEN, Progress, bank_file, folder_after, state_kind
from pipelines.ranking.follow_plan import FollowPlan, make_follow_plan
from pipelines.ranking.following import follow as go_on
from pipelines.ranking.train import publish_ranker
from pipelines.ranking.worker import Worker
from pipelines.runtime.watch import Watch, unwatched
from pipelines.settings import Settings
from pipelines.tables.artifacts import Artifacts

DAYS = ("2026-01-01", "2026-01-02", "2026-01-03")
ROOMY = 10**9


class Killed(Exception):
    """Stands for a worker that dies."""


def plan_of(settings: Settings, keys: Sequence[str], sources: tuple[str, ...]) -> tuple[FollowPlan, dict[str, str]]:
    """As if no later days of examples were there yet."""
    run = settings.open()
    plan, made_from = make_follow_plan(settings.train, run, Artifacts(run.storage), sources)
    rows = dict(zip(plan.keys, plan.rows, strict=True))
    chosen = tuple(key for key in plan.keys if key in keys)
    steps = dict(zip(plan.keys, plan.steps, strict=True))
    of = {name: tuple(by_key[key] for key in chosen) for name, by_key in (("rows", rows), ("steps", steps))}
    return replace(plan, keys=chosen, **of), made_from


def follow_here(
    settings: Settings,
    keys: Sequence[str],
    work: Path,
    sources: tuple[str, ...] = ("sarm",),
    lines: list[str] | None = None,
    die_after: int = 0,
    watch: Watch = unwatched,
    resume: Path | None = None,
) -> Progress:
    """One run without Ray, published as the job does."""
    plan, made_from = plan_of(settings, keys, sources)
    storage, reported = settings.open().storage, []

    def report(metrics: object, folder: Path | None) -> None:
        reported.append(folder)
        if len(reported) == die_after:
            raise Killed

    progress = go_on(
        plan, storage, made_from,
        work=work, worker=Worker(), report=report,
        log_line=([] if lines is None else lines).append, watch=watch, resume=resume,
    )  # fmt: skip
    artifacts, folder = Artifacts(storage), work / folder_after(progress)
    artifacts.publish(state_kind(plan.name), folder, f"{plan.keys[-1]}-x", made_from)
    publish_ranker(folder, plan.name, f"{plan.keys[-1]}-x", artifacts, made_from)
    return progress


def assert_same(one: Path, two: Path, *banks: str) -> None:
    """Weights, optimizer, banks and who was seen, to the bit."""
    weights = [ComposedRanker.load(folder).state_dict() for folder in (one, two)]
    assert weights[0].keys() == weights[1].keys()
    assert all(torch.equal(tensor, weights[1][name]) for name, tensor in weights[0].items())
    states = [torch.load(folder / OPTIMIZER, weights_only=True) for folder in (one, two)]
    assert _equal(*states)
    for name in banks:
        held = [MemoryBank.load(folder / bank_file(name)) for folder in (one, two)]
        assert torch.equal(held[0].vectors, held[1].vectors) and held[0].vectors.any()
        assert torch.equal(held[0].written_step, held[1].written_step)
    seen = [load_file(folder / SEEN) for folder in (one, two)]
    assert all((seen[0][name] == seen[1][name]).all() for name in ("users", "authors"))


def _equal(one: Any, two: Any) -> bool:
    if isinstance(one, dict):
        return one.keys() == two.keys() and all(_equal(one[key], two[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(two) and all(map(_equal, one, two))
    return torch.equal(one, two) if isinstance(one, torch.Tensor) else bool(one == two)


def another(settings: Settings, root: Path) -> Settings:
    """The same platform, of which nothing was learnt yet."""
    shutil.copytree(settings.storage.root, root / "store")
    return replace(settings, storage=replace(settings.storage, root=str(root / "store")), run_dir=str(root / "run"))
