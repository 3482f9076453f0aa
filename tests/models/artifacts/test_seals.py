"""Seals: they hold as long as no file was touched, and one process at a time looks."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from models.artifacts.seals import Seals


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "v=a"
    folder.mkdir()
    for name in ("x", "y"):
        (folder / name).write_text(f"content of {name}")
    return folder


@pytest.fixture
def seals(tmp_path: Path) -> Seals:
    return Seals(tmp_path / "seals")


def test_a_seal_holds_for_every_process_until_a_file_is_touched(seals: Seals, folder: Path, tmp_path: Path) -> None:
    assert not seals.holds("a")
    seals.put("a", {folder: ["x", "y"]})
    assert seals.holds("a") and Seals(tmp_path / "seals").holds("a") and not seals.holds("b")
    (folder / "z").write_text("not sealed")
    assert seals.holds("a")


def rewritten(path: Path) -> None:
    """The same bytes in the same file, at the same time."""
    content, status = path.read_bytes(), path.stat()
    path.unlink()
    path.with_name("keeps the inode in use").touch()
    path.write_bytes(content)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


@pytest.mark.parametrize(
    "touch",
    [
        lambda path: path.write_text("content of X"),
        lambda path: path.write_text("longer content"),
        lambda path: path.unlink(),
        lambda path: os.utime(path, (0, 0)),
        rewritten,
    ],
)
def test_a_file_that_was_touched_breaks_the_seal(seals: Seals, folder: Path, touch: Callable[[Path], None]) -> None:
    os.utime(folder / "x", (1, 1))
    seals.put("a", {folder: ["x", "y"]})
    touch(folder / "x")
    assert not seals.holds("a")


def test_a_damaged_seal_holds_nothing(seals: Seals, folder: Path, tmp_path: Path) -> None:
    seals.put("a", {folder: ["x"]})
    (tmp_path / "seals" / "a.json").write_text("{")
    assert not seals.holds("a")


def test_nobody_else_can_write_there_and_few_stay(seals: Seals, folder: Path, tmp_path: Path) -> None:
    for number in range(20):
        seals.put(f"a{number}", {folder: ["x"]})
        os.utime(tmp_path / "seals" / f"a{number}.json", (number, number))
    assert [number for number in range(20) if seals.holds(f"a{number}")] == list(range(12, 20))
    assert (tmp_path / "seals").stat().st_mode & 0o777 == 0o700


def _hold(folder: Path, held: multiprocessing.synchronize.Event) -> None:
    with Seals(folder).lock("a"):
        held.set()
        held.wait()
        while True:
            os.sched_yield()


def test_the_lock_of_a_process_that_is_killed_is_free(seals: Seals, tmp_path: Path) -> None:
    spawn = multiprocessing.get_context("spawn")
    held = spawn.Event()
    process = spawn.Process(target=_hold, args=(tmp_path / "seals", held))
    process.start()
    assert held.wait(60)
    process.kill()
    process.join(60)
    with seals.lock("a"):
        pass
