"""`--set a.b=c`: one value over what the files say, read by the type of the field that it is for."""

from dataclasses import dataclass, is_dataclass
from typing import Any

from models.config import ConfigError, hint_at, is_text
from pipelines.runtime.yaml_loader import read

_NOTHING = ("", "null", "~")
_QUOTES = ("'", '"')
_SHOWN = 200
"""Characters of it that errors repeat."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Override:
    """One `--set`."""

    name: str
    """How errors call it."""
    path: tuple[str, ...]
    """The keys that lead to the value."""
    value: Any
    """What stands there, as YAML would give it."""

    @classmethod
    def parse(cls, text: str, config: type | None = None) -> "Override":
        """`a.b=c`. `config` is the class that has `a`. Raises ConfigError.

        A text field takes what stands after `=` as it was typed, signs that mean something to YAML included; quotes
        around all of it are taken away. Other fields, and those that nobody knows, read YAML.
        """
        name = f"--set {text}" if len(text) <= _SHOWN else f"--set {text[:_SHOWN]}..."
        key, equals, written = text.partition("=")
        path = tuple(key.strip().split("."))
        if not equals or not all(path):
            raise ConfigError(f"{name}: wanted KEY=VALUE, for example --set train.batch_size=1024")
        hint = hint_at(config, path) if config else None
        if hint is not None and is_text(hint):
            return cls(name=name, path=path, value=_text(written, optional=hint is not str))
        try:
            value = read(written)
        except ValueError as error:
            raise ConfigError(f"{name}: the value is not YAML: {error}; quote it") from error
        if value is None and is_dataclass(hint):  # it would put defaults where the files say something else
            raise ConfigError(f"{name}: wanted a value, or a section such as {{key: value}}, got nothing")
        return cls(name=name, path=path, value=value)


def _text(written: str, *, optional: bool) -> str | None:
    if optional and written in _NOTHING:
        return None
    if len(written) > 1 and written[0] == written[-1] and written[0] in _QUOTES:
        return written[1:-1]
    return written
