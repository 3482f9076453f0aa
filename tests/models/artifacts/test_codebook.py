"""A codebook on disk: what was saved is read, anything else is refused with both values."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from models.artifacts.codebook import Codebook
from models.artifacts.manifest import ArtifactError
from models.quantize import ResidualConfig, ResidualQuantizer


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    vectors = torch.randn(40, 3, generator=torch.Generator().manual_seed(0))
    quantizer = ResidualQuantizer.fit(vectors, ResidualConfig(clusters=(8, 4)))
    Codebook(quantizer=quantizer, model="qwen").save(tmp_path)
    return tmp_path


def test_levels_of_their_own_sizes_and_counts_come_back(folder: Path) -> None:
    codebook = Codebook.load(folder)
    assert codebook.model == "qwen" and codebook.quantizer.clusters == (8, 4) and codebook.quantizer.width == 3
    assert [int(of.sum()) for of in codebook.quantizer.counts] == [40, 40]


@pytest.mark.parametrize(
    ("changed", "error"),
    [
        ({"format": 2}, r"\(2, 'qwen', 3, \(8, 4\)\), wanted \(1, 'qwen', 3, \(8, 4\)\).*run the job codes again"),
        ({"width": 4}, r"'qwen', 4, .* wanted \(1, 'qwen', 3"),
        ({"clusters": [8]}, r"\(8,\)\), wanted"),
        ({"model": None}, None),
    ],
)
def test_a_head_that_does_not_fit(folder: Path, changed: dict, error: str | None) -> None:
    head = json.loads((folder / "codebook.json").read_text())
    if error is None:
        head.pop("model")
        error = "cannot be read .*model"
    (folder / "codebook.json").write_text(json.dumps(head | changed if "model" in head else head))
    with pytest.raises(ArtifactError, match=error):
        Codebook.load(folder)


def test_a_missing_file_is_an_artifact_error(folder: Path) -> None:
    (folder / "codebook.safetensors").unlink()
    with pytest.raises(ArtifactError, match="cannot be read.*run the job codes again"):
        Codebook.load(folder)
