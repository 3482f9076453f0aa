"""Retrieval: what is answered is what a sort of all lives on air gives, for the history that counts at that moment."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.artifacts.bank import Histories
from models.artifacts.store import ArtifactStore
from models.larm.two_tower import Viewers
from models.online.config import StoreConfig
from models.online.embedded import EmbeddedStore
from models.online.errors import StoreDownError
from models.online.lives import LiveUpdate
from serve.args import WatchConfig
from serve.live_search import KIND, LiveSearch, SearchLoader
from serve.online import NothingOnAirError, Online
from serve.retrieval import NoIndexError, Retrieval
from serve.schema import RetrieveRequest, RetrieveResponse
from serve.watcher import NotReadyError, SnapshotWatcher
from tests.models.online.event_streams import batch_of
from tests.serve import searched
from tests.serve.conftest import AUTHOR_IDS, NOW_MS, USER_IDS, Published, watcher_of
from tests.serve.searched import index_of, publish, publish_index, publish_towers, towers_of
from tests.serve.test_online import NEWCOMER, Gone, clicks

USER = int(USER_IDS[1])


def searches(root: Path) -> SnapshotWatcher[LiveSearch]:
    """A watcher of the index that has looked once."""
    store = ArtifactStore.open(str(root))
    watcher: SnapshotWatcher[LiveSearch] = SnapshotWatcher(store, SearchLoader(store), WatchConfig(), kind=KIND, keep=1)
    watcher.poll()
    return watcher


def asked(**fields: Any) -> RetrieveRequest:
    return RetrieveRequest.model_validate({"user_id": USER, "k": 10, "context": {"ts_ms": NOW_MS}} | fields)


def item(author_id: int, age_s: float, seconds: float = 5.0) -> dict[str, Any]:
    return {"author_id": author_id, "ts_ms": NOW_MS - round(1000 * age_s), "watch_time_s": seconds}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root that no test changes, without a bank."""
    made = tmp_path_factory.mktemp("searched")
    publish(made)
    return made


@pytest.fixture(scope="module")
def retrieval(root: Path) -> Retrieval:
    return Retrieval(searches(root))


@pytest.fixture
def online(tmp_path: Path) -> Iterator[EmbeddedStore]:
    store = EmbeddedStore(StoreConfig(backend="embedded", path=str(tmp_path / "online"), map_gib=0.25))
    yield store
    store.close()


def brute_force(user_id: int, history: list[int], k: int, ts_ms: int) -> list[tuple[int, int, float]]:
    """(live, author, score) by the model's own towers, of authors of a history, newest last."""
    towers, index = towers_of(), index_of()
    catalog = towers.catalog
    row = int(catalog.user_rows(user_id))
    viewers = Viewers(
        torch.tensor([row]),
        torch.from_numpy(catalog.user_profile[[row]]),
        torch.from_numpy(catalog.author_rows(history or [-1])[None]),
        torch.tensor([[bool(history)] * max(1, len(history))]),
    )
    with torch.no_grad():
        vector = towers.model.viewers(viewers)[0].double().numpy()
    found = [
        (int(index.live_ids[at]), int(index.author_ids[at]), float(index.vectors[at].astype(np.float64) @ vector))
        for at in range(len(index.live_ids))
        if index.start_ts_ms[at] <= ts_ms < index.end_ts_ms[at]
    ]
    return sorted(found, key=lambda each: -each[2])[:k]


@settings(max_examples=60, deadline=None)
@given(
    user_id=st.sampled_from([*USER_IDS.tolist(), 99_991, -1]),
    history=st.lists(st.sampled_from([*AUTHOR_IDS.tolist(), 123_456]), max_size=searched.LENGTH),
    k=st.integers(1, 80),
    hours=st.integers(-2, 2),
)
def test_what_is_found_is_what_a_sort_of_all_gives(
    retrieval: Retrieval, user_id: int, history: list[int], k: int, hours: int
) -> None:
    ts_ms = NOW_MS + hours * 3_600_000
    items = [item(author, age_s=9_000 + len(history) - place) for place, author in enumerate(history)]
    answer = retrieval.retrieve(asked(user_id=user_id, k=k, history=items, context={"ts_ms": ts_ms}))
    wanted = brute_force(user_id, history, k, ts_ms)
    assert answer.live_ids == [live for live, _, _ in wanted]
    assert answer.author_ids == [author for _, author, _ in wanted]
    np.testing.assert_allclose(answer.scores, [score for _, _, score in wanted], atol=2e-6)
    assert answer.user_known == (user_id in USER_IDS) and answer.history_used == len(history)
    assert (answer.history_source, answer.degraded) == ("request", False)
    assert (answer.index_version, answer.towers_version) == ("i1", "t1")
    assert answer.index_until_age_s == max(0, 5 + 3600 * hours)
    assert answer.on_air == len(brute_force(user_id, [], 10**6, ts_ms)) >= len(answer.live_ids)


def test_only_what_was_known_by_the_rule_of_the_towers_counts(tmp_path: Path) -> None:
    rule = type(searched.RULE)(length=2, days=14, delay_ms=60_000)
    publish_towers(tmp_path, "t1", towers_of(rule=rule))
    publish_index(tmp_path, "i1", index_of(), {"towers": "t1"})
    retrieval = Retrieval(searches(tmp_path))
    five, other, third = AUTHOR_IDS[:3].tolist()
    told = [item(five, 59), item(other, 61), item(third, 70), item(five, 80)]
    answer = retrieval.retrieve(asked(history=told))
    assert answer.history_used == 2
    assert answer.live_ids == [live for live, _, _ in brute_force(USER, [third, other], 10, NOW_MS)]


