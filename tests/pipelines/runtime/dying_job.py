"""A job whose worker dies as often as a file says."""

import os
from pathlib import Path
from typing import Any

from pipelines.runtime.run import Run


def run(section: Path, run: Run) -> dict[str, Any]:
    """`section` is the file."""
    left = int(section.read_text())
    section.write_text(str(left - 1))
    if left:
        os._exit(1)
    return {"left": left}
