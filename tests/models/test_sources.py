from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch

from models.sarm.model import REPRESENTATIONS, SARM, SARMConfig
from models.sources import Source, SourceSpec
from models.two_stage import CodeFacts, Codes, SemanticIds, SemanticIdsConfig, TwoStageConfig
from tests.models.worlds import RANKER, ROWS, SARM_CONFIG


class Outside(Codes):
    """A source that no saved ranker may name."""


def test_a_spec_holds_plain_values_and_gives_the_dataclasses_back() -> None:
    config = dataclasses.replace(SARM_CONFIG, fusion_layers=(1,), representations=("cls", "uin"))
    spec = SourceSpec.of("sarm", SARM, config, ROWS)
    assert spec.kind == "models.sarm.model:SARM" and spec.source is SARM
    assert spec.config["fusion_layers"] == [1] and spec.config["representations"] == ["cls", "uin"]
    assert (spec.typed_config(), spec.typed_facts()) == (config, ROWS)


def test_a_nested_config_comes_back_as_its_dataclass() -> None:
    config = SemanticIdsConfig(width=8)
    spec = SourceSpec.of("sids", SemanticIds, config, CodeFacts(num_codes=3))
    assert spec.typed_config() == config and type(spec.typed_config().codes) is type(config.codes)


def test_a_built_source_is_of_the_class_and_draws_from_torchs_generator() -> None:
    spec = SourceSpec.of("sarm", SARM, SARM_CONFIG, ROWS)
    torch.manual_seed(5)
    built = spec.build(RANKER)
    torch.manual_seed(5)
    wanted = SARM(SARM_CONFIG, ROWS, RANKER)
    assert type(built) is SARM
    assert all(torch.equal(a, b) for a, b in zip(built.parameters(), wanted.parameters(), strict=True))


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (f"{Outside.__module__}:{Outside.__qualname__}", "source x: wanted a class of models/, got 'tests"),
        ("os:system", "wanted a class of models/"),
        ("modelsother.two_stage:Codes", "wanted a class of models/"),
        ("models.nothing:Codes", "wanted a module of models/, got 'models.nothing:Codes'"),
        ("models.ranker:Ranker", "wanted a models.sources.Source, got 'models.ranker:Ranker'"),
        ("models.two_stage:F", "wanted a models.sources.Source"),
        ("models.two_stage:Nothing", "wanted a models.sources.Source"),
        ("models.two_stage", "wanted a models.sources.Source"),
    ],
)
def test_a_kind_that_is_no_source_of_this_package_is_refused(kind: str, message: str) -> None:
    spec = SourceSpec(name="x", kind=kind, config={}, facts={"num_codes": 3})
    for use in (lambda: spec.source, spec.typed_config, spec.typed_facts, lambda: spec.build(RANKER)):
        with pytest.raises(ValueError, match=message):
            use()


@pytest.mark.parametrize("part", ["config", "facts"])
def test_unknown_keys_are_refused_with_those_that_there_are(part: str) -> None:
    spec = SourceSpec.of("tags", Codes, TwoStageConfig(), CodeFacts(num_codes=3))
    changed: dict[str, Any] = {part: {**getattr(spec, part), "widht": 3}}
    with pytest.raises(ValueError, match=rf"sources.tags.{part}: unknown key\(s\) widht; .*valid keys are"):
        dataclasses.replace(spec, **changed).build(RANKER)


@pytest.mark.parametrize("source", [SARM, Codes, SemanticIds])
def test_a_config_has_a_default_for_every_field(source: type[Source]) -> None:
    assert dataclasses.is_dataclass(source.Config) and dataclasses.is_dataclass(source.Facts)
    source.Config()


def test_widths_are_those_of_what_the_config_leaves_in() -> None:
    assert SARM.dims(SARMConfig(width=8)) == (16, 0)
    assert SARM.dims(SARMConfig(width=8, representations=REPRESENTATIONS)) == (16, 8)
    assert SARM.dims(SARMConfig(width=8, representations=("tar",))) == (8, 0)
    assert SARM.dims(SARMConfig(width=8, representations=("uin",))) == (0, 8)
