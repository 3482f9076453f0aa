"""Seconds of training: Base, and SARM by encode window and budget, on one thread, and where a step's time goes.

Variants take turns of some steps on the same batches of one day, so that other work on the machine meets all alike;
time is CPU seconds of this process. The profile counts every operation for the block that asked for it, its gradient
included. The floor is what the matrix products alone would take at the rate that one core reaches on such shapes.

Makes the world of `--config` first, unless `--root` names a store that has examples, anchors and a tokenizer.
"""

import argparse
import json
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile, record_function
from torch.utils.flop_counter import FlopCounterMode

from models.batch import RankingBatch
from models.catalog import CatalogSizes
from models.composed import ComposedRanker, Sources
from models.optimizer import RankerOptimizer
from models.sarm.anchor_tokens import TokenRows
from models.sarm.live_tokenizer.tokenizer import LiveStreamingTokenizer
from models.sarm.model import REPRESENTATIONS, SARM, SARMConfig
from models.sources import Inputs, SourceSpec
from models.training import TrainingRanker, Window
from pipelines.ranking.anchor_table import AnchorTable
from pipelines.ranking.plan import TrainConfig, train_days
from pipelines.runtime.cluster import connected
from pipelines.runtime.freed_memory import keep_freed_memory
from pipelines.samples import examples
from pipelines.samples.batches import Batches, build_catalog, num_batches, read_examples
from pipelines.semantics import vocabulary
from pipelines.settings import Settings, read_settings
from pipelines.tables.artifacts import Artifacts
from pipelines.world import world
from tests.pipelines.jobs import run_job

CONFIG = "pipelines/configs/studies/fitted.yaml"
WINDOWS = (1, 4, 8, 16, 32)
BUDGETS = (64, 32, 16, 8, 4)
OTHER = "gather, loss, rest"
_MARK, _GRADIENT = "block: ", "autograd::engine::evaluate_function"


@dataclass(frozen=True, kw_only=True, slots=True)
class Data:
    """Batches, and what the models that learn from them need."""

    batches: Sequence[RankingBatch]
    sizes: CatalogSizes
    rows: TokenRows
    tokens: Inputs


def day_of(settings: Settings) -> Data:
    """The newest day of training."""
    storage = settings.open().storage
    day = train_days(settings.train, storage)[-1]
    tokenizer = LiveStreamingTokenizer.load(Artifacts(storage).fetch(vocabulary.KIND))
    catalog, _ = build_catalog(storage, storage.days("examples")[-1])
    anchors = AnchorTable(storage, catalog, tokenizer).advance(before=day)
    tasks, size = list(settings.train.ranker.tasks), settings.train.batch_size
    columns = read_examples(storage, day)
    batches = list(Batches(columns, catalog, num_batches(len(columns["user_id"]), size), tasks=tasks))
    return Data(batches=batches, sizes=catalog.sizes, rows=anchors.rows, tokens=anchors.tokens.tensors())


class Trained:
    """A model in training over the batches, again and again; without `sarm` it is Base."""

    def __init__(self, train: TrainConfig, data: Data, sarm: SARMConfig | None, window: int = 1) -> None:
        torch.manual_seed(0)
        specs = () if sarm is None else (SourceSpec.of("sarm", SARM, sarm, data.rows),)
        self.model = ComposedRanker(train.ranker, data.sizes, Sources(specs=specs))
        self.step = TrainingRanker(self.model)
        self.step.inputs = {} if sarm is None else {"sarm": data.tokens}
        banks = {
            name: source.memory_bank(data.sizes.num_authors, torch.device("cpu")) for name, source in self.model.items()
        }
        self.banks = {name: bank for name, bank in banks.items() if bank is not None}
        rates = {name: getattr(train, name) for name in ("lr_ids", "lr_encoder", "lr_dense", "l2_ids")}
        self.optimizer = RankerOptimizer(self.step, **rates)
        self.batches, self.window, self.steps, self.encoded = data.batches, window, 0, 0

    def run(self, steps: int) -> None:
        """Trains so many steps, or up to the end of a window beyond them."""
        end = self.steps + steps
        while self.steps < end:
            self._run_window([self.batches[(self.steps + i) % len(self.batches)] for i in range(self.window)])

    def _run_window(self, batches: Sequence[RankingBatch]) -> None:
        window = Window(self.step, batches, self.banks)
        for index, batch in enumerate(batches):
            self.optimizer.zero_grad()
            self.step(batch, self.banks, window.encoded).loss.backward()
            if index == len(batches) - 1:
                window.backward()
            with record_function(_MARK + "optimizer"):
                self.optimizer.step()
            self.steps += 1
        for name, encoded in window.encoded.items():
            with record_function(_MARK + "bank"):
                self.banks[name].write(*encoded, self.steps)
            self.encoded += len(encoded.rows)


