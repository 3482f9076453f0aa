"""Towers on disk: what was saved gives the same vectors, anything else is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from models.artifacts.manifest import ArtifactError
from models.artifacts.towers import Towers
from models.catalog import Catalog
from models.history import HistoryRule
from models.larm.two_tower import Lives, TwoTower, TwoTowerConfig, TwoTowerFacts


def catalog_of(authors: int) -> Catalog:
    return Catalog.build(
        user_ids=[5, 7], user_profile=[[0], [1]], author_ids=range(authors), author_category=[0] * authors
    )


@pytest.fixture
def towers() -> Towers:
    catalog = catalog_of(3)
    model = TwoTower(TwoTowerConfig(dim=4), TwoTowerFacts(embedding_dim=6), catalog.sizes).eval()
    return Towers(model=model, catalog=catalog, embeddings="qwen", rule=HistoryRule(length=5, days=2, delay_ms=0))


def test_what_was_saved_gives_the_same_vectors(towers: Towers, tmp_path: Path) -> None:
    towers.save(tmp_path)
    again = Towers.load(tmp_path)
    lives = Lives(torch.tensor([1, 3]), torch.randn(2, 6), torch.randn(2, 6), torch.tensor([True, False]))
    assert torch.equal(again.model.lives(lives)[0], towers.model.lives(lives)[0])
    assert (again.embeddings, again.rule, again.codebook) == ("qwen", towers.rule, None)
    assert again.catalog.author_rows([2]).tolist() == [3]


def test_another_format_and_a_catalog_of_others_are_refused(towers: Towers, tmp_path: Path) -> None:
    towers.save(tmp_path)
    catalog_of(4).save(tmp_path / "catalog.safetensors")
    with pytest.raises(ArtifactError, match="num_authors=3.*wanted.*num_authors=4.*run the job towers again"):
        Towers.load(tmp_path)
    head = json.loads((tmp_path / "towers.json").read_text())
    (tmp_path / "towers.json").write_text(json.dumps(head | {"format": 9}))
    with pytest.raises(ArtifactError, match="format: got 9, wanted 1"):
        Towers.load(tmp_path)
