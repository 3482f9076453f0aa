"""Cards of the trained tiny platform."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from models.artifacts.cards import KIND, Cards
from pipelines.analysis import analyse, cards, importance
from pipelines.settings import Settings
from pipelines.tables import newest
from pipelines.tables.artifacts import Artifacts
from pipelines.tables.contract import FIELDS, ContractError
from pipelines.tables.storage import Storage, StorageConfig
from tests.pipelines.jobs import run_job


def test_every_author_with_an_anchor_has_its_words_and_frames(trained: Settings) -> None:
    figures = run_job(cards, replace(trained, cards=replace(trained.cards, width=24)))
    storage = Storage.open(trained.storage.root)
    day = storage.days("anchors")[-1]
    written = newest.read(storage, "anchors", until=day).to_pylist()
    assert figures["authors"] == len(written) == figures["with_frames"]
    found = Cards(Artifacts(storage).fetch(KIND))
    subject = analyse.Subject.open(storage, "2026-01-04", None)
    rows = subject.catalog.author_rows([row["author_id"] for row in written])
    shares = importance.of_authors(subject.sarm, subject.ids, subject.tokens, rows)
    for row, weights in zip(written, shares, strict=True):
        card = found.card(row["author_id"])
        assert card is not None and card["day"] == row["since"].isoformat()
        shown = {field: " ".join(word["word"] for word in words) for field, words in card["fields"]}
        assert shown == {field: ", ".join(row[field]) for field in FIELDS}
        total = sum(word["importance"] for _, words in card["fields"] for word in words)
        # [CLS] and the names of the fields have the rest.
        assert 0 < total < 1 - weights[0] + 1e-4
        for number in range(card["frames"]):
            frame = found.frame(row["author_id"], number)
            assert frame is not None and Image.open(io.BytesIO(frame)).width <= 24


def test_the_same_again_changes_nothing_and_another_config_does(trained: Settings) -> None:
    first = run_job(cards, trained)
    assert run_job(cards, trained) == {"run_id": first["run_id"], "how": "current"}
    fewer = run_job(cards, replace(trained, cards=replace(trained.cards, authors_with_frames=3)))
    assert (fewer["how"], fewer["with_frames"]) == ("published", 3)
    none = run_job(cards, replace(trained, cards=replace(trained.cards, frames=0)))
    assert none["with_frames"] == 0 and none["authors"] == first["authors"]


def test_without_anchors_there_are_no_cards(tmp_path: Path) -> None:
    with pytest.raises(ContractError, match="table anchors: wanted a day, got none; run the job anchors"):
        run_job(cards, Settings(storage=StorageConfig(root=str(tmp_path))))
