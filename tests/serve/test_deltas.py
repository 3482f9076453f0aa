"""Deltas of the bank in use: taken up in order, never mixed, and the same as a full bank of the folded arrays."""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.artifacts import bank as bank_files
from models.artifacts.bank_delta import BankDelta, fold
from models.artifacts.delta_store import DeltaStore
from models.artifacts.store import ArtifactStore
from serve.args import WatchConfig
from serve.author_cache import AuthorCache
from serve.likeness import Likeness
from serve.loading import load_bank, load_snapshot
from serve.neighbours import Neighbours
from serve.schema import RankRequest, RankResponse
from serve.snapshot import Bank, Gathered, Snapshot
from serve.user_sequence import UserSequence
from serve.watcher import SnapshotWatcher
from tests.serve.conftest import (
    AUTHOR_IDS,
    HOUR_MS,
    NOW_MS,
    NUM_AUTHORS,
    UNANCHORED,
    UNTIL_MS,
    USER_IDS,
    Published,
    watcher_of,
)

ASKED = RankRequest.model_validate(
    {"user_id": int(USER_IDS[5]), "candidates": AUTHOR_IDS.tolist(), "context": {"ts_ms": NOW_MS}}
)
ROWS = [0, 3, 5, 10, NUM_AUTHORS]
"""Row 0, a few others, and the last one."""


def cache_over(root: Path) -> tuple[AuthorCache, SnapshotWatcher[Bank]]:
    store = ArtifactStore.open(str(root))
    watcher: SnapshotWatcher[Bank] = SnapshotWatcher(store, partial(load_bank, store), WatchConfig())
    watcher.poll()
    return AuthorCache(watcher), watcher


def remote_watcher(root: Path) -> SnapshotWatcher[Snapshot]:
    """Of a ranker whose states are elsewhere."""
    store = ArtifactStore.open(str(root))
    load = partial(load_snapshot, store, with_states=False)
    watcher: SnapshotWatcher[Snapshot] = SnapshotWatcher(store, load, WatchConfig())
    watcher.poll()
    return watcher


def file_of(published: Published, number: int, name: str = "source_sarm.npy", bank: str = "a") -> Path:
    return published.folder("bank", bank) / "deltas" / f"{number:08d}" / name


def damage(path: Path) -> bytes:
    """Flips a bit; returns the content of before."""
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    return content


def test_a_watcher_takes_up_each_delta_in_order(published: Published) -> None:
    watcher = watcher_of(published.root)
    assert watcher.current.bank.moment == (0, None) and not watcher.poll()
    for number in (1, 2):
        published.delta("a", number, ROWS)
        assert watcher.poll() and not watcher.poll()
        assert watcher.current.bank.moment == (number, UNTIL_MS + number * HOUR_MS)
    for number in (3, 4, 5):
        published.delta("a", number, ROWS)
    assert watcher.poll() and watcher.current.bank.moment.delta == 5
    assert (watcher.failures, watcher.last_failure, len(watcher.loaded)) == (0, None, 1)


def test_whoever_starts_later_has_all_deltas_at_once(published: Published) -> None:
    for number in range(1, 20):
        published.delta("a", number, [number, number + 1])
    watcher = watcher_of(published.root)
    assert watcher.current.bank.moment.delta == 19
    assert watcher.current.bank.overlay is not None and len(watcher.current.bank.overlay.rows()) == 20


def test_the_bank_stays_mapped_and_is_shared(published: Published) -> None:
    watcher = watcher_of(published.root)
    before = watcher.current
    published.delta("a", 1, ROWS)
    watcher.poll()
    after = watcher.current
    assert after.bank.states["sarm"] is before.bank.states["sarm"] and after.model is before.model
    assert before.bank.moment.delta == 0 and before.bank.overlay is None


def test_a_gap_is_refused_until_it_is_filled(published: Published) -> None:
    watcher = watcher_of(published.root)
    for number in (1, 2, 3):
        published.delta("a", number, ROWS)
    missing = file_of(published, 2, "MANIFEST.json")
    content = missing.read_bytes()
    missing.unlink()
    assert watcher.poll() and watcher.current.bank.moment.delta == 1
    assert watcher.failures == 1 and "delta 00000002: wanted MANIFEST.json, got none" in str(watcher.last_failure)
    assert not watcher.poll() and watcher.current.bank.moment.delta == 1
    missing.write_bytes(content)
    assert watcher.poll() and watcher.current.bank.moment.delta == 3 and watcher.last_failure is None


