"""Puts the studies' tables into the pages that quote them: `make readme`, after copying a study's table.json into
docs/studies/<name>.

Between <!-- study NAME PART --> and <!-- end --> stands what is made of docs/studies/NAME/table.json; the parts are
those of PARTS.
"""

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pipelines.studies import anchor_sources, convergence, cost
from pipelines.studies.table import ORACLE, exposure_markdown, table_markdown

ROOT = Path(__file__).resolve().parents[2]
BLOCK = re.compile(r"(<!-- study ([\w/]+) (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)
STUDIES = ROOT / "docs" / "studies"
PAGES = (ROOT / "README.md", STUDIES / "README.md", STUDIES / "one_epoch" / "README.md")
_TWO_STAGE = "(two-stage)"


def headline(table: Mapping[str, Any]) -> str:
    """Clicks in four rows: the reference, the best two-stage variant, the full model, the oracle."""
    auc, gauc = (
        {row["variant"]: row for row in table["rows"] if (row["task"], row["metric"]) == ("click", metric)}
        for metric in ("auc", "gauc")
    )
    two_stage = [name for name, row in gauc.items() if row["label"].endswith(_TWO_STAGE)]
    best = max(two_stage, key=lambda name: float(gauc[name]["delta"]))
    lines = [
        "| ranker | click AUC | difference to Base | click GAUC | difference to Base | the paper's |",
        "|---|---|---|---|---|---|",
    ]
    for name in (table["reference"], best, table["cost"]["full"], ORACLE):
        cells = [gauc[name]["label"]]
        for row in (auc[name], gauc[name]):
            cells += [f"{row['mean']:.2f}", "" if name == table["reference"] else _difference(row)]
        paper = gauc[name]["paper_delta"]
        lines.append(f"| {' | '.join(cells)} | {'' if paper is None else f'{paper:+.2f}'} |")
    return "\n".join(lines)


def by_world(table: Mapping[str, Any]) -> str:
    """Click GAUC, with resampled labels, in every world, and the mean difference to the reference; all rows."""
    rows = [row for row in table["rows"] if (row["task"], row["metric"]) == ("click", "gauc_redrawn")]
    worlds = " | ".join(f"world {seed}" for seed in table["seeds"])
    lines = [f"| click GAUC | {worlds} | difference to Base |", "|---" * (2 + len(table["seeds"])) + "|"]
    for row in rows:
        label = row["label"] if row.get("trained", True) else f"*{row['label']}*"
        values = " | ".join(f"{value:.2f}" for value in row["seeds"])
        difference = "" if row["variant"] == table["reference"] else f"{row['delta']:+.2f}"
        lines.append(f"| {label} | {values} | {difference} |")
    return "\n".join(lines)


def _difference(row: Mapping[str, Any]) -> str:
    return f"{row['delta']:+.2f} ({row['ci_low']:+.2f} to {row['ci_high']:+.2f})"


PARTS: Mapping[str, Callable[[Mapping[str, Any]], str]] = {
    "headline": headline,
    "worlds": by_world,
    "click": lambda table: table_markdown(table, ["click"]),
    "tasks": table_markdown,
    "exposure": exposure_markdown,
    "convergence": convergence.markdown,
    "cost": cost.markdown,
    "anchors": anchor_sources.markdown,
}


def quoted(page: str) -> str:
    """The page with every block made anew. Raises FileNotFoundError or KeyError where a study or part is missing."""

    def block(match: re.Match[str]) -> str:
        table = json.loads((STUDIES / match[2] / "table.json").read_text(encoding="utf-8"))
        return f"{match[1]}{PARTS[match[3]](table)}\n{match[4]}"

    return BLOCK.sub(block, page)


if __name__ == "__main__":
    for path in PAGES:
        path.write_text(quoted(path.read_text(encoding="utf-8")), encoding="utf-8")
