"""The job: deterministic, resumable, in bounded memory, with its truth kept apart."""

import hashlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from pipelines.semantics import prompt
from pipelines.settings import Settings
from pipelines.tables import newest, values
from pipelines.tables.anchor_text import canonical_text
from pipelines.tables.contract import FIELDS, ContractError
from pipelines.tables.storage import Storage, StorageConfig
from pipelines.world import behaviour, world
from pipelines.world import lives as content
from pipelines.world.config import WorldConfig
from pipelines.world.lexicon import CATEGORIES, lexicon
from tests.pipelines.conftest import tiny_settings
from tests.pipelines.jobs import run_job

TABLES = ("authors", "segments", "events", "impressions", "anchors", "oracle_anchors", "oracle_impressions")


GOLDEN = {
    1: {
        "authors": "d391f4208e9ac370",
        "events": "bf85bc0951c2352f",
        "impressions": "f857871822320119",
        "oracle_anchors": "ea9c8f23412b4923",
        "oracle_impressions": "36228b1f9fe3e066",
        "segments": "992b3af2d8d04d88",
        "users": "a7b50e68d5da2986",
    }
}
"""Digests of the tables of a small world, by `world.FORMAT`."""


def small(root: Path, seed: int = 1, **changes: Any) -> Settings:
    """Two days of 40 authors."""
    settings = tiny_settings(root)
    sizes = {"num_days": 2, "num_authors": 40, "impressions_per_day": 200, "frame_size": 16} | changes
    return replace(settings, seed=seed, world=replace(settings.world, **sizes))


def opened(settings: Settings) -> Storage:
    return Storage.open(settings.storage.root, oracle=True)


def fingerprints(settings: Settings) -> dict[tuple[str, str], str]:
    storage = opened(settings)
    return {(name, day): storage.fingerprint(name, day) for name in TABLES for day in storage.days(name)}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Settings, dict[str, Any]]:
    settings = small(tmp_path_factory.mktemp("world"))
    return settings, run_job(world, settings)


def test_every_table_keeps_the_contract(made: tuple[Settings, dict[str, Any]]):
    storage = opened(made[0])
    for name in TABLES:
        assert storage.days(name) == ["2026-01-01", "2026-01-02"]
        for day in storage.days(name):
            values.validate(storage.read(name, day), name, day)
    assert storage.days("users") == ["2026-01-01"]


def test_the_counts_are_what_was_written(made: tuple[Settings, dict[str, Any]]):
    settings, counts = made
    storage = opened(settings)
    rows = {n: sum(storage.read(n, d).num_rows for d in storage.days(n)) for n in (*TABLES, "users")}
    assert counts == {
        "authors": rows["authors"],
        "lives": rows["oracle_anchors"],
        "segments": rows["segments"],
        "impressions": rows["impressions"],
    }
    assert rows["authors"] == 44 and rows["users"] == 80
    assert rows["impressions"] == rows["oracle_impressions"]


def test_equal_seeds_give_equal_tables(made: tuple[Settings, dict[str, Any]], tmp_path: Path):
    again = small(tmp_path)
    run_job(world, again)
    assert fingerprints(again) == fingerprints(made[0])


def test_another_seed_gives_other_authors_of_the_same_language(made: tuple[Settings, dict[str, Any]], tmp_path: Path):
    other = small(tmp_path, seed=2)
    run_job(world, other)
    ids = [set(opened(s).read("authors", "2026-01-01")["author_id"].to_pylist()) for s in (made[0], other)]
    assert ids[0] != ids[1]
    ours, theirs = fingerprints(made[0]), fingerprints(other)
    assert all(theirs[key] != ours[key] for key in ours)
    phrases = {phrase for field in lexicon(48).values() for phrase in field}
    for settings in (made[0], other):
        for row in opened(settings).read("oracle_anchors", "2026-01-02").to_pylist():
            assert {phrase for field in FIELDS for phrase in row[field]} <= phrases


def test_newcomers_are_in_their_days_authors(made: tuple[Settings, dict[str, Any]]):
    storage = opened(made[0])
    for day, count in (("2026-01-01", 40), ("2026-01-02", 4)):
        authors = storage.read("authors", day)
        assert authors.num_rows == count
        assert {d.isoformat() for d in authors["first_live_day"].to_pylist()} == {day}
        assert set(authors["category"].to_pylist()) <= {*CATEGORIES, None}
        known = set(newest.read(storage, "authors", until=day)["author_id"].to_pylist())
        assert set(storage.read("segments", day)["author_id"].to_pylist()) <= known


def test_the_teachers_anchors_are_the_truth(made: tuple[Settings, dict[str, Any]]):
    storage = opened(made[0])
    for day in storage.days("anchors"):
        taught, truth = (storage.read(name, day) for name in ("anchors", "oracle_anchors"))
        assert taught.select(truth.column_names) == truth
        assert taught["text"].to_pylist() == [canonical_text(row) for row in truth.to_pylist()]
        assert set(taught["prompt_hash"].to_pylist()) == {prompt.PROMPT_HASH}


def test_the_truth_is_not_opened_by_mistake(made: tuple[Settings, dict[str, Any]]):
    storage = Storage.open(made[0].storage.root)
    for name in ("oracle_anchors", "oracle_impressions"):
        for open_day in (storage.read, storage.dataset):
            with pytest.raises(ContractError, match=f"table {name} is the simulator's truth"):
                open_day(name, "2026-01-01")


