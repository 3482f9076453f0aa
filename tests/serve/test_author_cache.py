"""Questions about authors."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, date, datetime
from functools import partial

import numpy as np
import pytest

from models.artifacts.store import ArtifactStore
from models.whitening import Whitening
from serve.args import WatchConfig
from serve.author_cache import AuthorCache, NoAnchorError, NoVectorsError
from serve.loading import load_bank
from serve.snapshot import Bank
from serve.watcher import SnapshotWatcher
from tests.serve.conftest import AUTHOR_IDS, NUM_AUTHORS, UNANCHORED, USER_IDS, Published, fill_with_nan


def cache_over(published: Published) -> tuple[AuthorCache, SnapshotWatcher[Bank]]:
    store = ArtifactStore.open(str(published.root))
    watcher: SnapshotWatcher[Bank] = SnapshotWatcher(store, partial(load_bank, store), WatchConfig())
    watcher.poll()
    return AuthorCache(watcher), watcher


def test_a_known_author(shared: Published) -> None:
    cache, watcher = cache_over(shared)
    author = cache.author(int(AUTHOR_IDS[3]))
    cls, tar = watcher.current.states["sarm"][4]
    assert author.known and author.anchor_day == "2025-10-08"
    assert author.anchor_age_days == (datetime.now(UTC).date() - date(2025, 10, 8)).days
    assert author.cls_norm == pytest.approx(np.sqrt((cls**2).sum()), rel=1e-6)
    assert author.tar_norm == pytest.approx(np.sqrt((tar**2).sum()), rel=1e-6)
    assert (author.bank_version, author.model_version) == ("a", "m-a")


def test_an_unknown_author_is_described_by_the_cold_start_row(shared: Published) -> None:
    cache, watcher = cache_over(shared)
    author = cache.author(-1)
    assert not author.known and author.anchor_day is None and author.anchor_age_days is None
    assert author.cls_norm == pytest.approx(float(np.linalg.norm(watcher.current.cold_start["sarm"][0])), rel=1e-6)


def test_an_author_without_an_anchor_is_known(shared: Published) -> None:
    author = cache_over(shared)[0].author(int(UNANCHORED[0]))
    assert author.known and author.anchor_day is None


@pytest.mark.parametrize("k", [1, 3, 10, 100])
def test_similar_authors_are_the_nearest_by_cosine(shared: Published, k: int) -> None:
    cache, watcher = cache_over(shared)
    me = int(AUTHOR_IDS[3])
    allowed = [i for i, author in enumerate(AUTHOR_IDS) if author != me and author not in UNANCHORED]
    cls = watcher.current.states["sarm"][1:, 0]
    whitened = Whitening.fit([cls[sorted([*allowed, 3])]])(cls).astype(np.float64)
    cosine = whitened @ whitened[3] / (np.linalg.norm(whitened, axis=1) * np.linalg.norm(whitened[3]))
    wanted = sorted(allowed, key=lambda i: -cosine[i])[:k]
    answer = cache.similar(me, k)
    assert [n.author_id for n in answer.similar] == [int(AUTHOR_IDS[i]) for i in wanted]
    assert [n.cosine for n in answer.similar] == pytest.approx([cosine[i] for i in wanted], abs=1e-3)


@pytest.mark.parametrize("author_id", [int(UNANCHORED[0]), -1, 2**63 - 1])
def test_nothing_is_similar_to_an_author_without_an_anchor(shared: Published, author_id: int) -> None:
    with pytest.raises(NoAnchorError, match=f"author {author_id} has no anchor in bank a"):
        cache_over(shared)[0].similar(author_id)


@pytest.mark.parametrize("k", [0, 101])
def test_k_is_bounded(shared: Published, k: int) -> None:
    with pytest.raises(ValueError, match="within 1..100"):
        cache_over(shared)[0].similar(int(AUTHOR_IDS[0]), k)


def test_status(shared: Published) -> None:
    status = cache_over(shared)[0].status()
    assert (status.bank_version, status.model_version) == ("a", "m-a")
    assert (status.rows, status.states) == (NUM_AUTHORS + 1, {"sarm": [2, shared.config.width]})
    assert status.authors_with_anchor == NUM_AUTHORS - len(UNANCHORED)
    assert 0 <= status.age_s < 3600
    assert (status.load_failures, status.last_failure) == (0, None)
    assert set(status.sample_author_ids) <= set(AUTHOR_IDS.tolist()) - set(UNANCHORED)
    assert set(status.sample_user_ids) <= set(USER_IDS.tolist())


def test_status_shows_a_version_that_was_refused(published: Published) -> None:
    cache, watcher = cache_over(published)
    published.bank("b", "m-a", change=fill_with_nan)
    watcher.poll()
    status = cache.status()
    assert (status.bank_version, status.load_failures) == ("a", 1)
    assert "holds NaN" in str(status.last_failure)


def test_states_are_given_for_the_version_asked(published: Published) -> None:
    cache, watcher = cache_over(published)
    old = np.array(watcher.current.states["sarm"][[3, 0, 5]])
    published.publish("b", seed=1)
    watcher.poll()
    rows = np.array([3, 0, 5])
    of_old, of_new = cache.states("a", 0, rows), cache.states("b", 0, rows)
    assert of_old is not None and np.array_equal(of_old.states["sarm"], old)
    assert of_new is not None and not np.array_equal(of_new.states["sarm"], old)
    assert cache.states("c", 0, rows) is None


def without_vectors(published: Published) -> AuthorCache:
    """Over a bank whose ranker reads tags alone."""
    store = ArtifactStore.open(str(published.root))

    def load(version: str) -> Bank:
        tags = np.arange(2 * (NUM_AUTHORS + 1)).reshape(-1, 2)
        bank = load_bank(store, version)
        return replace(bank, states={"tags": tags}, cold_start={"tags": tags[0]}, sources={}, neighbours=None)

    watcher: SnapshotWatcher[Bank] = SnapshotWatcher(store, load, WatchConfig())
    watcher.poll()
    return AuthorCache(watcher)


def test_a_bank_without_vectors_describes_its_authors_without_norms(shared: Published) -> None:
    author = without_vectors(shared).author(int(AUTHOR_IDS[3]))
    assert author.known and author.anchor_day == "2025-10-08"
    assert author.cls_norm is None and author.tar_norm is None


def test_a_bank_without_vectors_compares_nobody(shared: Published) -> None:
    with pytest.raises(NoVectorsError, match="bank a holds no vectors to compare, only tags"):
        without_vectors(shared).similar(int(AUTHOR_IDS[3]))


def test_a_bank_without_vectors_gives_what_it_has(shared: Published) -> None:
    cache = without_vectors(shared)
    found = cache.states("a", 0, np.array([2, 0]))
    assert found is not None and found.states["tags"].tolist() == [[4, 5], [0, 1]]
    assert cache.status().states == {"tags": [2]}
