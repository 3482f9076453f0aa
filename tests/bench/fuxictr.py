"""Samples a second of training: Base against MMoE of FuxiCTR, at equal dense parameters, on one thread.

Both learn from the same random batches, which lie in memory as tensors, in turns of some steps; each turn is timed in
CPU seconds of its own process. FuxiCTR lives in an environment of its own (`--python`) and never in the project's.
Its package has the base class, the embeddings, the blocks and the training step of MMoE; the 20 lines of the model
itself are only in its repository, so `_mmoe` puts the blocks together after the paper (Ma et al., KDD 2018, eq. 5 to
7): experts and gates that are each a block, a softmax for each gate, a tower for each task.

What is equal: four tasks with binary cross-entropy, ids of width 32, the batch, a history of 20 authors, Adam, the
data. FuxiCTR's defaults stay, as `MultiTaskModel.train_step` has them. What differs:

- Base alone: attention of the target over the history with its ages and watch times, cross layers, products of user,
  author and interest, batch norm, feature gates, two layers of experts, L2 over all ids, fused Adam.
- MMoE alone: every field 32 wide where Base has profile columns of 8, the mean of the history, clipping of the
  gradients' norm, Adam in torch's default way.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

TASKS = ("click", "long_view", "follow", "gift")
USERS, AUTHORS, PROFILE, CATEGORIES, HISTORY, WIDTH = 4_000, 1_000, 4, 12, 20, 32
EXPERTS, EXPERT_DIM, TOWER = 4, 64, 32
"""Experts of MMoE, their output's width, and the hidden width of a tower; an expert's hidden width is fitted."""


def main(argv: list[str]) -> int:
    """Prints a table and one line of JSON; returns 0, also where FuxiCTR is not there."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench fuxictr", description=__doc__)
    parser.add_argument("--python", default="", help="interpreter of an environment that has fuxictr")
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=12, help="turns of each side")
    parser.add_argument("--steps", type=int, default=32, help="steps of a turn")
    args = parser.parse_args(argv)
    if not args.python or subprocess.run([args.python, "-c", "import fuxictr, torch"], capture_output=True).returncode:
        print("skipped: make it with `python3 -m venv fuxi && fuxi/bin/pip install fuxictr torch`, name --python")
        print(json.dumps({"bench": "fuxictr", "skipped": "no environment with fuxictr"}))
        return 0
    print_figures(measured(args), args.batch_size)
    return 0


def measured(args: argparse.Namespace) -> dict[str, Any]:
    """Seconds of a step of both sides, turn by turn, and their dense parameters."""
    import numpy as np
    import torch

    from pipelines.ranking.plan import TrainConfig
    from tests.bench.ids import Ids, Run

    torch.set_num_threads(1)
    base = Run(Ids(users=USERS, authors=AUTHORS, skew=0.0), args.batch_size, TrainConfig())
    dense = next(group for group in base.optimizer.groups if group["name"] == "dense")["params"]
    count = sum(parameter.numel() for parameter in dense)
    with tempfile.TemporaryDirectory() as folder:
        names = ("user", "user_profile", "author", "author_category", "hour", "history", "labels")
        for name in names:
            np.save(f"{folder}/{name}.npy", np.stack([getattr(batch, name).numpy() for batch in base.batches]))
        command = [args.python, str(Path(__file__).resolve()), folder, str(count)]
        other = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        try:
            times = _turns(base, other, args)
        finally:
            other.kill()
            other.wait()
    return {"base": times["base"], "mmoe": times["mmoe"], "dense": {"base": count, "mmoe": times["dense"]}}


def _turns(base: Any, other: subprocess.Popen[str], args: argparse.Namespace) -> dict[str, Any]:
    assert other.stdin is not None and other.stdout is not None
    times: dict[str, Any] = {"base": [], "mmoe": [], "dense": int(json.loads(other.stdout.readline()))}
    for turn in range(args.rounds + 1):
        own = base.train(args.steps)
        other.stdin.write(f"{args.steps}\n")
        other.stdin.flush()
        answer = float(json.loads(other.stdout.readline()))
        if turn:  # the first turn warms up
            times["base"].append(own)
            times["mmoe"].append(answer)
    return times


def print_figures(found: dict[str, Any], batch_size: int) -> None:
    """A line for each side, and the JSON."""
    import numpy as np

    ratios = np.array(found["mmoe"]) / np.array(found["base"])
    figures: dict[str, Any] = {"bench": "fuxictr", "batch_size": batch_size, "sides": {}}
    print(f"{'model':<8}{'dense':>10}{'ms / step':>11}{'quartiles':>18}{'samples / s':>13}")
    for side in ("base", "mmoe"):
        low, mid, high = (1e3 * float(q) for q in np.percentile(found[side], (25, 50, 75)))
        dense, rate = found["dense"][side], 1e3 * batch_size / mid
        quartiles = [round(low, 2), round(high, 2)]
        figures["sides"][side] = {
            "dense": dense,
            "ms": round(mid, 2),
            "quartiles": quartiles,
            "samples_s": round(rate),
        }
        print(f"{side:<8}{dense:>10}{mid:>11.2f}{f'{low:.2f} to {high:.2f}':>18}{rate:>13.0f}")
    figures["base_to_mmoe"] = round(float(np.median(ratios)), 3)
    figures["base_to_mmoe_quartiles"] = [round(float(q), 3) for q in np.percentile(ratios, (25, 75))]
    print(f"Base does {figures['base_to_mmoe']} times the samples of MMoE, {figures['base_to_mmoe_quartiles']}")
    print(json.dumps(figures))


