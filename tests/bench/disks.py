"""Disks that are full, or become read-only, under `train` and `follow`: what is said, what stays, what is gone on from.

The checkpoints, or the store, lie on a file system in memory that is mounted for each case: that takes the right to
mount. Once the fault is over the same command is started again, and is compared with a run that had no fault.
"""

import argparse
import json
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pipelines.ranking.follow_plan import state_kind
from pipelines.settings import Settings
from pipelines.tables.artifacts import Artifacts
from tests.pipelines.conftest import last_checkpoint, tiny_settings, train_here, write_tiny_store
from tests.pipelines.machines import Machines, machines

NEWEST = "2026-01-03"
RANKER = "sarm"
CASES = (
    ("checkpoints", "full"),  # with room for two, so that the third is the first that fails
    ("checkpoints", "read-only"),  # from the second on
    ("store", "full"),  # with room for half of what is published
    ("store", "full later"),  # after the state of `follow`, with room for half of the ranker
    ("store", "read-only"),  # while it trains
)
_ROOMY = 2**30
_STEP, _CHECKPOINT = re.compile(r"step (\d+)/\d+"), "| checkpoint after-"
_HEAD = (
    f"{'job':<8}{'place':<13}{'fault':<12}{'exit':>4}  {'current':<9}{'whole':<7}{'again':>5}{'first step':>12}  same"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Ended:
    """One process of a job."""

    exit: int
    error: str
    """Of its verdict."""
    steps: list[int]
    """Of its lines."""
    log: str


class Disk:
    """A file system in memory."""

    def __init__(self, folder: Path) -> None:
        self.folder, self._is_closed = folder, False
        folder.mkdir()
        _call("mount", "-t", "tmpfs", "-o", f"size={_ROOMY}", "tmpfs", str(folder))

    def leave(self, room: int) -> None:
        """So many bytes are left."""
        self._again(f"size={shutil.disk_usage(self.folder).used + room}")

    def close_to_writers(self) -> None:
        """For whatever is opened from now on: a job holds a lease by a file that stays open."""
        _call("mount", "--bind", str(self.folder), str(self.folder))
        _call("mount", "-o", "remount,bind,ro", str(self.folder))
        self._is_closed = True

    def heal(self) -> None:
        """Roomy, and open to writers."""
        if self._is_closed:
            _call("umount", "-l", str(self.folder))
        self._is_closed = False
        self._again(f"size={_ROOMY}")

    def _again(self, options: str) -> None:
        _call("mount", "-o", f"remount,{options}", str(self.folder))


def _call(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()}; this bench needs the right to mount")


@contextmanager
def disk(folder: Path) -> Iterator[Disk]:
    """Mounted for as long as it is needed."""
    mounted = Disk(folder)
    try:
        yield mounted
    finally:
        mounted.heal()
        _call("umount", "-l", str(folder))


def main(argv: list[str]) -> int:
    """Prints a table and one line of JSON; returns 1 where a fault was not told, or cost what was whole before it."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench disks", description=__doc__)
    parser.add_argument("--jobs", nargs="+", choices=["train", "follow"], default=["train", "follow"])
    faults = list(dict.fromkeys(fault for _, fault in CASES))
    parser.add_argument("--faults", nargs="+", choices=faults, default=faults)
    args = parser.parse_args(argv)
    rows = []
    with tempfile.TemporaryDirectory() as scratch, machines(1) as cluster:
        root = Path(scratch)
        write_tiny_store(root / "tiny")
        for job in args.jobs:
            base = _prepare(cluster, root, job)
            settings = _copy(base, root)
            whole = run(cluster, job, settings)
            print(f"{job}: no fault, exit {whole.exit}, {len(whole.steps)} steps\n{_HEAD}", flush=True)
            for place, fault in CASES:
                if fault not in args.faults or (fault == "full later" and job == "train"):
                    continue
                row, logs = _case(cluster, root, base, settings, job, place, fault)
                rows.append(row)
                print(
                    f"{job:<8}{place:<13}{fault:<12}{row['exit']:>4}  {row['current']:<9}{row['whole']!s:<5}"
                    f"{row['again']:>7}{row['first_step']:>12}  {row['same']}\n    {row['error'][:300]}",
                    flush=True,
                )
                if not _is_right(row):
                    print("\n".join(log[-6000:] for log in logs), flush=True)
    print(json.dumps({"bench": "disks", "cases": rows}))
    return int(not all(map(_is_right, rows)))


def _case(
    cluster: Machines, root: Path, base: Settings, whole: Settings, job: str, place: str, fault: str
) -> tuple[dict[str, Any], list[str]]:
    """A run with a fault, and one after it; `whole` is where none had been."""
    with tempfile.TemporaryDirectory(dir=root) as folder, disk(Path(folder) / "disk") as small:
        settings = _copy(base, Path(folder), **{place: small.folder})
        before = _currents(settings)
        if fault.startswith("full"):
            small.leave(_room(whole, place, job, fault))
        broken = run(cluster, job, settings, small if fault == "read-only" else None, place)
        current, is_whole = _currents(settings), _is_whole(settings)
        small.heal()
        again = run(cluster, job, settings)
        row = {
            "job": job,
            "place": place,
            "fault": fault,
            "exit": broken.exit,
            "error": broken.error,
            # The state is published on its own, before the ranker.
            "current": "kept" if current[RANKER] == before[RANKER] else "MOVED",
            "whole": is_whole,
            "again": again.exit,
            "first_step": again.steps[0] if again.steps else 0,
            "steps": len(again.steps),
            "same": _tensors(settings) == _tensors(whole),
        }
        return row, [broken.log, again.log]


def run(cluster: Machines, job: str, settings: Settings, small: Disk | None = None, place: str = "") -> Ended:
    """The job; `small` is closed to writers at its second checkpoint, or for the store at its first line."""
    log, closes_at = [], {"checkpoints": 2, "store": 1}.get(place, 0)
    mark = _CHECKPOINT if place == "checkpoints" else "| step "
    with tempfile.TemporaryFile("w+") as said, cluster.start(job, settings, stdout=said) as process:
        for line in process.stderr or ():
            log.append(line)
            if small is not None and mark in line:
                closes_at -= 1
                if not closes_at:
                    small.close_to_writers()
        process.wait()
        said.seek(0)
        verdict = json.loads(said.read().splitlines()[-1])
    steps = [int(found[1]) for line in log if (found := _STEP.search(line))]
    return Ended(exit=process.returncode, error=verdict["error"] or "", steps=steps, log="".join(log))


def _prepare(cluster: Machines, root: Path, job: str) -> Settings:
    """A store in which something was published, and the job has work to do."""
    there = root / job
    shutil.copytree(root / "tiny", there)
    settings = _at(there)
    if job == "train":
        train_here(settings)
        return _more(settings)
    settings = _more(settings)
    newest = there / "store" / "tables" / "examples" / f"day={NEWEST}"
    shutil.move(newest, root / "held")
    first = run(cluster, job, settings)
    assert not first.exit, first.log
    shutil.move(root / "held", newest)
    return settings


def _at(root: Path) -> Settings:
    return replace(tiny_settings(root), run_dir=str(root))


def _more(settings: Settings) -> Settings:
    """Many small steps, and a checkpoint after some of them."""
    train = replace(
        settings.train,
        base=False,
        batch_size=32,
        log_every=1,
        epochs=2,
        stretch_rows=200,
        checkpoint_rows=1,
        checkpoints=str(Path(settings.run_dir) / "checkpoints"),
    )
    return replace(settings, train=train)


def _copy(base: Settings, root: Path, checkpoints: Path | None = None, store: Path | None = None) -> Settings:
    """The same over a private copy; its checkpoints or its store lie in another folder where one is given."""
    here = Path(tempfile.mkdtemp(dir=root))
    shutil.copytree(Path(base.storage.root), store or here / "store", dirs_exist_ok=True)
    shutil.copy(Path(base.run_dir) / "tokenizer.json", here)
    settings = _more(_at(here))
    if checkpoints is not None:
        settings = replace(settings, train=replace(settings.train, checkpoints=str(checkpoints)))
    return replace(settings, storage=replace(settings.storage, root=str(store))) if store else settings


def _room(whole: Settings, place: str, job: str, fault: str) -> int:
    """Bytes that are left on the disk, by what a run without a fault left."""
    artifacts = Artifacts(whole.open().storage)
    ranker = _bytes(artifacts.fetch(RANKER))
    if place == "checkpoints":
        if job == "follow":  # forgets its checkpoints at the end
            return int(2.6 * _bytes(artifacts.fetch(state_kind(RANKER))))
        last = last_checkpoint(Path(whole.run_dir))
        assert last is not None
        return int(2.6 * _bytes(last))
    if job == "train":
        return ranker // 2
    state = _bytes(artifacts.fetch(state_kind(RANKER)))
    return state + ranker // 2 if fault == "full later" else state // 2


def _bytes(folder: Path) -> int:
    """In whole pages, as a file system in memory counts."""
    return sum(-(-file.stat().st_size // 4096) * 4096 for file in folder.iterdir())


def _currents(settings: Settings) -> dict[str, str | None]:
    artifacts = Artifacts(settings.open().storage)
    return {kind: artifacts.current(kind) for kind in artifacts.kinds()}


def _is_whole(settings: Settings) -> bool:
    """Every CURRENT version can be read, and agrees with its checksums."""
    artifacts = Artifacts(settings.open().storage)
    return all(bool(artifacts.verified(kind)) for kind in artifacts.kinds())


def _tensors(settings: Settings) -> dict[str, bytes]:
    """Of what is published: the ranker, and what it goes on from."""
    artifacts = Artifacts(settings.open().storage)
    kinds = [kind for kind in (RANKER, state_kind(RANKER)) if artifacts.current(kind)]
    return {
        f"{kind}/{file.name}": file.read_bytes()
        for kind in kinds
        for file in artifacts.fetch(kind).iterdir()
        if file.suffix == ".safetensors"
    }


def _is_right(row: dict[str, Any]) -> bool:
    told = (
        row["exit"] in (1, 2)
        and ("read-only" if row["fault"] == "read-only" else "disk is full") in row["error"].lower()
    )
    return told and row["current"] == "kept" and row["whole"] and not row["again"] and row["same"]
