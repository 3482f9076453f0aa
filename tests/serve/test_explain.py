"""Whom of a history candidates are like."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
from fastapi.testclient import TestClient

from models.artifacts.store import ArtifactStore
from models.whitening import Whitening
from serve.explain import MAX_EXPLAINED, reasons_of
from serve.loading import load_bank
from serve.snapshot import Bank
from tests.serve.conftest import AUTHOR_IDS, NOW_MS, UNANCHORED, USER_IDS, Published, watcher_of
from tests.serve.test_api import client_over


@pytest.fixture(scope="module")
def bank(shared: Published) -> Bank:
    return load_bank(ArtifactStore.open(str(shared.root)), "a")


def cosines(bank: Bank) -> np.ndarray:
    cls = bank.states["sarm"][:, 0]
    whitened = Whitening.fit([cls[bank.anchor_day >= 0]])(cls)
    unit = whitened / np.linalg.norm(whitened, axis=1, keepdims=True)
    return unit @ unit.T


def test_the_nearest_of_the_history_come_first(bank: Bank) -> None:
    every = cosines(bank)
    history = [int(author) for author in (AUTHOR_IDS[3], AUTHOR_IDS[7], AUTHOR_IDS[11], AUTHOR_IDS[20], AUTHOR_IDS[5])]
    rows = bank.catalog.author_rows(history)
    for author, reason in zip(AUTHOR_IDS[:3], reasons_of(bank, AUTHOR_IDS[:3].tolist(), history), strict=True):
        found = every[bank.catalog.author_rows(author)][rows]
        order = np.argsort(-found)[:3]
        assert reason.author_id == author
        assert [near.author_id for near in reason.nearest] == [history[place] for place in order]
        assert [near.cosine for near in reason.nearest] == pytest.approx(found[order].tolist(), abs=1e-4)


def test_who_was_watched_before_is_nearest_to_themselves(bank: Bank) -> None:
    (reason,) = reasons_of(bank, [int(AUTHOR_IDS[3])], AUTHOR_IDS[:8].tolist())
    assert (reason.nearest[0].author_id, reason.nearest[0].cosine) == (AUTHOR_IDS[3], pytest.approx(1.0, abs=1e-5))


def test_without_anchors_nobody_is_alike(bank: Bank) -> None:
    asked = [int(UNANCHORED[0]), -5, int(AUTHOR_IDS[0])]
    reasons = reasons_of(bank, asked, [int(UNANCHORED[1]), -7, int(AUTHOR_IDS[1])])
    assert [[near.author_id for near in reason.nearest] for reason in reasons] == [[], [], [AUTHOR_IDS[1]]]
    assert [reason.nearest for reason in reasons_of(bank, asked, [])] == [[], [], []]
    assert [reason.nearest for reason in reasons_of(replace(bank, neighbours=None), asked, asked)] == [[], [], []]


@pytest.fixture(scope="module")
def client(shared: Published) -> Iterator[TestClient]:
    with client_over(shared) as client:
        yield client


def test_the_history_is_the_one_that_is_ranked_with(client: TestClient, shared: Published) -> None:
    user = int(USER_IDS[-1])
    asked = {"user_id": user, "candidates": AUTHOR_IDS[:2].tolist(), "context": {"ts_ms": NOW_MS}}
    answer = client.post("/explain", json=asked).json()
    authors, _, _ = watcher_of(shared.root).current.histories.of_user(user)
    assert answer["history_author_ids"] == list(dict.fromkeys(authors[::-1].tolist()))
    assert [reason["author_id"] for reason in answer["reasons"]] == asked["candidates"]
    given = [{"author_id": int(AUTHOR_IDS[9]), "ts_ms": NOW_MS - 5_000}, {"author_id": -1, "ts_ms": NOW_MS + 5}]
    assert client.post("/explain", json=asked | {"history": given}).json()["history_author_ids"] == [AUTHOR_IDS[9]]
    assert client.post("/explain", json=asked | {"history": []}).json()["history_author_ids"] == []


def test_too_many_and_none_are_refused(client: TestClient) -> None:
    for candidates in ([], list(range(MAX_EXPLAINED + 1)), None):
        assert client.post("/explain", json={"user_id": 1, "candidates": candidates}).status_code == 422