def test_a_corpus_has_neither_users_nor_impressions(tmp_path: Path):
    settings = small(tmp_path, impressions=False, num_days=1, num_authors=8)
    counts = run_job(world, settings)
    assert counts["impressions"] == 0 and opened(settings).days("anchors") == ["2026-01-01"]
    assert [opened(settings).days(name) for name in ("users", "events", "impressions")] == [[], [], []]


def test_without_a_teacher_nothing_is_called_an_anchor(tmp_path: Path):
    settings = small(tmp_path, teacher=False, num_days=1, num_authors=8)
    run_job(world, settings)
    assert opened(settings).days("anchors") == []


def test_a_day_is_streamed_a_chunk_of_lives_at_a_time(
    made: tuple[Settings, dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(world, "LIVES_PER_CHUNK", 4)
    rendered, written = [], []
    rows_of, write = content.segment_rows, Storage.write

    def counted(*args: Any, **sizes: Any) -> list[dict[str, Any]]:
        rendered.append(1)
        return rows_of(*args, **sizes)

    def watched(self: Storage, name: str, day: str, chunks: Iterator[pa.Table], *rest: Any) -> Any:
        def pulled() -> Iterator[pa.Table]:
            for chunk in chunks:
                if name == "segments":
                    written.append(len(set(chunk["author_id"].to_pylist())))
                    assert sum(rendered) == sum(written), "lives were rendered before their turn"
                yield chunk

        return write(self, name, day, pulled(), *rest)

    monkeypatch.setattr(world, "segment_rows", counted)
    monkeypatch.setattr(Storage, "write", watched)
    settings = small(tmp_path)
    run_job(world, settings)
    storage = opened(settings)
    for day in storage.days("segments"):
        commit, lives = storage.commit_of("segments", day), storage.read("oracle_anchors", day).num_rows
        assert commit is not None and len(commit.files) == -(-lives // 4) > 1
        assert storage.read("segments", day) == opened(made[0]).read("segments", day)
    assert max(written) == 4


def test_a_second_run_leaves_finished_days_untouched(tmp_path: Path):
    settings = small(tmp_path, num_days=1)
    counts, storage = run_job(world, settings), opened(settings)
    before = fingerprints(settings)
    commits = [storage.commit_of(name, "2026-01-01") for name in ("segments", "impressions", "authors")]
    assert run_job(world, settings) == counts
    assert [storage.commit_of(name, "2026-01-01") for name in ("segments", "impressions", "authors")] == commits
    assert fingerprints(settings) == before
    changed = replace(settings, world=replace(settings.world, num_authors=30))
    run_job(world, changed)
    assert opened(settings).commit_of("segments", "2026-01-01") != commits[0]


def test_a_run_that_died_is_completed(
    made: tuple[Settings, dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    settings, write_day = small(tmp_path), behaviour.write_day

    def dies(storage: Storage, name: str, day: int, *rest: Any) -> None:
        if day == 1:
            raise RuntimeError("killed")
        write_day(storage, name, day, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(behaviour, "write_day", dies)
        with pytest.raises(RuntimeError, match="killed"):
            run_job(world, settings)
    storage = opened(settings)
    assert storage.days("authors") == ["2026-01-01"], "the day that died must not look whole"
    kept = storage.commit_of("segments", "2026-01-01")
    run_job(world, settings)
    assert storage.commit_of("segments", "2026-01-01") == kept
    assert fingerprints(settings) == fingerprints(made[0])


def test_warm_up_days_hold_lives_but_no_impressions(tmp_path: Path):
    config = WorldConfig(num_days=3, warmup_days=2, num_authors=40, num_users=20, impressions_per_day=60)
    run_job(world, Settings(seed=1, storage=StorageConfig(root=str(tmp_path)), world=config))
    storage = Storage.open(str(tmp_path))
    assert len(storage.days("segments")) == 3
    assert storage.days("impressions") == storage.days("users") == ["2026-01-03"]


def _rounded(value: Any) -> Any:
    """Floats to five digits: their last bits are the machine's."""
    if isinstance(value, dict):
        return {name: _rounded(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_rounded(inner) for inner in value]
    return f"{value:.5g}" if isinstance(value, float) else value


def test_another_world_has_another_format(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Frames are compared as pixels: JPEG bytes are the library's. Prompts of the teacher's anchors are no world's."""
    monkeypatch.setattr(content, "jpeg", lambda pixels: pixels.tobytes())
    settings = small(tmp_path, seed=7)
    run_job(world, settings)
    storage = opened(settings)
    digests = {}
    for name in sorted({*TABLES, "users"} - {"anchors"}):
        rows = [[day, _rounded(storage.read(name, day).to_pylist())] for day in storage.days(name)]
        digests[name] = hashlib.sha256(repr(rows).encode()).hexdigest()[:16]
    assert digests == GOLDEN.get(world.FORMAT), (
        "the same config and seed give another world than the recorded one. If you meant to change the world, raise "
        "FORMAT in pipelines/world/world.py, so that worlds made before count as old, and record these digests for it "
        "in GOLDEN. If only a library is newer, record them for the FORMAT that is there"
    )


def test_a_world_of_another_format_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    settings = small(tmp_path, num_days=1, num_authors=8, impressions=False)
    run_job(world, settings)
    before = opened(settings).commit_of("segments", "2026-01-01")
    monkeypatch.setattr(world, "FORMAT", world.FORMAT + 1)
    run_job(world, settings)
    assert opened(settings).commit_of("segments", "2026-01-01") != before
