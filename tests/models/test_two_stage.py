"""Two-stage rankers: what they read, by hand, and what they must not see."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from models.two_stage import READS, TwoStageConfig, TwoStageRanker
from tests.models.worlds import NUM_AUTHORS, RANKER, batch, catalog

CODES, E = 6, 5


def _model(reads: str) -> TwoStageRanker:
    torch.manual_seed(0)
    config = TwoStageConfig(reads=reads, num_codes=CODES, embedding_dim=E, width=8, ranker=RANKER)
    return TwoStageRanker(config, catalog().sizes).eval()


def _content(reads: str) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    if reads == "codes":
        codes = torch.randint(0, CODES, (NUM_AUTHORS + 1, 3), generator=generator)
        codes[0] = 0
        return codes
    embeddings = torch.randn(NUM_AUTHORS + 1, E, generator=generator)
    embeddings[0] = 0.0
    return embeddings


@pytest.mark.parametrize("reads", READS)
def test_logits_have_the_tasks_and_every_parameter_has_a_gradient(reads: str) -> None:
    model = _model(reads).train()
    logits = model(batch(12), _content(reads))
    assert logits.shape == (12, 4)
    logits.square().sum().backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []


@pytest.mark.parametrize("reads", READS)
def test_content_has_a_say(reads: str) -> None:
    model, rows = _model(reads), batch(12)
    assert not torch.allclose(model(rows, _content(reads)), model(rows, _content(reads).flip(0)))


def test_codes_are_the_mean_of_those_that_are_there() -> None:
    model, rows = _model("codes"), batch(12)
    content = torch.zeros(NUM_AUTHORS + 1, 3, dtype=torch.int64)
    content[:, 0], content[:, 2] = 2, 5
    wanted = (model.codes.weight[2] + model.codes.weight[5]) / 2
    torch.testing.assert_close(model._codes(content, rows), wanted.expand(12, -1))
    none = torch.zeros_like(content)
    torch.testing.assert_close(model._codes(none, rows), torch.zeros(12, 8))


def test_the_search_finds_what_is_like_the_target() -> None:
    """Cosines 1 and 0 at temperature 0.1: weights e^10 and 1."""
    model, rows = _model("history"), batch(12)
    content = torch.zeros(NUM_AUTHORS + 1, E)
    content[:, 1] = 3.0
    content[1:, :] = torch.eye(E)[torch.arange(NUM_AUTHORS) % 2]
    found = model._history(content, rows)
    for row in range(rows.size):
        target = content[rows.author[row]]
        items = content[rows.history[row][rows.history_mask[row]]]
        if not len(items):
            torch.testing.assert_close(found[row], torch.zeros(8))
            continue
        items = torch.nn.functional.normalize(items, dim=-1)
        weights = torch.softmax(items @ (target / target.norm()) / 0.1, dim=0)
        torch.testing.assert_close(found[row], model.project.weight @ (weights @ items))


def test_the_target_is_read_projected_and_alone() -> None:
    model, rows, content = _model("target"), batch(12), _content("target")
    wanted = torch.stack([model.project.weight @ content[author] for author in rows.author.tolist()])
    torch.testing.assert_close(model._target(content, rows), wanted)
    changed = content.clone()
    others = [row for row in range(NUM_AUTHORS + 1) if row != int(rows.author[0])]
    changed[others] += 1.0
    torch.testing.assert_close(model(rows, changed)[0], model(rows, content)[0])


@pytest.mark.parametrize("reads", READS)
def test_it_comes_back_from_disk(reads: str, tmp_path: Path) -> None:
    model = _model(reads)
    model.save(tmp_path)
    torch.testing.assert_close(
        TwoStageRanker.load(tmp_path)(batch(5), _content(reads)), model(batch(5), _content(reads))
    )


def test_bad_configs_and_content_are_refused() -> None:
    with pytest.raises(ValueError, match="reads"):
        TwoStageConfig(reads="frames")
    with pytest.raises(ValueError, match=">= 1"):
        TwoStageConfig(width=0)
    with pytest.raises(ValueError, match="12 author rows"):
        _model("target")(batch(3), torch.zeros(4, E))
