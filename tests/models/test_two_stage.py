"""Two-stage sources: what they read, by hand, and what they must not see."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from models.composed import ComposedRanker
from models.sources import Source, SourceSpec
from models.training import TrainingRanker
from models.two_stage import (
    CodeFacts,
    Codes,
    EmbeddingFacts,
    HistoryEmbeddings,
    SemanticIds,
    SemanticIdsConfig,
    TargetEmbedding,
    TwoStageConfig,
)
from tests.models.worlds import NUM_AUTHORS, batch, composed, one_step, trainer

CODES, E = 6, 5
CODE_FACTS, EMBEDDING_FACTS = CodeFacts(num_codes=CODES), EmbeddingFacts(embedding_dim=E)
KINDS: dict[str, tuple[type[Source], Any, Any]] = {
    "tags": (Codes, TwoStageConfig(width=8), CODE_FACTS),
    "sids": (SemanticIds, SemanticIdsConfig(width=8), CODE_FACTS),
    "target": (TargetEmbedding, TwoStageConfig(width=8), EMBEDDING_FACTS),
    "history": (HistoryEmbeddings, TwoStageConfig(width=8), EMBEDDING_FACTS),
}


def _model(kind: str) -> ComposedRanker:
    return composed(SourceSpec.of(kind, *KINDS[kind])).eval()


def _content(kind: str) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    if KINDS[kind][2] is CODE_FACTS:
        codes = torch.randint(0, CODES, (NUM_AUTHORS + 1, 3), generator=generator)
        codes[0] = 0
        return codes
    embeddings = torch.randn(NUM_AUTHORS + 1, E, generator=generator)
    embeddings[0] = 0.0
    return embeddings


def _scores(model: ComposedRanker, kind: str, size: int, content: Tensor) -> Tensor:
    return model.score_rows(batch(size), {kind: content})


@pytest.mark.parametrize("kind", KINDS)
def test_logits_have_the_tasks_and_every_parameter_has_a_gradient(kind: str) -> None:
    step = trainer(_model(kind).train(), **{kind: (_content(kind),)})
    one_step(step, batch(12), {}).loss.backward()
    assert [name for name, p in step.named_parameters() if p.grad is None] == []
    assert _scores(step.model.eval(), kind, 12, _content(kind)).shape == (12, 4)


@pytest.mark.parametrize("kind", KINDS)
def test_a_step_reads_what_scoring_reads(kind: str) -> None:
    model, rows, content = _model(kind), batch(12), _content(kind)
    step = trainer(model, **{kind: (content,)})
    model.eval()
    wanted = torch.nn.functional.binary_cross_entropy(_scores(model, kind, 12, content), rows.labels) * 4
    torch.testing.assert_close(one_step(step, rows, {}).loss, wanted)


@pytest.mark.parametrize("kind", KINDS)
def test_content_has_a_say(kind: str) -> None:
    model = _model(kind)
    assert not torch.allclose(
        _scores(model, kind, 12, _content(kind)), _scores(model, kind, 12, _content(kind).flip(0))
    )


def test_codes_are_the_mean_of_those_that_are_there() -> None:
    source, rows = _model("tags").source("tags"), batch(12)
    content = torch.zeros(NUM_AUTHORS + 1, 3, dtype=torch.int64)
    content[:, 0], content[:, 2] = 2, 5
    wanted = (source.codes.weight[2] + source.codes.weight[5]) / 2
    torch.testing.assert_close(source.mean(content[rows.author]), wanted.expand(12, -1))
    torch.testing.assert_close(source.mean(torch.zeros_like(content[rows.author])), torch.zeros(12, 8))
    said = source.read(rows, content[rows.author], None)
    torch.testing.assert_close(said.author[0], source.norm(wanted).expand(12, -1))
    assert len(said.author) == 1 and said.user == ()


def test_the_search_finds_what_is_like_the_target() -> None:
    """Cosines 1 and 0 at temperature 0.1: weights e^10 and 1."""
    source, rows = _model("history").source("history"), batch(12)
    content = torch.zeros(NUM_AUTHORS + 1, E)
    content[:, 1] = 3.0
    content[1:, :] = torch.eye(E)[torch.arange(NUM_AUTHORS) % 2]
    found = source.search(rows, content[rows.author], content[rows.history])
    for row in range(rows.size):
        target = content[rows.author[row]]
        items = content[rows.history[row][rows.history_mask[row]]]
        if not len(items):
            torch.testing.assert_close(found[row], torch.zeros(8))
            continue
        items = torch.nn.functional.normalize(items, dim=-1)
        weights = torch.softmax(items @ (target / target.norm()) / 0.1, dim=0)
        torch.testing.assert_close(found[row], source.project.weight @ (weights @ items))
    said = source.read(rows, content[rows.author], content[rows.history])
    torch.testing.assert_close(said.user[0], source.norm(found))
    assert len(said.user) == 1 and said.author == ()


def test_one_history_of_all_rows_is_searched_as_if_each_row_had_it() -> None:
    model, rows, content = _model("history"), batch(6), _content("history")
    once = {name: getattr(rows, name)[3:4] for name in ("history", "history_mask", "history_age_s", "history_watch_s")}
    rows = rows._replace(**{name: part.expand(6, -1) for name, part in once.items()})
    scores = model.score(rows, {"history": content[rows.author]}, {"history": content[once["history"]]})
    torch.testing.assert_close(scores, model.score_rows(rows, {"history": content}), atol=1e-6, rtol=0.0)


def test_the_target_is_read_projected_and_alone() -> None:
    model, rows, content = _model("target"), batch(12), _content("target")
    source = model.source("target")
    wanted = torch.stack([source.project.weight @ content[author] for author in rows.author.tolist()])
    said = source.read(rows, content[rows.author], None)
    torch.testing.assert_close(said.author[0], source.norm(wanted))
    assert len(said.author) == 1 and said.user == ()
    changed = content.clone()
    others = [row for row in range(NUM_AUTHORS + 1) if row != int(rows.author[0])]
    changed[others] += 1.0
    torch.testing.assert_close(_scores(model, "target", 12, changed)[0], _scores(model, "target", 12, content)[0])


@pytest.mark.parametrize("kind", KINDS)
def test_only_the_search_reads_the_history(kind: str) -> None:
    content = _content(kind)
    read = _model(kind).source(kind).of_history(content)
    assert (read is content) if kind == "history" else (read is None)


@pytest.mark.parametrize("kind", KINDS)
def test_its_table_is_its_input(kind: str) -> None:
    assert torch.equal(torch.from_numpy(_model(kind).tables({kind: (_content(kind),)})[kind]), _content(kind))


@pytest.mark.parametrize("kind", KINDS)
def test_it_comes_back_from_disk(kind: str, tmp_path: Path) -> None:
    model = _model(kind)
    model.save(tmp_path)
    loaded = ComposedRanker.load(tmp_path)
    assert loaded.described == model.described and type(loaded.source(kind)) is KINDS[kind][0]
    assert torch.equal(_scores(loaded, kind, 5, _content(kind)), _scores(model, kind, 5, _content(kind)))


def test_bad_configs_and_content_are_refused() -> None:
    with pytest.raises(ValueError, match=">= 1"):
        TwoStageConfig(width=0)
    model, few = _model("target"), torch.zeros(4, E)
    with pytest.raises(ValueError, match="12 author rows"):
        model.tables({"target": (few,)})
    with pytest.raises(ValueError, match="12 author rows"):
        model.score_rows(batch(3), {"target": few})
    with pytest.raises(ValueError, match="12 author rows"):
        TrainingRanker(model).inputs = {"target": (few,)}
