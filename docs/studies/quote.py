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

from pipelines.studies import ablations, anchor_sources, convergence, cost, pairs, user_intervals
from pipelines.studies.retrieval import table as retrieval_table
from pipelines.studies.table import exposure_markdown, table_markdown

ROOT = Path(__file__).resolve().parents[2]
BLOCK = re.compile(r"(<!-- study ([\w/]+) (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)
STUDIES = ROOT / "docs" / "studies"
PAGES = (ROOT / "README.md", STUDIES / "README.md", STUDIES / "one_epoch" / "README.md")


def headline(table: Mapping[str, Any]) -> str:
    """GAUC of every task, with resampled labels: the reference's, and what each row has more or less of it."""
    rows = {(row["variant"], row["task"]): row for row in table["rows"] if row["metric"] == "gauc_redrawn"}
    tasks = list(dict.fromkeys(task for _, task in rows))
    lines = ["| GAUC | " + " | ".join(tasks) + " |", "|" + "---|" * (1 + len(tasks))]
    for name in dict.fromkeys(name for name, _ in rows):
        first = rows[name, tasks[0]]
        label = first["label"] if first.get("trained", True) else f"*{first['label']}*"
        lines.append(f"| {label} | " + " | ".join(_gained(rows.get((name, task)), table) for task in tasks) + " |")
    return "\n".join(lines)


def _gained(row: Mapping[str, Any] | None, table: Mapping[str, Any]) -> str:
    """A cell: the mean of the reference; a difference to it, with its interval where the row is trained."""
    if row is None or row["mean"] is None:
        return ""
    if row["variant"] == table["reference"]:
        return f"{row['mean']:.2f}"
    return _difference(row) if row.get("trained", True) else f"{row['delta']:+.2f}"


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
    "pairs": pairs.markdown,
    "retrieval": retrieval_table.markdown,
    "convergence": convergence.markdown,
    "cost": cost.markdown,
    "users": user_intervals.markdown,
    "ablation": ablations.markdown,
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
