from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from models import embeddings
from models.embeddings import IdTable
from models.optimizer import RankerOptimizer
from models.ranker import Ranker
from tests.models.worlds import RANKER, catalog, composed, sarm

RATES = {"lr_ids": 0.5, "lr_encoder": 0.125, "lr_dense": 0.25}


def test_every_parameter_is_in_one_group_tables_in_ids_and_the_encoders_layers_in_encoder() -> None:
    model = sarm()
    groups = RankerOptimizer(model, **RATES, l2_ids=0.1).groups
    assert [(g["name"], g["lr"], g["weight_decay"]) for g in groups] == [
        ("ids", 0.5, 0.1),
        ("encoder", 0.125, 0.0),
        ("dense", 0.25, 0.0),
    ]
    name_of = {id(parameter): name for name, parameter in model.named_parameters()}
    ids, encoder, dense = ({name_of[id(p)] for p in group["params"]} for group in groups)
    tables = {"users", "authors", "profile", "categories", "hours", "ages", "watches", "tokens", "live_tokens"}
    assert {_part(name).split(".")[1] for name in ids} == tables
    assert {_part(name).split(".")[1] for name in encoder} == {"blocks", "fusions", "norm"}
    assert all(_part(name).startswith("encoder.") for name in encoder)
    assert not any(_part(name).startswith("encoder.") for name in dense)
    assert ids | encoder | dense == set(name_of.values())
    assert len(ids) + len(encoder) + len(dense) == len(name_of)


def _part(parameter: str) -> str:
    """Its name within the base ranker or the source."""
    return parameter.removeprefix("sources.sarm.")


def test_a_ranker_without_anchors_has_no_group_of_the_encoder() -> None:
    for model in (Ranker(RANKER, catalog().sizes), composed()):
        assert [g["name"] for g in RankerOptimizer(model, **RATES).groups] == ["ids", "dense"]


def test_big_tables_are_a_group_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    model = nn.ModuleDict({"big": IdTable(9, 2, 0.1), "small": IdTable(5, 2, 0.1), "dense": nn.Linear(2, 3)})
    monkeypatch.setattr(embeddings, "SPARSE_FROM", 9)
    optimizer = RankerOptimizer(model, **RATES, l2_ids=0.1)
    assert [(g["name"], g["lr"], g["weight_decay"], len(g["params"])) for g in optimizer.groups] == [
        ("ids", 0.5, 0.1, 1),
        ("dense", 0.25, 0.0, 2),
        ("rows", 0.5, 0.1, 1),
    ]
    optimizer.scale(0.1)
    assert [g["lr"] for g in optimizer.groups] == [0.05, 0.025, 0.05]
    optimizer.scale(0.5)
    assert [g["lr"] for g in optimizer.groups] == [0.25, 0.125, 0.25], "of what was given, not of the share before"


def test_l2_pulls_rows_that_are_not_seen_to_zero_and_leaves_dense_weights() -> None:
    torch.manual_seed(0)
    model = nn.ModuleDict({"dense": nn.Linear(2, 3), "table": IdTable(5, 2, 0.1)})
    table, weight = model["table"].weight.detach().clone(), model["dense"].weight.detach().clone()
    optimizer = RankerOptimizer(model, lr_ids=0.001, lr_encoder=0.1, lr_dense=0.1, l2_ids=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        (model["table"](torch.tensor([1])).sum() + 0.0 * model["dense"].weight.sum()).backward()
        optimizer.step()
    torch.testing.assert_close(model["table"].weight.detach()[2:], table[2:] - 0.003 * table[2:].sign())
    torch.testing.assert_close(model["dense"].weight.detach(), weight)


def test_what_it_goes_on_from_stays_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embeddings, "SPARSE_FROM", 9)
    model = nn.ModuleDict({"big": IdTable(9, 2, 0.1), "dense": nn.Linear(2, 3)})
    optimizer = RankerOptimizer(model, **RATES)

    def learn() -> None:
        model["dense"](model["big"](torch.tensor([1, 2]))).sum().backward()
        optimizer.step()

    learn()
    saved, kept = copy.deepcopy(optimizer.state_dict()), copy.deepcopy(optimizer.state_dict())
    optimizer.load_state_dict(saved)
    learn()
    for name in ("adam", "rows"):
        torch.testing.assert_close(saved[name]["state"], kept[name]["state"], rtol=0, atol=0)


def test_what_was_saved_of_another_model_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    table = IdTable(9, 2, 0.1)
    small = RankerOptimizer(table, **RATES).state_dict()
    monkeypatch.setattr(embeddings, "SPARSE_FROM", 9)
    with pytest.raises(ValueError, match=r"the optimizer has \['rows'\], the state is of \['adam'\]"):
        RankerOptimizer(table, **RATES).load_state_dict(small)
