from __future__ import annotations

import pytest
import torch

from models.composed import ComposedRanker
from models.scoring import RequestRows, Scorer
from models.sources import SourceSpec
from tests.models.test_composed import CLIPS, TAGS, tables
from tests.models.worlds import batch, composed, sarm_spec, scatter_parameters

SETS = [(), (sarm_spec(),), (TAGS, sarm_spec(), CLIPS), (CLIPS,)]


def ranker(*specs: SourceSpec) -> ComposedRanker:
    model = composed(*specs)
    scatter_parameters(model)
    model.ranker.home(torch.randn(32, model.ranker.home.project.in_features))
    return model.eval()


def asked(model: ComposedRanker, user: int, size: int) -> RequestRows:
    """The first rows of a batch, all of them for the user and with the history of one row."""
    rows, one = batch(64), batch(64).slice(slice(user, user + 1))
    spread = {
        name: getattr(one, name).expand(size, *getattr(one, name).shape[1:])
        for name in ("user", "user_profile", "hour", "history", "history_mask", "history_age_s", "history_watch_s")
    }
    rows = rows.slice(slice(size))._replace(**spread)
    targets, histories = model.look_up(rows, tables(model))
    return RequestRows(rows, targets, {n: None if part is None else part[:1] for n, part in histories.items()})


@pytest.mark.parametrize("specs", SETS, ids=len)
def test_each_of_several_requests_gets_what_the_model_gives_it_alone(specs: tuple[SourceSpec, ...]) -> None:
    model = ranker(*specs)
    requests = [asked(model, user, size) for user, size in ((3, 5), (9, 1), (20, 40))]
    scorer = Scorer(model)
    for request, together in zip(requests, scorer.score(requests), strict=True):
        wanted = model.score(*request)
        torch.testing.assert_close(together, wanted, atol=1e-6, rtol=0)
        torch.testing.assert_close(scorer.score([request])[0], wanted, atol=1e-6, rtol=0)


def test_more_rows_than_go_together_are_scored_the_same() -> None:
    model = ranker(sarm_spec())
    request = asked(model, 3, 40)
    many = Scorer(model).score([request] * 20)
    assert len(many) == 20
    for each in many:
        torch.testing.assert_close(each, model.score(*request), atol=1e-6, rtol=0)


def test_what_it_reads_of_weights_is_not_changed_by_scoring() -> None:
    model = ranker(sarm_spec())
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    scorer, request = Scorer(model), asked(model, 3, 5)
    first = scorer.score([request])[0]
    assert torch.equal(scorer.score([request])[0], first)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_a_model_in_training_is_refused() -> None:
    with pytest.raises(ValueError, match=r"wants .*eval\(\)"):
        Scorer(composed(sarm_spec()))
