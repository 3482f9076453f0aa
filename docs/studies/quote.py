"""Puts the studies' tables into README.md and docs/studies/README.md: `make readme`, after copying a study's table.json
into docs/studies/<name>.

Between <!-- study NAME PART --> and <!-- end --> stands what pipelines makes of docs/studies/NAME/table.json; the parts
are those of PARTS.
"""

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pipelines.studies import anchor_sources, convergence, cost
from pipelines.studies.table import exposure_markdown, table_markdown

ROOT = Path(__file__).resolve().parents[2]
BLOCK = re.compile(r"(<!-- study (\w+) (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)
PAGES = (ROOT / "README.md", ROOT / "docs" / "studies" / "README.md")
PARTS: Mapping[str, Callable[[Mapping[str, Any]], str]] = {
    "click": lambda table: table_markdown(table, ["click"]),
    "tasks": table_markdown,
    "exposure": exposure_markdown,
    "convergence": convergence.markdown,
    "cost": cost.markdown,
    "anchors": anchor_sources.markdown,
}


def quoted(page: str) -> str:
    """The page with every block made anew. Raises FileNotFoundError or KeyError for a study or part not there."""

    def made(match: re.Match[str]) -> str:
        table = json.loads((ROOT / "docs" / "studies" / match[2] / "table.json").read_text(encoding="utf-8"))
        return f"{match[1]}{PARTS[match[3]](table)}\n{match[4]}"

    return BLOCK.sub(made, page)


if __name__ == "__main__":
    for path in PAGES:
        path.write_text(quoted(path.read_text(encoding="utf-8")), encoding="utf-8")
