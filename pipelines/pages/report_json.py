"""`<run_dir>/report.json`: one key per job, and each job replaces its own."""

import json
import os
import uuid
from pathlib import Path
from typing import Any

FILE = "report.json"


def merge(run_dir: str | Path, key: str, value: Any) -> Path:
    """Sets `key` and keeps the others, in one step: a reader sees the old file or the new one.

    Raises ValueError where the existing file is not a JSON object.
    """
    path = Path(run_dir) / FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    content = read(run_dir)
    content[key] = value
    temporary = path.with_name(f"{FILE}.{uuid.uuid4().hex[:8]}.tmp")
    temporary.write_text(json.dumps(content, indent=1, default=str))
    os.replace(temporary, path)
    return path


def read(run_dir: str | Path) -> dict[str, Any]:
    """What the jobs have reported so far, {} where none has."""
    path = Path(run_dir) / FILE
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path}: not JSON ({error}); remove it and run the jobs again") from error
    if not isinstance(content, dict):
        raise ValueError(
            f"{path}: wanted a JSON object, got {type(content).__name__}; remove it and run the jobs again"
        )
    return content
