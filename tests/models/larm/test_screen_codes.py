"""What is on screen as a source, eq. 5: by hand, its gradients, what must not count, and stacked with SARM."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from models.batch import OnScreen, RankingBatch
from models.composed import ComposedRanker
from models.larm.screen_codes import ScreenCodes, ScreenCodesConfig, ScreenCodesFacts
from models.ranker import RankerConfig
from models.sources import SourceSpec
from tests.models import worlds
from tests.models.worlds import CLUSTERS, HISTORY, NUM_AUTHORS, TASKS, composed, one_step, trainer
from tests.models.worlds import coded_batch as rows

CONFIG = ScreenCodesConfig(width=6)


def spec(name: str, table: str) -> SourceSpec:
    facts = ScreenCodesFacts(table=table, codebook="v1", clusters=CLUSTERS)
    return SourceSpec.of(name, ScreenCodes, CONFIG, facts)


LLM, LARM = spec("llm_codes", "segment_codes"), spec("larm_codes", "item_codes")


def nothing() -> tuple[Tensor, ...]:
    return (torch.zeros(NUM_AUTHORS + 1, 0),)


def scores(model: ComposedRanker, batch: RankingBatch) -> Tensor:
    return model.score_rows(batch, {name: table for name, table in _tables(model).items()})


def _tables(model: ComposedRanker) -> dict[str, Tensor]:
    return {name: torch.from_numpy(of) for name, of in model.tables({n: nothing() for n in model.sources}).items()}


def test_eq_5_by_hand() -> None:
    facts = ScreenCodesFacts(table="item_codes", codebook="v1", clusters=(2, 1))
    config = ScreenCodesConfig(width=2)
    source = ScreenCodes(config, facts, RankerConfig(id_dim=2))
    # Rows of the table: none, codes 0 and 1 of the first level, code 0 of the second.
    source.codes.weight = nn.Parameter(torch.tensor([[0.0, 0.5], [1.0, 0.0], [0.0, 1.0], [2.0, 0.0]]))
    source.identity.weight = nn.Parameter(torch.tensor([[1.0, 0.0], [0.0, 2.0]]))
    source.attention.query.weight = nn.Parameter(torch.tensor([[0.0, 1.0], [1.0, 0.0]]))
    source.attention.query.bias = nn.Parameter(torch.zeros(2))
    source.attention.value.weight = nn.Parameter(torch.tensor([[1.0, 0.0], [0.0, -1.0]]))
    batch = rows(1)._replace(
        history_mask=torch.tensor([[False, True, True, True]]),
        history_watch_s=torch.tensor([[0.0, 3.0, 3.5, 60.0]]),
        on_screen={"item_codes": OnScreen(torch.tensor([[2, 1]]), torch.tensor([[[0, 0], [1, 1], [1, 1], [0, 0]]]))},
    )
    history = torch.tensor([[[9.0, 9.0], [9.0, 9.0], [1.0, 1.0], [0.0, 1.0]]])
    said = source.read(batch, torch.tensor([[1.0, 0.0]]), history)
    # The target's codes: (0, 1) + (2, 0). Query: (1, 0) + (2, 1) = (3, 1), turned to (1, 3).
    # Items: the first is padding and the second was watched for 3 s only; (1, 2) + (1, 0) + (2, 0) = (4, 2) and
    # (0, 2) + 2 (0, 0.5) = (0, 3).
    first, second = math.exp(10 / 2**0.5), math.exp(9 / 2**0.5)
    share = first / (first + second)
    read = torch.tensor([[4 * share, -(2 * share + 3 * (1 - share))]])
    read, now = read / read.square().mean().sqrt(), torch.tensor([[2.0, 1.0]]) / 2.5**0.5
    torch.testing.assert_close(said.user[0], read)
    torch.testing.assert_close(said.author[0], now)


def test_the_representations_have_the_widths_that_the_ranker_was_built_for() -> None:
    model = composed(worlds.sarm_spec(), LLM, LARM).eval()
    config = model.ranker.config
    assert config.extra_author_dim == 2 * worlds.SARM_CONFIG.width + 2 * CONFIG.width
    assert config.extra_user_dim == worlds.SARM_CONFIG.width + 2 * CONFIG.width
    inputs = {"sarm": worlds.tokens().tensors(), "llm_codes": nothing(), "larm_codes": nothing()}
    tables = {name: torch.from_numpy(of) for name, of in model.tables(inputs).items()}
    assert model.score_rows(rows(7), tables).shape == (7, len(TASKS))


def test_every_parameter_has_a_gradient_and_it_is_the_loss_s() -> None:
    model = composed(LLM, LARM).train()
    step = trainer(model, llm_codes=nothing(), larm_codes=nothing())
    one_step(step, rows(24), {}).loss.backward()
    assert [name for name, p in step.named_parameters() if p.grad is None] == []
    model.eval()  # batch statistics would change with the step below
    source = model.double().source("llm_codes")
    batch = rows(24)._replace(
        **{k: v.double() for k, v in rows(24)._asdict().items() if isinstance(v, Tensor) and v.is_floating_point()}
    )
    for name in ("codes.weight", "identity.weight", "attention.query.weight", "attention.value.weight"):
        weight = source.get_parameter(name)
        model.zero_grad()
        one_step(step, batch, {}).loss.backward()
        assert weight.grad is not None
        direction, small = torch.sign(weight.grad), 1e-6
        with torch.no_grad():
            ends = []
            for sign in (1, -1):
                weight.add_(sign * small * direction)
                ends.append(float(one_step(step, batch, {}).loss))
                weight.sub_(sign * small * direction)
        assert (ends[0] - ends[1]) / (2 * small) == pytest.approx(float((weight.grad * direction).sum()), rel=1e-5)


def test_training_and_scoring_say_the_same() -> None:
    model = composed(LARM).eval()
    step, batch = trainer(model, larm_codes=nothing()), rows(12)
    source = model.source("larm_codes")
    learnt = source.learn(batch, step.inputs["larm_codes"], None, None, model.ranker.authors).representations
    read = model.read(batch, *model.look_up(batch, _tables(model)))[0]
    assert torch.equal(learnt.author[0], read.author[0]) and torch.equal(learnt.user[0], read.user[0])


def test_short_views_and_padding_say_nothing_whatever_was_on_screen() -> None:
    model, batch = composed(LLM).eval(), rows(18)
    short = torch.rand(18, HISTORY, generator=torch.Generator().manual_seed(2)) < 0.5
    batch = batch._replace(history_watch_s=torch.where(short, 3.0, 3.1))
    said = model.read(batch, *model.look_up(batch, _tables(model)))[0]
    seen = batch.on_screen["segment_codes"]  # type: ignore[index]
    hidden = short | ~batch.history_mask
    other = batch._replace(
        on_screen={"segment_codes": OnScreen(seen.target, torch.where(hidden[..., None], 1, seen.history))}
    )
    again = model.read(other, *model.look_up(other, _tables(model)))[0]
    assert torch.equal(said.user[0], again.user[0])
    nobody = (hidden.sum(dim=1) == HISTORY).nonzero().flatten()
    assert len(nobody) and not said.user[0][nobody].any() and said.user[0].any()
    valid = batch._replace(on_screen={"segment_codes": OnScreen(seen.target, torch.ones_like(seen.history))})
    changed = model.read(valid, *model.look_up(valid, _tables(model)))[0]
    assert not torch.equal(said.user[0], changed.user[0]) and torch.equal(said.author[0], changed.author[0])


def test_each_source_reads_its_own_table() -> None:
    model, batch = composed(LLM, LARM).eval(), rows(9)
    assert batch.on_screen is not None
    before = model.read(batch, *model.look_up(batch, _tables(model)))
    other = dict(batch.on_screen) | {
        "item_codes": OnScreen(*(torch.ones_like(of) for of in batch.on_screen["item_codes"]))
    }
    after = model.read(batch._replace(on_screen=other), *model.look_up(batch, _tables(model)))
    assert torch.equal(before[0].user[0], after[0].user[0]) and torch.equal(before[0].author[0], after[0].author[0])
    assert not torch.equal(before[1].user[0], after[1].user[0])
    assert not torch.equal(before[1].author[0], after[1].author[0])


def test_a_batch_without_its_codes_is_refused() -> None:
    model, batch = composed(LLM).eval(), rows(3)
    with pytest.raises(ValueError, match="wanted 2 codes of segment_codes in each row of the batch, got none"):
        scores(model, batch._replace(on_screen=None))
    wider = {"segment_codes": OnScreen(torch.ones(3, 3).long(), torch.ones(3, HISTORY, 3).long())}
    with pytest.raises(ValueError, match="got 3 in each row"):
        scores(model, batch._replace(on_screen=wider))