def test_damage_is_refused_counted_and_recovered_from_by_a_repair(published: Published) -> None:
    watcher = watcher_of(published.root)
    wanted = published.delta("a", 1, ROWS)
    content = damage(file_of(published, 1))
    before = watcher.current
    assert not watcher.poll() and watcher.current is before
    assert watcher.failures == 1 and "source_sarm.npy wanted sha256" in str(watcher.last_failure)
    file_of(published, 1).write_bytes(content)
    assert watcher.poll() and watcher.last_failure is None
    assert np.array_equal(watcher.current.bank.gather(wanted.rows)["sarm"], wanted.states["sarm"])


def test_after_a_bad_delta_the_next_full_bank_is_used(published: Published) -> None:
    watcher = watcher_of(published.root)
    published.delta("a", 1, ROWS)
    damage(file_of(published, 1))
    watcher.poll()
    published.publish("b", seed=1)
    assert watcher.poll()
    assert (watcher.current.version, watcher.current.bank.moment.delta, watcher.last_failure) == ("b", 0, None)


def test_the_next_full_bank_comes_with_its_own_deltas_alone(published: Published) -> None:
    watcher = watcher_of(published.root)
    deltas = [published.delta("a", number, ROWS) for number in (1, 2)]
    watcher.poll()
    published.folded("a", "b", deltas)
    published.delta("b", 1, [7])
    published.point("b")
    watcher.poll()
    bank = watcher.current.bank
    assert (bank.version, bank.moment.delta) == ("b", 1) and bank.overlay is not None
    assert bank.overlay.rows().tolist() == [7]
    assert [loaded.version for loaded in watcher.loaded] == ["b", "a"]


def test_a_full_bank_whose_first_delta_is_bad_is_used_without(published: Published) -> None:
    watcher = watcher_of(published.root)
    published.publish("b", seed=1, point=False)
    published.delta("b", 1, ROWS)
    damage(file_of(published, 1, bank="b"))
    published.point("b")
    assert watcher.poll() and watcher.current.version == "b"
    assert watcher.current.bank.moment.delta == 0 and "wanted sha256" in str(watcher.last_failure)


def test_a_delta_that_does_not_fit_a_source_is_refused(published: Published) -> None:
    """What the source alone knows, such as how many codes there are."""
    watcher = watcher_of(published.root)
    bank, delta = watcher.current.bank, published.made_delta("a", 1, ROWS)

    def refuses(table: npt.NDArray[np.float32]) -> None:
        raise ValueError("wanted codes below 5, got 7")

    bank.sources["sarm"].check_table = refuses  # type: ignore[method-assign]
    with pytest.raises(ValueError, match="bank a, delta 00000001, source sarm: wanted codes below 5, got 7"):
        bank.with_delta(delta)


def test_scores_are_those_of_a_full_bank_of_the_folded_arrays(published: Published) -> None:
    """Bit by bit, and other than before."""
    watcher = watcher_of(published.root)
    sequence = UserSequence(watcher)
    before = sequence.rank(ASKED)
    deltas = [published.delta("a", 1, ROWS), published.delta("a", 2, [5, 6, 12])]
    watcher.poll()
    over = sequence.rank(ASKED)
    published.folded("a", "b", deltas, point=True)
    whole = UserSequence(watcher_of(published.root)).rank(ASKED)
    assert over.candidates == whole.candidates and over.candidates != before.candidates
    assert (over.bank_version, over.bank_delta, whole.bank_version, whole.bank_delta) == ("a", 2, "b", 0)
    until_ms = deltas[-1].until_ts_ms
    assert watcher_of(published.root).current.bank.moment.until_ts_ms == until_ms, "the next bank says how far it knows"
    now_s = time.time()
    assert over.bank_until_age_s == pytest.approx(now_s - until_ms / 1000, abs=60)


def test_an_unknown_author_is_answered_by_the_newest_row_0(published: Published) -> None:
    watcher = watcher_of(published.root)
    sequence = UserSequence(watcher)
    unknown = ASKED.model_copy(update={"candidates": [-7], "history": []})
    before = sequence.rank(unknown).candidates
    published.delta("a", 1, [0])
    watcher.poll()
    assert sequence.rank(unknown).candidates != before
    cold_start = watcher.current.bank.cold_start["sarm"]
    assert np.array_equal(cold_start, watcher.current.bank.gather(np.array([0]))["sarm"][0])


@pytest.fixture(scope="module")
def shared_bank(shared: Published) -> Bank:
    return watcher_of(shared.root).current.bank


