"""A new source is one file in models/ and one in pipelines/ranking/variants/, and no other line: proved in a copy."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.pipelines.conftest import TINY_TRAIN, tiny_settings

ROOT = Path(__file__).resolve().parents[4]

MODULE = '''"""How long an author has been known, in days, as a learnt scale."""

from dataclasses import dataclass

import torch
from torch import nn

from models.sources import Representations, Source


@dataclass(frozen=True, kw_only=True, slots=True)
class SeniorityConfig:
    """Choices."""

    width: int = 4
    """Width of what reaches the ranker."""


@dataclass(frozen=True, kw_only=True, slots=True)
class NoFacts:
    """The data tell nothing."""


class Seniority(Source):
    """Learns from one number per author."""

    Config = SeniorityConfig
    Facts = NoFacts

    def __init__(self, config, facts, ranker):
        super().__init__(config, facts, ranker)
        self.scale = nn.Linear(1, config.width)

    @classmethod
    def dims(cls, config):
        """Of the author alone."""
        return config.width, 0

    def read(self, batch, target, history):
        """target [B, 1]."""
        return Representations(author=(torch.tanh(self.scale(target)),))
'''

VARIANT = '''"""Days since an author was first on air."""

from datetime import date

import torch

from models.seniority import NoFacts, Seniority
from pipelines.ranking.variants.source import Source, State


class FirstDays(State):
    """Days that each author row is known for."""

    facts = NoFacts()

    def __init__(self, context):
        self._storage, self._catalog = context.storage, context.catalog

    def advance(self, before):
        """[N+1, 1] float32."""
        table = torch.zeros(self._catalog.num_authors + 1, 1)
        today = date.fromisoformat(before[:10])
        for day in self._storage.days("authors"):
            if day < before[:10]:
                for row in self._storage.read("authors", day, ["author_id", "first_live_day"]).to_pylist():
                    at = int(self._catalog.author_rows(row["author_id"]))
                    if at:
                        table[at] = float((today - row["first_live_day"]).days)
        return (table,)


class SenioritySource(Source):
    """Reads `authors`."""

    name, label, reads, module = "seniority", "seniority", ("authors",), Seniority

    def depends_on(self, storage, before):
        """Every day of authors before."""
        days = [day for day in storage.days("authors") if day < before[:10]]
        return {f"authors/{day}": storage.fingerprint("authors", day) for day in days}

    def open(self, config, context):
        """Its state."""
        return FirstDays(context)


SOURCES = (SenioritySource(),)
'''

RANK = """
import sys
from pathlib import Path
import numpy as np
from models import TASKS
from models.artifacts.store import ArtifactStore
from functools import partial
from pipelines.samples.batches import read_examples
from pipelines.serving.offline import example_request
from pipelines.tables.storage import Storage
from serve.schema import RankRequest
from serve.loading import load_snapshot
from serve.user_sequence import UserSequence
from serve.watcher import SnapshotWatcher, WatchConfig

root, scores = sys.argv[1:]
store = ArtifactStore.open(root)
watcher = SnapshotWatcher(store, partial(load_snapshot, store), WatchConfig())
assert watcher.poll(), watcher.last_failure
columns = read_examples(Storage.open(root), "2026-01-03")
wanted = np.load(scores)["scores"]
for row in range(0, len(wanted), 100):
    request = RankRequest.model_validate(example_request(columns, row, [columns["author_id"][row]]))
    answer = UserSequence(watcher).rank(request).candidates[0]
    np.testing.assert_allclose([getattr(answer, task) for task in TASKS], wanted[row], atol=1e-5)
"""


@pytest.mark.ray
def test_a_new_source_is_two_new_files(tiny_store: Path, tmp_path: Path) -> None:
    """Trains, evaluates, publishes and ranks through the door, in a copy of the project with two more files."""
    project = tmp_path / "project"
    for package in ("models", "pipelines", "serve"):
        shutil.copytree(ROOT / package, project / package, ignore=shutil.ignore_patterns("__pycache__", "student"))
    (project / "models" / "seniority.py").write_text(MODULE)
    (project / "pipelines" / "ranking" / "variants" / "seniority.py").write_text(VARIANT)
    shutil.copytree(tiny_store / "store", tmp_path / "store")
    tiny, config = tiny_settings(tiny_store), tmp_path / "toy.yaml"
    config.write_text(
        yaml.safe_dump(
            {
                "seed": tiny.seed,
                "run_dir": str(tmp_path / "run"),
                "storage": {"root": str(tmp_path / "store")},
                "cluster": {"num_cpus": 3, "object_store_gb": 0.1},
                "train": {
                    **TINY_TRAIN,
                    "sources": ["seniority"],
                    "base": False,
                    "models": {"seniority": {"width": 3}},
                    "scaling": {"num_workers": 1},
                },
                "publish": {"until": "2026-01-02"},
            },
            sort_keys=False,  # the order of a ranker's tasks is that of its configuration
        )
    )

    def run(*command: str) -> None:
        done = subprocess.run(
            [sys.executable, *command], cwd=project, env=environment, capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 0, done.stdout + done.stderr

    environment = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "RAY_ADDRESS")}
    for job in ("train", "evaluate", "publish"):
        run("-m", "pipelines", job, "--config", str(config))
    metrics = json.loads((tmp_path / "run" / "evaluate.json").read_text())["metrics"]
    assert set(metrics) == {"seniority", "oracle"}
    run("-c", RANK, str(tmp_path / "store"), str(tmp_path / "run" / "scores-seniority.npz"))
