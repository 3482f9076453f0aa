"""Segments as codes: a codebook of their vectors (LARM eq. 3), and the codes of every day by it (eq. 4).

Reads segment_embeddings, publishes the artifact "codebook", writes `segment_codes`; or, with `codes.of: item_vectors`,
reads those, publishes "codebook.items" and writes `item_codes`. A codebook stays in use until it is asked to be fitted
again, or what it was made from changes, the model of its vectors above all: new days get codes, and all codes stay what
they mean. On a shared cluster parts of days are Ray tasks. Memory: 32 bytes a number of the sample while it is fitted,
then 100 bytes a row of the day and, in each task, 500 MiB.
Run: python -m pipelines codes --config my.yaml
"""

import logging
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from models.code_quality import MOST, CodeQuality, combinations
from models.config import DayText
from pipelines.runtime.cluster import connected, is_shared
from pipelines.runtime.each import each
from pipelines.runtime.run import Run
from pipelines.semantics import codebook_fit, segment_vectors
from pipelines.semantics.codebook_fit import Fitting
from pipelines.semantics.corpus import corpus_days
from pipelines.semantics.segment_vectors import JOBS, Part, Space
from pipelines.tables import contract, rejections
from pipelines.tables.artifacts import Artifacts
from pipelines.tables.due import due_days
from pipelines.tables.fingerprint import digest
from pipelines.tables.listing import Listing
from pipelines.tables.storage import Storage

if TYPE_CHECKING:
    from models.artifacts.codebook import Codebook
    from models.quantize import ResidualQuantizer

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class Target:
    """What comes of the codes of one table of vectors."""

    kind: str
    """Of the artifact of the codebook."""
    table: str
    """Of the codes."""
    stage: str
    """Of the rejections."""


TARGETS = {
    "segment_embeddings": Target(kind="codebook", table="segment_codes", stage="codes"),
    "item_vectors": Target(kind="codebook.items", table="item_codes", stage="item_codes"),
}
"""By what is coded: LARM calls codes of the first LLM codes, and codes of the second, which it proposes, its own."""
CODEBOOKS = {target.table: target.kind for target in TARGETS.values()}
"""Kinds of artifacts, by the table of their codes."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CodesConfig:
    """How segments become codes."""

    of: str = "segment_embeddings"
    """Which vectors are coded: `segment_embeddings`, as the frozen model sees segments, or `item_vectors`, in which the
    retrieval model has aligned that with who watches."""
    clusters: tuple[int, ...] = (512, 256, 128)
    """Codes of each level, from coarse to fine, the paper's; one level is plain k-means."""
    sample: int = 131_072
    """Vectors that a codebook is first fitted on, drawn evenly from all: 256 per cluster of the largest level."""
    iterations: int = 15
    """Most rounds of k-means over the sample, at each level."""
    rounds: int = 2
    """Rounds over all vectors behind those, at each level; each reads the corpus once."""
    fit_days: int = 7
    """Newest days that a codebook is fitted on."""
    until: DayText | None = None
    """The last of them, YYYY-MM-DD; null = the day before the newest `test_days` days of impressions, which are
    scored."""
    test_days: int = 1
    """Newest days of impressions that rankers are scored on; where no file says it, train.test_days."""
    refit: bool = False
    """Fit a codebook on the newest days though there is one; all days are then coded again."""

    def __post_init__(self) -> None:
        if self.of not in TARGETS:
            raise ValueError(f"of: wanted one of {', '.join(TARGETS)}, got {self.of!r}")
        if min(self.clusters, default=0) < 1 or combinations(self.clusters) > MOST:
            raise ValueError(f"clusters: wanted sizes of 1 and more, and 2**63 in all, got {list(self.clusters)}")
        for key in ("sample", "iterations", "fit_days"):
            if getattr(self, key) < 1:
                raise ValueError(f"{key}: wanted 1 or more, got {getattr(self, key)}")
        for key in ("rounds", "test_days"):
            if getattr(self, key) < 0:
                raise ValueError(f"{key}: wanted 0 or more, got {getattr(self, key)}")


def run(config: CodesConfig, run: Run) -> dict[str, Any]:
    """Fits a codebook where none still holds, and codes every day that has no codes of it."""
    target = TARGETS[config.of]
    with connected(run.cluster) if is_shared(run.cluster) else nullcontext():
        artifacts = Artifacts(run.storage)
        fitted = _fit(config, run, artifacts, target)
        run_id, codebook = _current(artifacts, target)
        listing = run.storage.listing(config.of)
        made_from = {day: {config.of: listing.stamp(day), target.kind: run_id} for day in listing.days}
        due = due_days(run.storage, target.table, made_from)
        quality = {day: _code(config, run, day, codebook, made_from[day]) for day in due}
    return {"codebook": run_id, "fit": fitted, "days_done": len(quality), "quality": quality}


def _current(artifacts: Artifacts, target: Target) -> "tuple[str, Codebook]":
    from models.artifacts.codebook import Codebook

    folder, manifest = artifacts.verified(target.kind)
    return manifest.run_id, Codebook.load(folder)


