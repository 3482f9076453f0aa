"""The dashboard and the alert rules name metrics that there are."""

from __future__ import annotations

import json
import re
from pathlib import Path

import yaml

from serve.observe import METRICS

FOLDER = Path(__file__).resolve().parents[2] / "docs" / "grafana"
OF_BANKS = {"bank_age_s", "bank_delta", "bank_until_age_s", "bank_load_failures", "bank_stale"}
"""Gauges of serve/app.py."""


def exported() -> dict[str, set[str]]:
    """Names as Ray exports them, and the tags of each."""
    found: dict[str, set[str]] = {f"ray_{name}": set() for name in OF_BANKS}
    for name, metric in METRICS.items():
        tags = set(metric.tags)
        ends = {"counter": ["_total"], "gauge": [""], "histogram": ["_bucket", "_sum", "_count"]}[metric.kind]
        found |= {f"ray_{name}{end}": tags | ({"le"} if end == "_bucket" else set()) for end in ends}
    return found


def check(expression: str) -> set[str]:
    names = set(re.findall(r"ray_\w+", expression))
    assert names and names <= set(exported()), (expression, names - set(exported()))
    tags = set.union(*(exported()[name] for name in names))
    grouped = {tag for group in re.findall(r"by \(([^)]*)\)", expression) for tag in group.split(", ")}
    chosen = {tag for group in re.findall(r"\{([^}]*)\}", expression) for tag in re.findall(r'(\w+)=~?"', group)}
    assert grouped | chosen <= tags, expression
    assert expression.count("(") == expression.count(")")
    return names


def test_panels_and_alerts_are_over_what_is_exported() -> None:
    dashboard = json.loads((FOLDER / "dashboard.json").read_text())
    shown = {name for panel in dashboard["panels"] for target in panel["targets"] for name in check(target["expr"])}
    # Whatever is measured can be seen.
    for name in [*METRICS, *OF_BANKS]:
        assert any(found.startswith(f"ray_{name}") for found in shown), name
    places = [(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in dashboard["panels"]]
    assert len(set(places)) == len(places)


def test_alerts_say_what_to_do() -> None:
    (group,) = yaml.safe_load((FOLDER / "alerts.yaml").read_text())["groups"]
    for rule in group["rules"]:
        check(rule["expr"])
        assert rule["labels"]["severity"] in ("page", "ticket")
        assert rule["annotations"].keys() == {"summary", "action"}
