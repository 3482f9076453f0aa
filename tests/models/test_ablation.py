"""Ablation at scoring, on rankers of which it is known what they hear and what they ignore."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from models.ablation import Ablation
from models.batch import RankingBatch
from models.composed import ComposedRanker, Sources
from models.sarm.model import REPRESENTATIONS, SARM, SARMConfig
from models.sources import Representations, SourceSpec
from models.two_stage import CodeFacts, Codes, HistoryEmbeddings, TwoStageConfig
from tests.models.worlds import RANKER, batch, catalog

SIZE, WIDTH = 60, 4
BASE_PARTS = ["user id", "author id", "profile", "history"]


def ranker(*names: str) -> ComposedRanker:
    torch.manual_seed(3)
    specs = [SourceSpec.of(name, Codes, TwoStageConfig(width=WIDTH), CodeFacts(num_codes=5)) for name in names]
    return ComposedRanker(RANKER, catalog().sizes, Sources(specs=tuple(specs))).eval()


def measured(model: ComposedRanker, said: list[torch.Tensor]) -> tuple[dict[str, float], dict[str, torch.Tensor]]:
    """Of two batches, `said` being what each source says of the author of every row."""

    def readings() -> Iterator[tuple[RankingBatch, list[Representations]]]:
        for rows in (slice(0, 40), slice(40, SIZE)):
            yield batch(SIZE).slice(rows), [Representations(author=(one[rows],)) for one in said]

    return Ablation(model).measure(readings)


def scores(model: ComposedRanker, said: list[torch.Tensor]) -> torch.Tensor:
    with torch.no_grad():
        return torch.sigmoid(model(batch(SIZE), [Representations(author=(one,)) for one in said]))


def test_a_part_that_never_differs_is_dead_and_one_that_does_is_alive() -> None:
    model, alive = ranker("dead", "alive"), torch.randn(SIZE, WIDTH)
    said = [torch.full((SIZE, WIDTH), 0.7), alive]
    spreads, without = measured(model, said)
    assert list(spreads) == list(without) == ["dead: author", "alive: author", *BASE_PARTS]
    torch.testing.assert_close(without["dead: author"], scores(model, said))
    assert spreads["dead: author"] == pytest.approx(0.0, abs=1e-6)
    around = (alive - alive.mean(dim=0)).square().sum() / alive.square().sum()
    assert spreads["alive: author"] == pytest.approx(around.sqrt().item(), rel=1e-5)
    # The mean is that of all scored examples, whatever the batches.
    mean = alive.mean(dim=0).expand(SIZE, -1)
    torch.testing.assert_close(without["alive: author"], scores(model, [said[0], mean]))
    assert (without["alive: author"] - scores(model, said)).abs().max() > 1e-3


@pytest.mark.parametrize("part", BASE_PARTS)
def test_what_the_base_ranker_reads_is_replaced_by_its_mean(part: str) -> None:
    model = ranker()
    original = scores(model, [])
    with torch.no_grad():
        # A table whose rows are all alike says nothing: replacing it changes nothing, and replacing others does.
        for table in {
            "user id": [model.ranker.users],
            "author id": [model.ranker.authors],
            "profile": list(model.ranker.profile),
            "history": [],
        }[part]:
            table.weight.copy_(table.weight[1].expand_as(table.weight).clone())
        if part == "history":
            model.ranker.target_attention.value.weight.zero_()
    spreads, without = measured(model, [])
    torch.testing.assert_close(without[part], scores(model, []))
    assert spreads[part] == pytest.approx(0.0, abs=1e-3)
    others = [name for name in BASE_PARTS if name != part and not (part == "author id" and name == "history")]
    for name in others:
        assert (without[name] - scores(model, [])).abs().max() > 1e-5 and spreads[name] > 0.01
    assert not torch.equal(original, scores(model, []))


def test_the_items_of_a_history_keep_their_authors() -> None:
    """Without author ids, the history is still of single authors: without it, the scores change again."""
    model = ranker()
    seen = []
    hook = model.ranker.target_attention.register_forward_hook(lambda _, given, out: seen.append(given[1]))
    measured(model, [])
    hook.remove()
    items = [one for one in seen if len(one) == 40]
    assert len(items) == 1 + len(BASE_PARTS) and all(torch.equal(one, items[0]) for one in items)


def test_afterwards_the_ranker_is_as_it_was() -> None:
    model = ranker("tags")
    said = [torch.randn(SIZE, WIDTH)]
    before = scores(model, said)
    measured(model, said)
    torch.testing.assert_close(scores(model, said), before, rtol=0, atol=0)


def test_a_ranker_in_training_is_refused() -> None:
    with pytest.raises(ValueError, match=r"wants model.eval\(\)"):
        Ablation(ranker().train())


def test_parts_are_called_as_their_source_calls_them() -> None:
    assert SARM.names(SARMConfig(representations=REPRESENTATIONS)) == (("[CLS]", "[TAR]"), ("[UIN]",))
    assert SARM.names(SARMConfig(representations=("tar",))) == (("[TAR]",), ())
    assert Codes.names(TwoStageConfig()) == (("author",), ())
    assert HistoryEmbeddings.names(TwoStageConfig()) == ((), ("user",))
