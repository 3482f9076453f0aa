"""Puts the studies' tables into README.md: `make readme` (after copying a study's table.json into docs/studies/<name>).

Between <!-- study NAME --> and <!-- end --> stands what pipelines/study_table.py makes of docs/studies/NAME/table.json.
"""

import json
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from pipelines import study_table  # noqa: E402 - the line above makes it importable from anywhere

BLOCK = re.compile(r"(<!-- study (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def quoted(readme: str) -> str:
    """The README with every block made anew. Raises FileNotFoundError where a study has no table."""

    def table_of(match: re.Match[str]) -> str:
        file = ROOT / "docs" / "studies" / match[2] / "table.json"
        return f"{match[1]}{study_table.markdown(json.loads(file.read_text()), ['click'])}\n{match[3]}"

    return BLOCK.sub(table_of, readme)


if __name__ == "__main__":
    path = ROOT / "README.md"
    path.write_text(quoted(path.read_text(encoding="utf-8")), encoding="utf-8")
