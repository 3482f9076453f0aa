"""Seconds of training: Base, and SARM by encode budget, side by side on one thread, and where a step's time goes.

Variants take turns of a few steps on the same batches of one day, so that other work on the machine meets all alike;
time is CPU seconds of this process. The profile counts every operation for the block that asked for it, its gradient
included. The floor is what the matrix products alone would take at the rate that one core reaches on such shapes.

Makes the world of `--config` first, unless `--root` names a store that has examples, anchors and a tokenizer.
"""

import argparse
import json
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile, record_function
from torch.utils.flop_counter import FlopCounterMode

from models.composed import ComposedRanker, Sources
from models.optimizer import param_groups
from models.sarm.live_tokenizer.tokenizer import LiveStreamingTokenizer
from models.sarm.model import SARM
from models.sources import SourceSpec
from models.training import TrainingRanker
from pipelines.ranking.anchor_table import AnchorTable
from pipelines.ranking.plan import train_days
from pipelines.runtime.cluster import connected
from pipelines.samples import examples
from pipelines.samples.batches import DayBatches, build_catalog, read_examples
from pipelines.semantics import vocabulary
from pipelines.settings import Settings, read_settings
from pipelines.tables.artifacts import Artifacts
from pipelines.world import world
from tests.pipelines.jobs import run_job

CONFIG = "pipelines/configs/studies/table5.yaml"
BUDGETS = (None, 64, 32, 16, 8, 4)
OTHER = "gather, loss, rest"
_MARK, _GRADIENT = "block: ", "autograd::engine::evaluate_function"


class Data:
    """One day's batches, and what the models of that day need."""

    def __init__(self, settings: Settings) -> None:
        storage = settings.open().storage
        day = train_days(settings.train, storage)[-1]
        tokenizer = LiveStreamingTokenizer.load(Artifacts(storage).fetch(vocabulary.KIND))
        self.catalog, _ = build_catalog(storage, storage.days("examples")[-1])
        self.anchors = AnchorTable(storage, self.catalog, tokenizer).advance(before=day)
        self.batches = list(DayBatches(read_examples(storage, day), self.catalog, settings.train.batch_size))


class Trained:
    """A model in training over the day's batches, again and again."""

    def __init__(self, settings: Settings, data: Data, budget: int | None, *, base: bool) -> None:
        torch.manual_seed(0)
        sarm = replace(settings.train.models.sarm, encode_budget=budget)
        specs = () if base else (SourceSpec.of("sarm", SARM, sarm, data.anchors.rows),)
        self.model = ComposedRanker(settings.train.ranker, data.catalog.sizes, Sources(specs=specs))
        self.step = TrainingRanker(self.model)
        self.step.inputs = {} if base else {"sarm": data.anchors.tokens.tensors()}
        banks = {
            name: source.memory_bank(data.catalog.num_authors, torch.device("cpu"))
            for name, source in self.model.items()
        }
        self.banks = {name: bank for name, bank in banks.items() if bank is not None}
        rates = {name: getattr(settings.train, name) for name in ("lr_ids", "lr_encoder", "lr_dense", "l2_ids")}
        self.optimizer = torch.optim.Adam(param_groups(self.step, **rates), fused=True)
        self.batches, self.steps, self.encoded = data.batches, 0, 0

    def run(self, steps: int) -> None:
        """Trains so many steps."""
        for _ in range(steps):
            batch = self.batches[self.steps % len(self.batches)]
            self.optimizer.zero_grad()
            result = self.step(batch, self.banks)
            result.loss.backward()
            with record_function(_MARK + "optimizer"):
                self.optimizer.step()
            for name, fresh in result.fresh.items():
                with record_function(_MARK + "bank"):
                    self.banks[name].write(*fresh, self.steps)
                self.encoded += len(fresh.rows)
            self.steps += 1


def main(argv: list[str]) -> int:
    """Prints tables and one line of JSON; returns 0."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench training", description=__doc__)
    parser.add_argument("--config", default=CONFIG, help="configuration whose world and models are measured")
    parser.add_argument("--root", help="a store that stands already; it is only read")
    parser.add_argument("--rounds", type=int, default=20, help="turns of each variant")
    parser.add_argument("--steps", type=int, default=5, help="steps of a turn")
    parser.add_argument("--set", action="append", default=[], metavar="a.b=c", help="override one key, repeatable")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        settings = read_settings(args.config, args.set)
        root = args.root or f"{scratch}/store"
        settings = replace(settings, run_dir=f"{scratch}/run", storage=replace(settings.storage, root=root))
        if args.root is None:
            with connected(settings.cluster):
                for job in (world, vocabulary, examples):
                    run_job(job, settings)
        data = Data(settings)
    runs = {"base": Trained(settings, data, None, base=True)}
    runs |= {_name(budget): Trained(settings, data, budget, base=False) for budget in BUDGETS}
    times = _take_turns(runs, args.rounds, args.steps)
    profiles = {name: _profiled(runs[name], args.rounds) for name in ("base", "sarm", "budget_8")}
    figures = {
        "bench": "training",
        "batch_size": settings.train.batch_size,
        "variants": {name: _figures(name, run, times) for name, run in runs.items()},
        "gemm_gflops": round(_gemm_gflops(), 1),
        "profile_ms_per_step": profiles,
    }
    print(_tables(figures))
    print(json.dumps(figures))
    return 0


def _name(budget: int | None) -> str:
    return "sarm" if budget is None else f"budget_{budget}"


def _take_turns(runs: dict[str, Trained], rounds: int, steps: int) -> dict[str, list[float]]:
    """CPU seconds of a step, for every turn of every variant; the first turn of each warms it up."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(rounds + 1):
        for name, run in runs.items():
            started = time.process_time()
            run.run(steps)
            if turn:
                times[name].append((time.process_time() - started) / steps)
    return times


