"""The tiny platform with codes of what was on screen, their codebooks, and examples that carry them."""

from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from models.artifacts.codebook import Codebook
from models.quantize import ResidualQuantizer
from pipelines.samples import examples
from pipelines.settings import Settings
from pipelines.tables.artifacts import Artifacts
from tests.pipelines.conftest import tiny_train
from tests.pipelines.jobs import run_job
from tests.pipelines.samples.screens import code_the_lives

CLUSTERS = {"segment_codes": (5, 3), "item_codes": (4, 2)}
KINDS = {"segment_codes": "codebook", "item_codes": "codebook.items"}
STACK = ("sarm", "llm_codes", "larm_codes")


def with_codes(settings: Settings, sources: tuple[str, ...] = STACK, **train: Any) -> Settings:
    """Codes, codebooks and examples; a ranker of these sources is trained."""
    storage = settings.open().storage
    for table in CLUSTERS:
        code_the_lives(storage, CLUSTERS[table], table)
        publish_codebook(settings, table, "v1")
    settings = replace(
        settings,
        examples=replace(settings.examples, codes=tuple(CLUSTERS)),
        train=replace(tiny_train(sources), **train),
    )
    run_job(examples, settings)
    return settings


def publish_codebook(settings: Settings, table: str, run_id: str) -> None:
    """Of the sizes of its table's codes."""
    centroids = tuple(torch.zeros(size, 2) for size in CLUSTERS[table])
    counts = tuple(torch.ones(size, dtype=torch.int64) for size in CLUSTERS[table])
    with TemporaryDirectory() as folder:
        Codebook(quantizer=ResidualQuantizer(centroids=centroids, counts=counts), model="student").save(Path(folder))
        Artifacts(settings.open().storage).publish(KINDS[table], Path(folder), run_id, {})