# ---- The other side: run by the interpreter of FuxiCTR's environment -------------------------------------------------


def _other_side(folder: str, wanted: int) -> None:
    import numpy as np
    import torch

    torch.set_num_threads(1)
    torch.manual_seed(0)
    columns = {path.stem: torch.from_numpy(np.load(path)) for path in Path(folder).glob("*.npy")}
    batches = [_inputs({name: column[i] for name, column in columns.items()}) for i in range(len(columns["user"]))]
    model = _fitted(wanted)
    print(json.dumps(_dense(model)), flush=True)
    done = 0
    for line in sys.stdin:
        started = time.process_time()
        for _ in range(int(line)):
            model.train_step(batches[done % len(batches)])
            done += 1
        print(json.dumps((time.process_time() - started) / int(line)), flush=True)


def _inputs(batch: dict[str, Any]) -> dict[str, Any]:
    """A batch as FuxiCTR's loaders give it: one tensor for each field and label."""
    inputs = {name: batch[name] for name in ("user", "author", "author_category", "hour", "history")}
    inputs |= {f"profile_{index}": batch["user_profile"][:, index].contiguous() for index in range(PROFILE)}
    return inputs | {task: batch["labels"][:, index].contiguous() for index, task in enumerate(TASKS)}


def _feature_map() -> Any:
    from fuxictr.features import FeatureMap

    features = FeatureMap("bench", ".")
    sizes = {"user": USERS + 1, "author": AUTHORS + 1, "author_category": CATEGORIES, "hour": 24}
    sizes |= {f"profile_{index}": 6 for index in range(PROFILE)}
    for name, size in sizes.items():
        features.features[name] = {"type": "categorical", "source": "", "vocab_size": size}
    features.features["history"] = {
        "type": "sequence",
        "source": "",
        "vocab_size": AUTHORS + 1,
        "max_len": HISTORY,
        "padding_idx": 0,
        "share_embedding": "author",
        "feature_encoder": "layers.MaskedAveragePooling()",
    }
    features.labels = list(TASKS)
    features.num_fields = features.get_num_fields()
    return features


def _fitted(wanted: int) -> Any:
    """MMoE whose experts are as wide as makes it nearest to so many dense parameters; at most 2 % off."""
    model = min((_mmoe(width) for width in range(16, 513, 4)), key=lambda model: abs(_dense(model) - wanted))
    assert abs(_dense(model) - wanted) <= 0.02 * wanted, (_dense(model), wanted)
    return model.train()


def _dense(model: Any) -> int:
    return sum(value.numel() for name, value in model.named_parameters() if not name.startswith("embedding"))


def _mmoe(width: int) -> Any:
    import torch
    from fuxictr.pytorch.layers import FeatureEmbedding, MLP_Block
    from fuxictr.pytorch.models import MultiTaskModel
    from torch import nn

    class MMoE(MultiTaskModel):  # type: ignore[misc]
        """Multi-gate mixture of experts."""

        def __init__(self) -> None:
            features = _feature_map()
            tasks = ["binary_classification"] * len(TASKS)
            options = {"verbose": 0, "model_root": ".", "metrics": ["AUC"], "gpu": -1}
            super().__init__(features, "MMoE", task=tasks, num_tasks=len(TASKS), **options)
            wide, units = WIDTH * features.num_fields, [width, EXPERT_DIM]
            self.embedding = FeatureEmbedding(features, WIDTH)
            self.experts = nn.ModuleList(MLP_Block(wide, hidden_units=units) for _ in range(EXPERTS))
            self.gates = nn.ModuleList(nn.Linear(wide, EXPERTS) for _ in TASKS)
            self.towers = nn.ModuleList(MLP_Block(EXPERT_DIM, output_dim=1, hidden_units=[TOWER]) for _ in TASKS)
            self.compile("adam", "binary_crossentropy", 1e-3)
            self.reset_parameters()
            self._max_gradient_norm = 10.0  # the default of `fit`

        def forward(self, inputs: dict[str, Any]) -> dict[str, Any]:
            x = self.embedding(self.get_inputs(inputs), flatten_emb=True)
            said = torch.stack([expert(x) for expert in self.experts], dim=1)
            answers = {}
            for index, task in enumerate(TASKS):
                weights = torch.softmax(self.gates[index](x), dim=-1)
                logit = self.towers[index]((weights.unsqueeze(-1) * said).sum(dim=1))
                answers[f"{task}_pred"] = self.output_activation[index](logit)
            return answers

    return MMoE()


if __name__ == "__main__":
    sys.path.pop(0)  # the folder of this file, whose name is that of the package
    _other_side(sys.argv[1], int(sys.argv[2]))
