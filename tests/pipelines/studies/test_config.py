"""What does not fit together in a study is refused when its configuration is read."""

from typing import Any

import pytest

from pipelines.runtime.config import ConfigError, build
from pipelines.settings import Settings
from pipelines.studies import study
from pipelines.studies.config import AnchorSource

GOOD = {
    "variants": {"base": {"train": {"sources": []}}, "other": {"anchors": "other"}},
    "anchor_sources": {"other": {"model": "x"}},
    "paper": {"other": {"click": [1, 0.5]}},
}


def test_sections_of_a_study_are_typed() -> None:
    config = build(Settings, {"study": GOOD}).study
    assert config.anchor_sources == {"other": AnchorSource(model="x")}
    assert config.paper == {"other": {"click": (1.0, 0.5)}}
    assert config.variants["other"].anchors == "other"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"variants": {"other": {"anchors": "other"}}}, "study: variants: wanted the reference 'base' among them"),
        ({"reference": "first"}, "wanted the reference 'first' among them, got base, other"),
        ({"references": ["regresion"]}, r"references: unknown row\(s\) regresion; known are regression, "),
        ({"variants": {"base": {}, "dcn": {}}}, "variants: dcn is the name of a reference row"),
        ({"full": "all"}, "wanted the full 'all' among them"),
        (
            {"variants": {"base": {}, "other": {"anchor": "x"}}},
            r"variants.other: unknown key\(s\) anchor;",
        ),
        ({"variants": {"base": {"train": {"sources": ["bse"]}}}}, "study.variants.base.train: sources: wanted some of"),
        ({"paper": {"mine": {}}}, r"paper: unknown variant\(s\) mine; known are base, other"),
        ({"paper": {"other": {"clicks": [1, 2]}}}, r"paper: unknown task\(s\) clicks; known are click"),
        (
            {"variants": {"base": {"train": {"ranker": {"tasks": {"click": "inter"}}}}, "other": {"anchors": "other"}}},
            "variants: wanted the tasks of base, click, in that order, got others in other",
        ),
        ({"paper": {"other": {"click": [1]}}}, "paper.other.click: wanted a list of 2"),
        ({"anchor_sources": {"b": {"model": "x"}}}, r"variants.other.anchors: wanted one of .*\(b\), got 'other'"),
        ({"anchor_sources": None}, r"variants.other.anchors: wanted one of .*\(none\), got 'other'"),
        ({"anchor_sources": {"other": {"modle": "x"}}}, r"anchor_sources.other: unknown key\(s\) modle"),
        ({"anchor_sources": {"other": {"model": "x"}, "b": {"model": "x"}}}, "wanted a variant that reads b, got none"),
        (
            {"variants": {"base": {"train": {"sources": []}, "anchors": "other"}}, "paper": {}},
            "ranker base reads no anchors",
        ),
        ({"data": "elsewhere"}, "data: wanted one of"),
        ({"seeds": 0}, "seeds: wanted at least 1"),
        ({"parallel": 0}, "parallel: wanted at least 1"),
    ],
)
def test_what_does_not_fit_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build(Settings, {"study": GOOD | changes})


def test_a_study_without_variants_is_refused_when_it_runs() -> None:
    with pytest.raises(ConfigError, match="wanted rows of a table, got none; start from"):
        study.run(Settings())