@given(st.lists(st.sets(st.integers(0, NUM_AUTHORS)).map(sorted), min_size=1, max_size=5), st.data())
def test_lookups_are_those_of_the_folded_bank(
    shared: Published, shared_bank: Bank, sets: list[list[int]], data: st.DataObject
) -> None:
    deltas = [shared.made_delta("a", number, rows) for number, rows in enumerate(sets, start=1)]
    stored = bank_files.read(shared.folder("bank", "a"))
    folded, days = fold("a", stored, deltas)
    bank = shared_bank
    for delta in deltas:
        bank = bank.with_delta(delta)
    rows = np.array(data.draw(st.lists(st.integers(0, NUM_AUTHORS), max_size=30)), np.int64)
    assert np.array_equal(bank.gather(rows)["sarm"], folded["sarm"][rows])
    assert np.array_equal(bank.anchor_day, days)
    assert np.array_equal(bank.cold_start["sarm"], folded["sarm"][0])


def test_the_author_cache_describes_the_new_vector(published: Published) -> None:
    cache, watcher = cache_over(published.root)
    delta = published.delta("a", 1, [0, 4])
    watcher.poll()
    author, unknown = cache.author(int(AUTHOR_IDS[3])), cache.author(-1)
    cls, tar = delta.states["sarm"][1]
    assert (author.cls_norm, author.tar_norm) == pytest.approx((np.linalg.norm(cls), np.linalg.norm(tar)), rel=1e-6)
    assert (author.bank_version, author.bank_delta, author.anchor_day) == ("a", 1, "2025-11-09")
    assert unknown.cls_norm == pytest.approx(np.linalg.norm(delta.states["sarm"][0, 0]), rel=1e-6)
    status = cache.status()
    assert (status.bank_delta, status.rows_of_deltas, status.bank_until) == (1, 2, "2025-10-05T05:53:20.000+00:00")


def test_similar_authors_are_told_by_the_new_vectors(published: Published) -> None:
    """As over the folded bank, by the whitening of the full one."""
    _, watcher = cache_over(published.root)
    base = watcher.current
    touched = base.catalog.author_rows([int(AUTHOR_IDS[1]), int(UNANCHORED[0]), int(AUTHOR_IDS[20])])
    deltas = [published.delta("a", 1, np.sort(touched)), published.delta("a", 2, touched[:1])]
    watcher.poll()
    bank, anchored = watcher.current, watcher.current.anchor_day != -1
    anchored[0] = False
    folded, _ = fold("a", bank_files.read(published.folder("bank", "a")), deltas)
    assert base.neighbours is not None and bank.neighbours is not None
    fitted = Likeness.fit(base.states["sarm"][:, 0], base.anchor_day != -1)
    likeness = replace(fitted, lengths=np.linalg.norm(fitted.whitening(folded["sarm"][:, 0]), axis=1))
    reference = Neighbours(folded["sarm"][:, 0], anchored, lambda: likeness)
    for row in (*touched.tolist(), 8):
        rows, cosines = bank.neighbours.nearest(row, 10)
        wanted, wanted_cosines = reference.nearest(row, 10)
        np.testing.assert_allclose(cosines, wanted_cosines, atol=1e-5)
        assert rows.tolist() == wanted.tolist()
    assert base.neighbours.nearest(8, 5)[0].tolist() != bank.neighbours.nearest(8, 5)[0].tolist()


def test_an_anchor_that_a_delta_brings_counts(published: Published) -> None:
    cache, watcher = cache_over(published.root)
    anchored = cache.status().authors_with_anchor
    published.delta("a", 1, watcher.current.catalog.author_rows([int(UNANCHORED[0])]))
    watcher.poll()
    assert cache.status().authors_with_anchor == anchored + 1
    assert len(cache.similar(int(UNANCHORED[0]), 3).similar) == 3


def test_states_from_elsewhere_are_of_one_moment_and_say_which(published: Published) -> None:
    """Whichever of ranker and cache is ahead: the cache's deltas count, and the answer names them."""
    cache, of_cache = cache_over(published.root)
    of_ranker = remote_watcher(published.root)
    local = watcher_of(published.root)
    sequence, reference = UserSequence(of_ranker, lookup=cache.states), UserSequence(local)
    for number in (1, 2):
        published.delta("a", number, ROWS)
        local.poll()
        # The cache is behind: its state answers, not cold-start vectors.
        of_ranker.poll()
        answer = sequence.rank(ASKED)
        assert (answer.bank_delta, answer.degraded) == (number - 1, False)
        assert sequence.health().bank_delta == number
        of_cache.poll()
        answer = sequence.rank(ASKED)
        assert answer.candidates == reference.rank(ASKED).candidates
        assert (answer.bank_delta, answer.degraded) == (number, False)
    # The cache is ahead.
    published.delta("a", 3, ROWS)
    of_cache.poll()
    local.poll()
    answer = sequence.rank(ASKED)
    assert answer.bank_delta == 3 and answer.candidates == reference.rank(ASKED).candidates


