from __future__ import annotations

import torch
from torch import nn

from models.embeddings import IdTable
from models.optimizer import param_groups
from models.ranker import Ranker
from tests.models.worlds import RANKER, catalog, composed, sarm

RATES = {"lr_ids": 0.5, "lr_encoder": 0.125, "lr_dense": 0.25}


def test_every_parameter_is_in_one_group_tables_in_ids_and_the_encoders_layers_in_encoder() -> None:
    model = sarm()
    groups = param_groups(model, **RATES, l2_ids=0.1)
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
        assert [g["name"] for g in param_groups(model, **RATES)] == ["ids", "dense"]


def test_l2_pulls_rows_that_are_not_seen_to_zero_and_leaves_dense_weights() -> None:
    model = nn.ModuleDict({"dense": nn.Linear(2, 3), "table": IdTable(5, 2, 0.1)})
    table, weight = model["table"].weight.detach().clone(), model["dense"].weight.detach().clone()
    optimizer = torch.optim.SGD(param_groups(model, **RATES, l2_ids=0.1))
    (model["table"](torch.tensor([1])).sum() + 0.0 * model["dense"].weight.sum()).backward()
    optimizer.step()
    torch.testing.assert_close(model["table"].weight.detach()[2:], table[2:] * (1 - 0.5 * 0.1))
    torch.testing.assert_close(model["dense"].weight.detach(), weight)
