"""Verified once per version and node by a helper process, which may be refused, die, and be started again."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from models.artifacts.manifest import ArtifactError
from models.artifacts.store import ArtifactStore
from serve import prepare
from serve.args import WatchConfig
from serve.author_cache import AuthorCache
from serve.comparing import Comparing
from serve.loading import compared, compared_here, fit_likeness, load_snapshot
from serve.prepare import Preparation, PreparationError
from serve.snapshot import Bank
from serve.watcher import NotReadyError, SnapshotWatcher
from tests.serve.conftest import AUTHOR_IDS, Published, fill_with_nan


def preparation(published: Published, version: str = "a", *, with_states: bool = True) -> Preparation:
    cache = str(published.root.parent / "cache")
    return Preparation(root=str(published.root), version=version, cache_dir=cache, with_states=with_states)


def no_helper(monkeypatch: pytest.MonkeyPatch) -> None:
    def started(self: Preparation) -> None:
        raise AssertionError("a helper was started")

    monkeypatch.setattr(Preparation, "_by_helper", started)


def test_the_helper_seals_what_this_process_then_maps(published: Published, monkeypatch: pytest.MonkeyPatch) -> None:
    first = preparation(published).load()
    no_helper(monkeypatch)
    again = preparation(published).load()
    assert again.version == "a" and isinstance(again.bank.states["sarm"].base, np.memmap)
    assert all(np.array_equal(again.bank.states[name], state) for name, state in first.bank.states.items())
    for path in (published.root.parent / "cache").rglob("*"):
        assert path.stat().st_uid == os.getuid()
    folders = [path for path in (published.root.parent / "cache").glob("*") if path.is_dir()]
    assert [stat.S_IMODE(folder.stat().st_mode) for folder in folders] == [0o700]


def test_what_was_verified_without_states_does_not_vouch_for_them(
    published: Published, monkeypatch: pytest.MonkeyPatch
) -> None:
    preparation(published, with_states=False).here()
    no_helper(monkeypatch)
    assert preparation(published, with_states=False).load().bank.is_elsewhere
    with pytest.raises(AssertionError, match="a helper was started"):
        preparation(published).load()


def test_a_file_that_was_written_to_since_is_read_again(published: Published, monkeypatch: pytest.MonkeyPatch) -> None:
    preparation(published).here()
    path = published.folder("sarm", "m-a") / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)
    with pytest.raises(ArtifactError, match="model.safetensors wanted sha256"):
        preparation(published).load()


def test_a_bank_that_the_helper_refuses_is_refused_with_its_words(published: Published) -> None:
    published.bank("b", "m-a", change=fill_with_nan)
    with pytest.raises(ArtifactError, match="row 0 holds NaN or infinity"):
        preparation(published, "b").load()


def comparing(published: Published, version: str = "a") -> Comparing:
    made = Comparing(replace(preparation(published, version), likeness=True), wait_s=0.0)
    made.thread.join(120)
    return made


def test_a_likeness_is_made_once_by_a_helper_and_mapped(published: Published, monkeypatch: pytest.MonkeyPatch) -> None:
    bank = preparation(published).load().bank
    first = comparing(published)
    no_helper(monkeypatch)
    again = comparing(published)
    reference = compared_here(bank).neighbours
    assert reference is not None
    for likeness in (first, again):
        assert likeness.failure is None
        made = compared(bank, likeness).neighbours
        assert made is not None and made.is_ready
        assert np.array_equal(made.nearest(3, 5)[0], reference.nearest(3, 5)[0])


def test_a_likeness_that_cannot_be_made_is_told_after_a_few_attempts(
    published: Published, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    preparation(published).here()
    helper(monkeypatch, tmp_path, f"echo >> {tmp_path}/started", "kill -9 $$")
    made = comparing(published)
    assert made() is None and "ended with -9" in str(made.failure)
    assert len((tmp_path / "started").read_text()) == 3


def test_while_a_bank_cannot_be_compared_the_one_before_answers(published: Published) -> None:
    store = ArtifactStore.open(str(published.root))
    ready: list[str] = []

    def load(version: str) -> Bank:
        bank = load_snapshot(store, version).bank
        likeness = fit_likeness(bank)
        return compared(bank, lambda: likeness if version in ready else None)

    watcher = SnapshotWatcher(store, load, WatchConfig())
    watcher.poll()
    cache, me = AuthorCache(watcher), int(AUTHOR_IDS[3])
    with pytest.raises(NotReadyError, match="authors of bank a are being compared"):
        cache.similar(me)
    ready.append("a")
    assert cache.similar(me).bank_version == "a"
    published.publish("b", seed=1)
    watcher.poll()
    assert cache.author(me).bank_version == "b" and cache.similar(me).bank_version == "a"
    ready.append("b")
    assert cache.similar(me).bank_version == "b"


def helper(monkeypatch: pytest.MonkeyPatch, folder: Path, *lines: str) -> None:
    """Puts a shell script in the place of Python."""
    script = folder / "python"
    script.write_text("\n".join(["#!/bin/sh", *lines]))
    script.chmod(0o700)
    monkeypatch.setattr(sys, "executable", str(script))


def test_a_helper_that_is_killed_is_told_and_started_again(
    published: Published, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    store = ArtifactStore.open(str(published.root))
    watcher = SnapshotWatcher(store, lambda version: preparation(published, version).load(), WatchConfig())
    with monkeypatch.context() as killed:
        helper(killed, tmp_path, "kill -9 $$")
        assert not watcher.poll()
        assert "the process that verifies it ended with -9" in str(watcher.last_failure)
    preparation(published).here()
    assert watcher.poll() and watcher.current.version == "a" and watcher.last_failure is None


def test_what_may_pass_is_no_refusal(published: Published, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    helper(monkeypatch, tmp_path, """echo '{"error": "OSError: no answer", "may_pass": true}'""", "exit 1")
    with pytest.raises(PreparationError, match="OSError: no answer"):
        preparation(published).load()


def test_a_helper_has_none_of_this_process_s_sockets(
    published: Published, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    helper(monkeypatch, tmp_path, f"ls -l /proc/self/fd > {tmp_path}/open", "exit 3")
    with pytest.raises(PreparationError), open(os.devnull) as held:
        os.set_inheritable(held.fileno(), True)
        preparation(published).load()
    names = [line.split()[8] for line in (tmp_path / "open").read_text().splitlines()[1:]]
    assert set(names) <= {"0", "1", "2", "3"}, "the three of every process, and the folder that ls reads"


def test_the_command_says_in_its_last_line_why_not(
    published: Published, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "nice", lambda _: 0)
    asked = {"root": str(published.root), "version": "x", "cache_dir": str(published.root.parent / "cache")}
    assert prepare.main([json.dumps(asked)]) == 1
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert told["may_pass"] is False and "bank/v=x: wanted MANIFEST.json, got none" in told["error"]


def test_the_helper_that_verifies_does_not_import_torch(published: Published) -> None:
    """It would take ten times as long, beside those who are answered."""
    asked = json.dumps({"root": str(published.root), "version": "a", "cache_dir": str(published.root.parent / "cache")})
    code = "import sys; from serve.prepare import main; assert main(sys.argv[1:]) == 0; print('torch' in sys.modules)"
    ended = subprocess.run([sys.executable, "-c", code, asked], capture_output=True, text=True, check=True)
    assert ended.stdout.split() == ["False"]
