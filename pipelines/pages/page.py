"""What all reports share: one layout and style sheet, one way to write numbers, one file that needs nothing else."""

import math
import os
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def render(template: Path, content: Mapping[str, Any], figures: Mapping[str, str]) -> str:
    """The page of a template, which may include those beside this file.

    Text is escaped; `figures` are SVG by `drawing.svg` and are not.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=FileSystemLoader([template.parent, Path(__file__).parent]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "number": number,
        "signed": signed,
        "percent": percent,
        "duration": duration,
        "words": words,
    }
    drawn = {name: Markup(svg) for name, svg in figures.items()}
    return environment.get_template(template.name).render({**content, "figures": drawn})


def write(text: str, path: Path) -> None:
    """Writes the page in one step: a reader sees the old one or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)


def nothing(value: float | None) -> bool:
    """True for what was not measured: None, or nan (a task with one class only)."""
    return value is None or math.isnan(value)


def number(value: float | None, form: str = ",") -> str:
    """The value by a format, with a minus sign where it is negative; n/a where it was not measured."""
    if nothing(value):
        return "n/a"
    text = f"{value:{form}}"
    return "\N{MINUS SIGN}" + text[1:] if text.startswith("-") else text


def signed(value: float | None, digits: int = 4) -> str:
    """The value with its sign."""
    return number(value, f"+.{digits}f")


def percent(value: float | None, digits: int = 1) -> str:
    """A share as percent."""
    return number(value, f".{digits}%")


def duration(seconds: float | None) -> str:
    """Seconds, from a minute up as minutes and seconds."""
    if nothing(seconds) or seconds is None:
        return "n/a"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s"


def words(name: str) -> str:
    """long_view -> long view"""
    return name.replace("_", " ")


def bucket(low: int, high: int | None) -> str:
    """Training impressions of an author, from `low` (included) to `high` (excluded)."""
    if high is None:
        return f"{low:,} or more"
    return "none (new)" if high == 1 else f"{low:,} to {high - 1:,}"


def as_yaml(config: Any) -> str | None:
    """A resolved configuration as YAML; a text stays as it is."""
    if config is None or isinstance(config, str):
        return config
    import yaml

    return str(yaml.safe_dump(config, sort_keys=False, allow_unicode=True))
