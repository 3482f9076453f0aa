"""Residual codes: how near they are beside faiss, whether they are the same as faiss's, and what a large corpus costs.

Simulated vectors of length 1 around themes and topics within them, off the origin as a language model's are. The job
runs in a process of its own over a table of segment embeddings; memory is the peak of that process.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from models.quantize import ResidualConfig, ResidualQuantizer
from pipelines.runtime import config
from pipelines.runtime.cluster import ROOT
from pipelines.semantics.codes import CodesConfig
from pipelines.settings import Settings
from pipelines.tables import contract
from pipelines.tables.storage import Storage, StorageConfig

CHUNK = 65_536
THEMES, TOPICS = 96, 40


def vectors(first: int, size: int, width: int) -> NDArray[np.float32]:
    """Some of an endless list."""
    rng, places = np.random.default_rng([1, first]), np.random.default_rng(0)
    themes, topics = (places.normal(size=(n, width)).astype(np.float32) for n in (THEMES, THEMES * TOPICS))
    of = rng.integers(0, THEMES * TOPICS, size)
    made = 1 + themes[of // TOPICS] + 0.5 * topics[of] + 0.4 * rng.standard_normal((size, width), np.float32)
    return np.asarray(made / np.linalg.norm(made, axis=1, keepdims=True), np.float32)


def beside_faiss(size: int, width: int, clusters: Sequence[int]) -> dict[str, Any]:
    """Both fitted on the same vectors, greedy; then faiss's search over our centroids."""
    given = vectors(0, size, width)
    bits = faiss.UInt64Vector()
    for of in clusters:
        bits.push_back(of.bit_length() - 1)
    theirs = faiss.ResidualQuantizer(width, bits)
    theirs.max_beam_size = 1
    started = time.perf_counter()
    theirs.train(given)
    faiss_s = time.perf_counter() - started
    shown = theirs.decode(theirs.compute_codes(given))
    started = time.perf_counter()
    ours = ResidualQuantizer.fit(torch.from_numpy(given), ResidualConfig(clusters=tuple(clusters)))
    ours_s = time.perf_counter() - started
    codes, left = ours.encode(torch.from_numpy(given))
    mse, faiss_mse = float(left[:, -1].mean()), float(np.square(given - shown).sum(axis=1).mean())
    return {
        "vectors": size,
        "fit_s": round(ours_s, 1),
        "faiss_fit_s": round(faiss_s, 1),
        "mse": mse,
        "faiss_mse": faiss_mse,
        "mse_ratio": round(mse / faiss_mse, 4),
        "other_codes": _differing(torch.from_numpy(given), ours, codes),
    }


def _differing(residual: torch.Tensor, ours: ResidualQuantizer, codes: torch.Tensor) -> int:
    """Codes that faiss's exact search gives otherwise, of all levels."""
    found = 0
    for level, centroids in enumerate(ours.centroids):
        index = faiss.IndexFlatL2(ours.width)
        index.add(centroids.numpy())
        theirs = torch.from_numpy(index.search(residual.numpy(), 1)[1][:, 0])
        found += int((theirs != codes[:, level]).sum())
        residual = residual - centroids[codes[:, level]]
    return found


def _tables(size: int, width: int) -> Iterator[pa.Table]:
    for first in range(0, size, CHUNK):
        count = min(CHUNK, size - first)
        flat = pa.array(vectors(first, count, width).astype(np.float16).reshape(-1))
        ends = pa.array(np.arange(count + 1, dtype=np.int32) * width)
        rows = np.arange(first, first + count)
        columns = [rows // 20, rows // 20, (rows % 20).astype(np.int32), rows * 30_000]
        lists = pa.ListArray.from_arrays(ends, flat)
        schema = contract.spec("segment_embeddings").schema
        yield pa.table([*map(pa.array, columns), lists, pa.array(["simulated"] * count)], schema=schema)


def job(size: int, width: int, clusters: Sequence[int], sample: int, rounds: int) -> dict[str, Any]:
    """The whole job over a day of `size` segments."""
    with tempfile.TemporaryDirectory() as folder:
        store, run_dir, file = f"{folder}/store", f"{folder}/run", Path(folder) / "codes.yaml"
        Storage.open(store).write("segment_embeddings", "2026-01-01", _tables(size, width))
        asked = CodesConfig(clusters=tuple(clusters), sample=sample, rounds=rounds)
        config.dump(Settings(run_dir=run_dir, storage=StorageConfig(root=store), codes=asked), file)
        started = time.perf_counter()
        command = [sys.executable, "-m", "pipelines", "codes", "--config", str(file)]
        subprocess.run(command, check=True, cwd=ROOT, stdout=subprocess.DEVNULL)
        took = time.perf_counter() - started
        figures = json.loads((Path(run_dir) / "codes.json").read_text())
    (quality,) = figures["quality"].values()
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return {
        "vectors": quality["vectors"],
        "total_s": round(took, 1),
        "fit_s": figures["fit"]["seconds"],
        "cpu_s": round(used.ru_utime + used.ru_stime, 1),
        "peak_gib": round(used.ru_maxrss / 2**20, 2),
        "quality": quality,
    }


def main(argv: list[str]) -> int:
    """Prints both tables and one JSON object."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench codes", description=__doc__)
    parser.add_argument("--size", type=int, default=1_000_000, help="segments of the job's day")
    parser.add_argument("--beside-faiss", type=int, default=100_000, help="vectors that faiss fits, too")
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--clusters", type=int, nargs="+", default=[512, 256, 128], help="powers of 2")
    parser.add_argument("--sample", type=int, default=CodesConfig().sample)
    parser.add_argument("--rounds", type=int, default=CodesConfig().rounds)
    args = parser.parse_args(argv)
    done = job(args.size, args.width, args.clusters, args.sample, args.rounds)
    print(f"{done['vectors']:,} segments, width {args.width}, {args.clusters}, {os.cpu_count()} cores")
    print(f"  {done['total_s']} s in all, {done['fit_s']} s of them the fit")
    print(f"  {done['cpu_s']} s of CPU time; peak {done['peak_gib']} GiB")
    for level in done["quality"]["levels"]:
        print(
            f"  level of {level['clusters']:>6}: mse {level['mse']:.5f}, {100 * level['explained']:.1f} % explained, "
            f"{100 * level['used']:.1f} % used, {level['entropy']:.2f} bits"
        )
    beside = beside_faiss(args.beside_faiss, args.width, args.clusters)
    print(f"{beside['vectors']:,} vectors beside faiss {faiss.__version__}, greedy")
    print(f"  mse {beside['mse']:.5f} against {beside['faiss_mse']:.5f}: ratio {beside['mse_ratio']}")
    print(f"  fit {beside['fit_s']} s against {beside['faiss_fit_s']} s")
    print(f"  {beside['other_codes']} of {beside['vectors'] * len(args.clusters):,} codes are others than faiss's")
    print(json.dumps({"bench": "codes", "job": done, "faiss": beside}))
    return 0