def test_without_a_history_in_the_request_the_published_one_counts(root: Path, shared: Published) -> None:
    histories = watcher_of(shared.root).current.histories
    retrieval = Retrieval(searches(root), lambda: histories)
    user = int(USER_IDS[-1])
    authors = histories.of_user(user)[0].tolist()
    answer = retrieval.retrieve(asked(user_id=user))
    assert (answer.history_source, answer.history_used) == ("published", len(authors))
    assert answer.live_ids == [live for live, _, _ in brute_force(user, authors, 10, NOW_MS)]
    alone = Retrieval(searches(root)).retrieve(asked(user_id=user))
    assert (alone.history_source, alone.history_used) == ("none", 0)
    assert alone.scores != answer.scores


def test_a_click_changes_what_is_found_next(root: Path, online: EmbeddedStore) -> None:
    retrieval = Retrieval(searches(root), lambda: Histories.none(searched.RULE), Online(online))
    before = retrieval.retrieve(asked(user_id=NEWCOMER))
    author = int(AUTHOR_IDS[3])
    online.apply(batch_of(clicks(NEWCOMER, 2_000, author_id=author)), NOW_MS)
    after = retrieval.retrieve(asked(user_id=NEWCOMER))
    assert (after.history_source, after.history_used, after.store_age_s) == ("store", 1, 2.0)
    assert after.live_ids == [live for live, _, _ in brute_force(NEWCOMER, [author], 10, NOW_MS)]
    assert after.live_ids != before.live_ids
    # At a moment before the click it is not there yet.
    earlier = retrieval.retrieve(asked(user_id=NEWCOMER, context={"ts_ms": NOW_MS - 3_000}))
    assert earlier.history_used == 0 and earlier.scores == before.scores


def test_a_live_that_is_told_to_be_over_is_not_found(root: Path, online: EmbeddedStore) -> None:
    def found(online: Any, ts_ms: int = NOW_MS) -> RetrieveResponse:
        return Retrieval(searches(root), online=Online(online)).retrieve(asked(k=80, context={"ts_ms": ts_ms}))

    best, second, third = (before := found(online)).live_ids[:3]
    # Told to be over a second ago, now, in a second; and one that is in no index.
    for live_id, end_ms in ((best, -1_000), (second, 0), (third, 1_000), (5, -1_000)):
        told = LiveUpdate(live_id=live_id, author_id=1, start_ms=NOW_MS - 10**6, end_ms=NOW_MS + end_ms)
        online.tell([told], NOW_MS)
    after = found(online)
    assert after.live_ids == [live for live in before.live_ids if live not in (best, second)]
    assert after.on_air == before.on_air - 2 and not after.degraded
    assert found(online, NOW_MS - 1).live_ids == [live for live in before.live_ids if live != best]
    gone = found(Gone(StoreDownError("away")))
    assert gone.degraded and gone.live_ids == before.live_ids


def test_an_index_is_used_with_the_towers_that_it_names_alone(tmp_path: Path) -> None:
    publish(tmp_path, "i1", "t1", seed=1)
    watcher = searches(tmp_path)
    retrieval = Retrieval(watcher)
    first = retrieval.retrieve(asked())
    # Newer towers alone change nothing: the index is of the others.
    publish_towers(tmp_path, "t2", towers_of(2))
    assert not watcher.poll() and retrieval.retrieve(asked()) == first
    publish_index(tmp_path, "i2", index_of(2), {"towers": "t2"})
    assert watcher.poll()
    second = retrieval.retrieve(asked())
    assert (second.index_version, second.towers_version) == ("i2", "t2") and second.live_ids != first.live_ids
    # A newer index of the same towers: they are not loaded again.
    towers = watcher.current.towers
    publish_index(tmp_path, "i3", index_of(3), {"towers": "t2"})
    assert watcher.poll() and watcher.current.towers is towers


@pytest.mark.parametrize(
    ("towers", "made_from", "message"),
    [
        (towers_of(codebook="c7"), {"towers": "t9"}, "read those of codebook c7.*train without towers.codes"),
        (towers_of(dim=5), {"towers": "t9"}, f"wanted vectors of width 5, as those of towers t9, got {searched.DIM}"),
        (towers_of(), {}, "wanted made_from.towers in its manifest"),
        (towers_of(), {"towers": "t8"}, "towers/v=t8: wanted MANIFEST.json, got none"),
    ],
)
def test_what_does_not_fit_is_left_alone(tmp_path: Path, towers: Any, made_from: dict[str, str], message: str) -> None:
    publish(tmp_path)
    watcher = searches(tmp_path)
    publish_towers(tmp_path, "t9", towers)
    publish_index(tmp_path, "i9", index_of(), made_from)
    assert not watcher.poll() and watcher.current.version == "i1"
    assert watcher.failures == 1
    assert re.search(message, str(watcher.last_failure))
    status = Retrieval(watcher).status()
    assert (status.index_version, status.lives, status.last_failure) == ("i1", searched.LIVES, watcher.last_failure)


def test_without_an_index_and_without_lives_it_is_said(tmp_path: Path) -> None:
    with pytest.raises(NoIndexError, match="run the jobs towers, item_vectors and index"):
        Retrieval(searches(tmp_path)).retrieve(asked())
    publish_index(tmp_path, "i0", index_of(), {"towers": "t1"})
    with pytest.raises(NotReadyError, match="towers/v=t1: wanted MANIFEST.json, got none"):
        Retrieval(searches(tmp_path)).status()
    publish(tmp_path)
    with pytest.raises(NothingOnAirError, match="no live of index i1 is on air at 5 ms; it knows until"):
        Retrieval(searches(tmp_path)).retrieve(asked(context={"ts_ms": 5}))