def main(argv: list[str]) -> int:
    """Prints tables and one line of JSON; returns 0."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench training", description=__doc__)
    parser.add_argument("--config", default=CONFIG, help="configuration whose world and models are measured")
    parser.add_argument("--root", help="a store that stands already; it is only read")
    parser.add_argument("--rounds", type=int, default=6, help="turns of each variant")
    parser.add_argument("--steps", type=int, default=32, help="steps of a turn, a multiple of every window")
    parser.add_argument("--set", action="append", default=[], metavar="a.b=c", help="override one key, repeatable")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    keep_freed_memory()
    with tempfile.TemporaryDirectory() as scratch:
        settings = read_settings(args.config, args.set)
        root = args.root or f"{scratch}/store"
        settings = replace(settings, run_dir=f"{scratch}/run", storage=replace(settings.storage, root=root))
        if args.root is None:
            with connected(settings.cluster):
                for job in (world, vocabulary, examples):
                    run_job(job, settings)
        data = day_of(settings)
    sarm = settings.train.models.sarm
    full = replace(sarm, representations=REPRESENTATIONS)
    runs = {"base": Trained(settings.train, data, None)}
    runs |= {f"window_{window}": Trained(settings.train, data, sarm, window) for window in WINDOWS}
    runs["uin_4"] = Trained(settings.train, data, full, 4)
    runs |= {f"budget_{most}": Trained(settings.train, data, replace(sarm, encode_budget=most)) for most in BUDGETS}
    times = take_turns(runs, args.rounds, args.steps)
    profiles = {name: _profiled(runs[name], args.rounds) for name in ("base", "window_1", "budget_8")}
    figures = {
        "bench": "training",
        "batch_size": settings.train.batch_size,
        "variants": {name: figures_of(name, run, times) for name, run in runs.items()},
        "gemm_gflops": round(gemm_gflops(), 1),
        "profile_ms_per_step": profiles,
    }
    print(table(figures))
    print(_profile_tables(profiles))
    print(json.dumps(figures))
    return 0


def take_turns(runs: dict[str, Trained], rounds: int, steps: int) -> dict[str, list[float]]:
    """CPU seconds of a step, for every turn of every variant; the first turn of each warms it up."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(rounds + 1):
        for name, run in runs.items():
            started, before = time.process_time(), run.steps
            run.run(steps)
            if turn:
                times[name].append((time.process_time() - started) / (run.steps - before))
    return times


def figures_of(name: str, run: Trained, times: dict[str, list[float]]) -> dict[str, Any]:
    """Medians over turns; `relative` pairs turns of one round."""
    ratios = np.array(times[name]) / np.array(times["base"])
    encoded = run.encoded / run.steps
    with FlopCounterMode(display=False) as counter:
        run.run(run.window)
    return {
        "cpu_s_per_1000_steps": round(1000 * float(np.median(times[name])), 2),
        "relative": round(float(np.median(ratios)), 3),
        "relative_quartiles": [round(float(q), 3) for q in np.percentile(ratios, (25, 75))],
        "authors_per_step": round(encoded, 1),
        "gflop_per_step": round(counter.get_total_flops() / 1e9 / run.window, 3),
    }


def gemm_gflops() -> float:
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


def table(figures: dict[str, Any]) -> str:
    """A line for each variant."""
    lines = [f"{'variant':<12}{'s / 1000 steps':>16}{'to Base':>9}{'quartiles':>16}{'authors':>9}{'floor ms':>10}"]
    for name, of in figures["variants"].items():
        low, high = of["relative_quartiles"]
        lines.append(
            f"{name:<12}{of['cpu_s_per_1000_steps']:>16.1f}{of['relative']:>9.2f}{f'{low:.2f} to {high:.2f}':>16}"
            f"{of['authors_per_step']:>9.1f}{1e3 * of['gflop_per_step'] / figures['gemm_gflops']:>10.1f}"
        )
    return "\n".join(lines)


def _profile_tables(profiles: dict[str, dict[str, dict[str, float]]]) -> str:
    lines = []
    for name, blocks in profiles.items():
        whole = sum(sum(of.values()) for of in blocks.values())
        lines += ["", f"{name + ', ms a step':<24}{'forward':>9}{'backward':>10}{'share':>8}"]
        for block, of in sorted(blocks.items(), key=lambda item: -sum(item[1].values())):
            share = 100 * sum(of.values()) / whole
            lines.append(f"{block:<24}{of['forward']:>9.2f}{of['backward']:>10.2f}{share:>7.0f}%")
    return "\n".join(lines)