def test_a_cache_that_is_behind_looks_at_once(published: Published) -> None:
    cache, watcher = cache_over(published.root)
    assert cache.states("a", 0, np.array([1])) is not None and not watcher._wake.is_set()
    assert cache.states("a", 1, np.array([1])) is not None and watcher._wake.is_set()


def test_a_ranker_without_states_keeps_row_0_of_deltas(published: Published) -> None:
    watcher = remote_watcher(published.root)
    delta = published.delta("a", 1, ROWS)
    published.delta("a", 2, [4])
    watcher.poll()
    bank = watcher.current.bank
    assert bank.overlay is None and bank.moment.delta == 2
    assert np.array_equal(bank.cold_start["sarm"], delta.states["sarm"][0])
    assert np.array_equal(bank.anchor_day[4:6], [20_402, 20_401])

    def lookup(version: str, delta: int, rows: npt.NDArray[np.int64]) -> Gathered | None:
        return None

    degraded = UserSequence(watcher, lookup=lookup).rank(ASKED)
    assert degraded.degraded and degraded.bank_delta == 2


def test_health_says_how_far_the_bank_knows(published: Published) -> None:
    watcher = watcher_of(published.root)
    health = UserSequence(watcher).health()
    assert (health.bank_delta, health.bank_until, health.bank_until_age_s) == (0, None, None)
    published.delta("a", 1, ROWS)
    watcher.poll()
    health = UserSequence(watcher).health()
    assert (health.bank_delta, health.bank_until) == (1, "2025-10-05T05:53:20.000+00:00")
    assert health.bank_until_age_s == pytest.approx(time.time() - (UNTIL_MS + HOUR_MS) / 1000, abs=60)


def test_an_event_time_of_a_bank_that_is_none_is_refused(published: Published) -> None:
    stored = published.folder("bank", "a") / "MANIFEST.json"
    stored.write_text(stored.read_text().replace('"day"', '"until_ts_ms"'))
    watcher = watcher_of(published.root)
    assert "wanted made_from.until_ts_ms in milliseconds since 1970, got '2025-10-09'" in str(watcher.last_failure)


class Fixed:
    """A watcher of one snapshot."""

    def __init__(self, snapshot: Snapshot) -> None:
        self.current = snapshot


def test_no_answer_mixes_deltas_while_they_come_every_50_ms(published: Published) -> None:
    """Three readers, and a full bank in between: each answer equals the reference of the moment that it names."""
    watcher = watcher_of(published.root)
    sequence = UserSequence(watcher)
    answers: list[RankResponse] = []
    stop = threading.Event()

    def read() -> None:
        while not stop.is_set():
            answers.append(sequence.rank(ASKED))

    readers = [threading.Thread(target=read) for _ in range(3)]
    for reader in readers:
        reader.start()
    rng = np.random.default_rng(0)
    deltas: dict[str, list[BankDelta]] = {"a": [], "b": []}
    for version in deltas:
        if version == "b":
            published.folded("a", "b", deltas["a"], point=True)
        for number in range(1, 21):
            rows = np.flatnonzero(rng.random(NUM_AUTHORS + 1) < 0.3)
            deltas[version].append(published.delta(version, number, rows))
            watcher.poll()
            time.sleep(0.05)
    stop.set()
    for reader in readers:
        reader.join(60)
    assert watcher.failures == 0
    wanted = {}
    for version, made in deltas.items():
        snapshot = load_snapshot(ArtifactStore.open(str(published.root)), version)
        for number, delta in enumerate([None, *made]):
            if delta is not None:
                snapshot = replace(snapshot, bank=snapshot.bank.with_delta(delta))
            wanted[version, number] = UserSequence(Fixed(snapshot)).rank(ASKED).candidates  # type: ignore[arg-type]
    moments = {(answer.bank_version, answer.bank_delta) for answer in answers}
    assert len(moments) > 20 and {version for version, _ in moments} == {"a", "b"}
    for answer in answers:
        assert answer.candidates == wanted[answer.bank_version, answer.bank_delta]


def test_the_delta_store_agrees_with_the_snapshot_about_the_layout(shared: Published) -> None:
    bank = watcher_of(shared.root).current.bank
    assert DeltaStore.open(ArtifactStore.open(str(shared.root)), "a").layout == bank.layout
