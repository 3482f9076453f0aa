"""Cards as they are served."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi import APIRouter, FastAPI
from fastapi.testclient import TestClient

from models.artifacts.cards import KIND, Card, Word, write
from models.artifacts.store import ArtifactStore
from serve import cards as served
from serve.cards import CardShelf, add_cards


@pytest.fixture(autouse=True)
def looks_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(served, "_LOOK_EVERY_S", 0.0)


class Shop:
    """A store, and a client of what is shown of it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.store = ArtifactStore.open(str(root / "store"))
        api, router = FastAPI(), APIRouter()
        add_cards(router, CardShelf(self.store))
        api.include_router(router)
        self.client = TestClient(api)

    def publish(self, run_id: str, word: str) -> None:
        folder = self.root / run_id
        folder.mkdir()
        fields = (("theme", (Word(word=word, importance=0.25), Word(word="x", importance=None))),)
        write(folder, [(Card(author_id=7, day="2026-01-02", fields=fields), [b"\xff\xd8jpeg"])])
        self.store.publish(KIND, folder, run_id, {})


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Shop]:
    yield Shop(tmp_path)


def test_a_card_and_its_frame(shop: Shop) -> None:
    shop.publish("a", "cooking")
    assert shop.client.get("/authors/7/card").json() == {
        "author_id": 7,
        "day": "2026-01-02",
        "fields": [["theme", [{"word": "cooking", "importance": 0.25}, {"word": "x", "importance": None}]]],
        "frames": 1,
    }
    frame = shop.client.get("/authors/7/frames/0")
    assert (frame.content, frame.headers["content-type"]) == (b"\xff\xd8jpeg", "image/jpeg")


@pytest.mark.parametrize("path", ["/authors/8/card", "/authors/7/frames/1", "/authors/7/frames/-1"])
def test_what_is_not_there_is_404(shop: Shop, path: str) -> None:
    shop.publish("a", "cooking")
    assert shop.client.get(path).status_code == 404


def test_without_cards_all_is_404_until_some_are_published(shop: Shop) -> None:
    answer = shop.client.get("/authors/7/card")
    assert (answer.status_code, answer.json()["detail"]) == (
        404,
        "there is no card of author 7; the job cards publishes them",
    )
    shop.publish("a", "cooking")
    assert shop.client.get("/authors/7/card").status_code == 200


def test_newer_cards_are_taken_and_broken_ones_are_not(shop: Shop, caplog: pytest.LogCaptureFixture) -> None:
    def word() -> str:
        return str(shop.client.get("/authors/7/card").json()["fields"][0][1][0]["word"])

    shop.publish("a", "cooking")
    assert word() == "cooking"
    shop.publish("b", "singing")
    assert word() == "singing"
    shop.publish("c", "dancing")
    (shop.root / "store/artifacts/cards/v=c/texts.bin").write_bytes(b"{}")
    assert word() == "singing"
    assert "no newer cards" in [r.message for r in caplog.records if r.levelno >= logging.ERROR][0]