def _figures(name: str, run: Trained, times: dict[str, list[float]]) -> dict[str, Any]:
    """Medians over turns; `relative` pairs turns of one round."""
    ratios = np.array(times[name]) / np.array(times["base"])
    encoded = run.encoded / run.steps
    with FlopCounterMode(display=False) as counter:
        run.run(1)
    return {
        "cpu_s_per_1000_steps": round(1000 * float(np.median(times[name])), 2),
        "relative": round(float(np.median(ratios)), 3),
        "relative_quartiles": [round(float(q), 3) for q in np.percentile(ratios, (25, 75))],
        "authors_per_step": round(encoded, 1),
        "gflop_per_step": round(counter.get_total_flops() / 1e9, 3),
    }


def _gemm_gflops() -> float:
    """What one core reaches on a product of the encoder's shape, in its best of many runs."""
    x, weight = torch.randn(2048, 64), torch.randn(64, 128)
    best = float("inf")
    for _ in range(200):
        started = time.process_time()
        torch.mm(x, weight)
        best = min(best, time.process_time() - started)
    return 2 * 2048 * 64 * 128 / best / 1e9


def _blocks(run: Trained) -> Iterator[tuple[nn.Module, str, str]]:
    """(module, method, block): what is counted for which block; the innermost one counts."""
    ranker = run.model.ranker
    yield ranker, "forward", "ranker"
    yield ranker.home, "forward", "HoME"
    for _, source in run.model.items():
        assert isinstance(source, SARM)
        yield source.encoder, "packed", "encoder"
        for fusion in source.encoder.fusions.values():
            yield from ((fusion, "project", "fusion"), (fusion, "mix", "fusion"))
        yield source.identity, "forward", "[TAR]"
        if "uin" in source.config.representations:
            yield source.interest, "packed", "[UIN]"


@contextmanager
def _marked(run: Trained) -> Iterator[None]:
    """The blocks' methods, each within a mark that the profiler sees."""

    def within(block: str, method: Callable[..., Any]) -> Callable[..., Any]:
        def marked(*given: Any, **named: Any) -> Any:
            with record_function(_MARK + block):
                return method(*given, **named)

        return marked

    changed = list(_blocks(run))
    for module, method, block in changed:
        module.__dict__[method] = within(block, getattr(module, method))
    try:
        yield
    finally:
        for module, method, _ in changed:
            del module.__dict__[method]


def _profiled(run: Trained, repeats: int) -> dict[str, dict[str, float]]:
    """Milliseconds of a step by block: {block: {forward, backward}}; the profiler's own time is in them.

    The least over repeats of one batch, because the profiler has no other clock than the one on the wall.
    """
    run.batches = run.batches[len(run.batches) // 2 :][:1]
    steps = []
    with _marked(run):
        for _ in range(repeats):
            with profile(activities=[ProfilerActivity.CPU]) as found:
                run.run(1)
            steps.append(_by_block(found.events()))
    blocks = sorted({block for step in steps for block in step})
    sides = ("forward", "backward")
    return {b: {s: round(min(step[b][s] for step in steps) / 1e3, 2) for s in sides} for b in blocks}


def _by_block(events: Iterable[Any]) -> dict[str, dict[str, float]]:
    """Microseconds of one step."""
    total: dict[str, dict[str, float]] = defaultdict(lambda: {"forward": 0.0, "backward": 0.0})
    block_of: dict[int, str] = {}
    # In time order: an operation has the number of the next gradient node, and the one that makes it comes last.
    for event in sorted(events, key=lambda e: e.time_range.start):
        node = event
        while node is not None and not node.name.startswith((_MARK, _GRADIENT)):
            node = node.cpu_parent
        if node is not None and node.name.startswith(_GRADIENT):
            total[block_of.get(node.sequence_nr, OTHER)]["backward"] += event.self_cpu_time_total
            continue
        block = OTHER if node is None else node.name.removeprefix(_MARK)
        total[block]["forward"] += event.self_cpu_time_total
        if event.sequence_nr >= 0:
            block_of[event.sequence_nr] = block
    return total


def _tables(figures: dict[str, Any]) -> str:
    lines = [f"{'variant':<12}{'s / 1000 steps':>16}{'to Base':>9}{'quartiles':>16}{'authors':>9}{'floor ms':>10}"]
    for name, of in figures["variants"].items():
        low, high = of["relative_quartiles"]
        lines.append(
            f"{name:<12}{of['cpu_s_per_1000_steps']:>16.1f}{of['relative']:>9.2f}{f'{low:.2f} to {high:.2f}':>16}"
            f"{of['authors_per_step']:>9.1f}{1e3 * of['gflop_per_step'] / figures['gemm_gflops']:>10.1f}"
        )
    for name, blocks in figures["profile_ms_per_step"].items():
        whole = sum(sum(of.values()) for of in blocks.values())
        lines += ["", f"{name + ', ms a step':<24}{'forward':>9}{'backward':>10}{'share':>8}"]
        for block, of in sorted(blocks.items(), key=lambda item: -sum(item[1].values())):
            share = 100 * sum(of.values()) / whole
            lines.append(f"{block:<24}{of['forward']:>9.2f}{of['backward']:>10.2f}{share:>7.0f}%")
    return "\n".join(lines)
