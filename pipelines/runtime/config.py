"""One YAML file <-> nested dataclasses, 1:1. Unknown keys are errors that list the valid ones; `--set a.b=c` wins."""

import dataclasses
import re
import types
import typing
from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any, TypeVar

import yaml

T = TypeVar("T")
_EXPONENT = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+")


class ConfigError(ValueError):
    """The configuration cannot be used; the message names file, key, what was got and what is valid."""


def build(cls: type[T], raw: Any, path: str = "config") -> T:
    """An instance of dataclass `cls` from a mapping, recursively. Raises ConfigError."""
    if not isinstance(raw, Mapping):
        raise ConfigError(f"{path}: wanted a mapping of {cls.__name__}'s keys, got {raw!r}")
    fields = {f.name: f for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    unknown = [key for key in raw if key not in fields]
    if unknown:
        raise ConfigError(f"{path}: unknown key(s) {', '.join(map(str, unknown))}; valid keys are {', '.join(fields)}")
    hints = typing.get_type_hints(cls)
    values = {key: _value(hints[key], value, f"{path}.{key}") for key, value in raw.items()}
    try:
        return cls(**values)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{path}: {error}") from error


def _value(hint: Any, raw: Any, path: str) -> Any:
    """`raw` as the type `hint` asks for."""
    if hint is Any:
        return raw
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        if raw is None and type(None) in args:
            return None
        return _value(next(a for a in args if a is not type(None)), raw, path)
    if dataclasses.is_dataclass(hint):
        return build(typing.cast(type, hint), raw, path)
    if origin is tuple:
        if not isinstance(raw, Sequence) or isinstance(raw, str):
            raise ConfigError(f"{path}: wanted a list, got {raw!r}")
        return tuple(_value(args[0], item, f"{path}[{i}]") for i, item in enumerate(raw))
    if origin in (dict, Mapping) or hint is dict:
        if not isinstance(raw, Mapping):
            raise ConfigError(f"{path}: wanted a mapping, got {raw!r}")
        return {key: _value(args[1], value, f"{path}.{key}") for key, value in raw.items()} if args else dict(raw)
    if hint is float and isinstance(raw, int) and not isinstance(raw, bool):
        return float(raw)
    if hint is float and isinstance(raw, str) and _EXPONENT.fullmatch(raw):
        return float(raw)  # YAML takes 1e-3 for text
    if hint is date and type(raw) is date:
        return raw
    if isinstance(hint, type) and type(raw) is not hint:
        raise ConfigError(f"{path}: wanted {hint.__name__}, got {raw!r} ({type(raw).__name__})")
    return raw


def read_yaml(path: str | Path, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """The YAML file as nested dicts, with `a.b=c` overrides applied (values parsed as YAML)."""
    file = Path(path)
    if not file.is_file():
        raise ConfigError(f"--config {path}: no such file; configs that ship: pipelines/configs/*.yaml")
    try:
        raw = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"--config {path}: not YAML: {error}") from error
    raw = {} if raw is None else raw
    if not isinstance(raw, dict):
        raise ConfigError(f"--config {path}: wanted a mapping of sections, got {type(raw).__name__}")
    for override in overrides:
        key, equals, value = override.partition("=")
        if not equals:
            raise ConfigError(f"--set {override}: wanted KEY=VALUE, for example --set train.batch_size=1024")
        try:
            parsed = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise ConfigError(f"--set {override}: the value is not YAML: {error}; quote it") from error
        _assign(raw, key.split("."), parsed, override)
    return raw


def _assign(raw: dict[str, Any], keys: list[str], value: Any, override: str) -> None:
    for key in keys[:-1]:
        raw = raw.setdefault(key, {})
        if not isinstance(raw, dict):
            raise ConfigError(f"--set {override}: {key} is not a section")
    raw[keys[-1]] = value


def to_dict(config: Any) -> Any:
    """Plain dicts and lists, for YAML and JSON."""
    if dataclasses.is_dataclass(config):
        return {f.name: to_dict(getattr(config, f.name)) for f in dataclasses.fields(config)}
    if isinstance(config, tuple | list):
        return [to_dict(item) for item in config]
    if isinstance(config, Mapping):
        return {key: to_dict(value) for key, value in config.items()}
    return config


def dump(config: Any, path: str | Path) -> None:
    """Writes the resolved config beside a run's output."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(yaml.safe_dump(to_dict(config), sort_keys=False))
