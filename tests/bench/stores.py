"""The store that a bench of following works on: a simulated platform of which nothing was learnt yet."""

import os
import shutil
from dataclasses import replace
from pathlib import Path

from pipelines.runtime.cluster import connected
from pipelines.samples import examples
from pipelines.semantics import vocabulary
from pipelines.settings import Settings
from pipelines.world import world
from tests.pipelines.jobs import run_job


def at(folder: Path, settings: Settings, root: str | None = None) -> Settings:
    """Settings over a store below `folder`: hard links of the one at `root`, or a new platform.

    Only tables and the tokenizer are taken over.
    """
    found = replace(
        settings, storage=replace(settings.storage, root=str(folder / "store")), run_dir=str(folder / "run")
    )
    if root is not None:
        nothing_learnt = shutil.ignore_patterns("base*", "sarm*", "bank")
        shutil.copytree(root, folder / "store", copy_function=os.link, ignore=nothing_learnt)
        return found
    with connected(settings.cluster):
        for job in (world, vocabulary, examples):
            run_job(job, found)
    return found