def _fit(config: CodesConfig, run: Run, artifacts: Artifacts, target: Target) -> dict[str, Any] | None:
    """Publishes a codebook; None where the published one still holds."""
    from models.artifacts.codebook import Codebook

    listing = run.storage.listing(config.of)
    known = corpus_days(
        run.storage, until=config.until, test_days=config.test_days, table=config.of, job=JOBS[config.of]
    )
    days = known[-config.fit_days :]
    how = Fitting(
        clusters=config.clusters,
        sample=config.sample,
        iterations=config.iterations,
        rounds=config.rounds,
        seed=run.seed,
        tasks=is_shared(run.cluster),
    )
    space = segment_vectors.space_of(run.storage, days, config.of)
    rules = {"config": digest(asdict(how) | {"tasks": None, "format": 1}), "model": space.model}
    published = artifacts.manifest(target.kind) if artifacts.current(target.kind) else None
    if published is not None and not config.refit and _holds(config.of, published.made_from, rules, listing, known[-1]):
        return None
    made_from = rules | {f"{config.of}/{day}": listing.stamp(day) for day in days}
    run_id = f"{days[-1]}-{digest(made_from)}"
    if published is not None and published.run_id == run_id:
        return None
    quantizer, figures = _fitted(run, days, space, how)
    with tempfile.TemporaryDirectory() as scratch:
        Codebook(quantizer=quantizer, model=space.model).save(Path(scratch))
        artifacts.publish(target.kind, Path(scratch), run_id, made_from)
    log.info("%s of %d days | %s", target.kind, len(days), figures)
    return figures | {"days": days}


def _holds(of: str, old: Mapping[str, str], rules: Mapping[str, str], listing: Listing, newest: str) -> bool:
    """True if a codebook was made by these rules, of days that may be learnt from, and none of them has changed since.

    A day that is no longer kept has not changed. Vectors of another model, such as those of new towers, want another
    codebook.
    """
    days = {key.removeprefix(f"{of}/"): stamp for key, stamp in old.items() if key.startswith(f"{of}/")}
    is_same = all(listing.stamp(day) in (stamp, "") for day, stamp in days.items())
    return all(old.get(key) == rule for key, rule in rules.items()) and max(days) <= newest and is_same


def _fitted(run: Run, days: list[str], space: Space, how: Fitting) -> "tuple[ResidualQuantizer, dict[str, Any]]":
    """The fit, in a task of its own where the job is on a cluster: the machine that submits it stays free."""
    if not is_shared(run.cluster):
        return codebook_fit.fit(run.storage.url, days, space, how)
    import ray
    from ray.exceptions import RayTaskError

    task = ray.remote(num_cpus=run.cluster.job_cpus)(codebook_fit.fit)
    options = {"name": "codes", "label_selector": dict(run.cluster.job_labels)}
    try:
        fitted: tuple[ResidualQuantizer, dict[str, Any]] = ray.get(
            task.options(**options).remote(run.storage.url, days, space, how)
        )
    except RayTaskError as error:
        raise error.cause from error
    return fitted


def _code(
    config: CodesConfig, run: Run, day: str, codebook: "Codebook", made_from: Mapping[str, str]
) -> dict[str, Any]:
    """Writes a day's codes and rejections; its figures."""
    target = TARGETS[config.of]
    storage, tasks = run.storage, is_shared(run.cluster)
    started, quality = time.perf_counter(), CodeQuality(codebook.quantizer.clusters)
    space = Space(model=codebook.model, width=codebook.quantizer.width, table=config.of)
    refused: list[dict[str, Any]] = []

    def tables() -> Iterator[pa.Table]:
        items = segment_vectors.parts(storage, day, space)
        for rows, codes, left, bad in each(_coded, items, storage.url, space, codebook.quantizer, tasks=tasks):
            refused.extend(bad)
            if rows.num_rows:
                quality.add(codes, left, rows["author_id"].to_numpy())
                yield _table(target.table, rows, codes, made_from[target.kind])
        # Before the day is committed: a run that dies in between does the day again.
        rejections.replace(storage, day, target.stage, refused)

    storage.write(target.table, day, tables(), made_from)
    figures = quality.figures() | {"refused": len(refused)}
    took = time.perf_counter() - started
    log.info("%s | %s | %d segments, %d refused | %.1f s", target.table, day, figures["vectors"], len(refused), took)
    if refused:
        detail = refused[0]["detail"]
        log.warning("%s | %s | %d row(s) cannot be used, first: %s", target.table, day, len(refused), detail)
    return figures


def _coded(
    part: Part, url: str, space: Space, quantizer: "ResidualQuantizer"
) -> tuple[pa.Table, npt.NDArray[np.int32], npt.NDArray[np.float32], list[dict[str, Any]]]:
    """A part's rows, their codes [n, L], what is left [n, 1 + L] (see CodeQuality), and refused rows."""
    import torch

    found = segment_vectors.read(Storage.open(url), part, space)
    vectors = torch.from_numpy(found.values)
    codes, left = quantizer.encode(vectors)
    spread = (vectors - quantizer.mean).square().sum(dim=1, keepdim=True)
    return found.rows, codes.int().numpy(), torch.cat([spread, left], dim=1).numpy(), found.refused


def _table(name: str, rows: pa.Table, codes: npt.NDArray[np.int32], codebook: str) -> pa.Table:
    ends = np.arange(len(codes) + 1, dtype=np.int32) * codes.shape[1]
    lists = pa.ListArray.from_arrays(pa.array(ends), pa.array(codes.reshape(-1)))
    columns = [*rows.columns, lists, pa.array([codebook] * len(codes), pa.string())]
    return pa.table(columns, schema=contract.spec(name).schema)
