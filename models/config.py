"""Dataclasses from nested mappings, as YAML and JSON hold them, and back. Errors name the key and say what is valid."""

import dataclasses
import re
import types
import typing
from collections.abc import Mapping, Sequence
from datetime import date
from typing import Any, TypeVar

T = TypeVar("T")
_EXPONENT = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+")


class ConfigError(ValueError):
    """A configuration cannot be used; the message names the key, what was got and what is valid."""

    def __init__(self, message: str, key: str = "") -> None:
        """Args: `key` is the path of the key or section that is wrong, where it is known: config.train.batch_size."""
        super().__init__(message)
        self.key = key


def build(cls: type[T], raw: Any, path: str = "config") -> T:
    """An instance of dataclass `cls` from a mapping, recursively; None is an empty one. Raises ConfigError."""
    raw = {} if raw is None else raw
    if not isinstance(raw, Mapping):
        raise ConfigError(f"{path}: wanted a mapping of {cls.__name__}'s keys, got {raw!r}", path)
    fields = {f.name: f for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    unknown = [str(key) for key in raw if key not in fields]
    if unknown:
        message = f"{path}: unknown key(s) {', '.join(unknown)}; valid keys are {', '.join(fields)}"
        raise ConfigError(message, f"{path}.{unknown[0]}")
    missing = [name for name, field in fields.items() if name not in raw and _is_required(field)]
    if missing:
        raise ConfigError(f"{path}: missing key(s) {', '.join(missing)}; got {', '.join(raw) or 'none'}", path)
    hints = typing.get_type_hints(cls)
    values = {key: _value(hints[key], value, f"{path}.{key}") for key, value in raw.items()}
    try:
        return cls(**values)
    except ConfigError:
        raise
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{path}: {error}", path) from error


def _is_required(field: "dataclasses.Field[Any]") -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def _value(hint: Any, raw: Any, path: str) -> Any:
    """`raw` as the type `hint` asks for."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return raw
    if origin in (types.UnionType, typing.Union):
        return _one_of(args, raw, path)
    if dataclasses.is_dataclass(hint):
        return build(typing.cast(type, hint), raw, path)
    if origin is tuple:
        return _tuple(args, raw, path)
    if origin in (dict, Mapping):
        return _mapping(args, raw, path)
    assert isinstance(hint, type), f"{path}: no value is read as {hint}"
    return _plain(hint, raw, path)


def _one_of(hints: Sequence[Any], raw: Any, path: str) -> Any:
    if raw is None and type(None) in hints:
        return None
    *others, last = [hint for hint in hints if hint is not type(None)]
    for hint in others:
        try:
            return _value(hint, raw, path)
        except ConfigError:
            continue  # the last one says what is wrong
    return _value(last, raw, path)


def _tuple(hints: Sequence[Any], raw: Any, path: str) -> tuple[Any, ...]:
    if not isinstance(raw, Sequence) or isinstance(raw, str):
        raise ConfigError(f"{path}: wanted a list, got {raw!r}", path)
    if hints[-1] is Ellipsis:
        hints = [hints[0]] * len(raw)
    if len(hints) != len(raw):
        raise ConfigError(f"{path}: wanted a list of {len(hints)}, got {raw!r}", path)
    return tuple(_value(hint, item, f"{path}[{i}]") for i, (hint, item) in enumerate(zip(hints, raw, strict=True)))


def _mapping(hints: Sequence[Any], raw: Any, path: str) -> dict[Any, Any]:
    raw = {} if raw is None else raw
    if not isinstance(raw, Mapping):
        raise ConfigError(f"{path}: wanted a mapping, got {raw!r}", path)
    key_hint, value_hint = hints
    return {_value(key_hint, key, path): _value(value_hint, value, f"{path}.{key}") for key, value in raw.items()}


def _plain(hint: type, raw: Any, path: str) -> Any:
    if hint is float and isinstance(raw, int) and not isinstance(raw, bool):
        return float(raw)
    if hint is float and isinstance(raw, str) and _EXPONENT.fullmatch(raw):
        return float(raw)  # YAML takes 1e-3 for text
    if hint is str and isinstance(raw, date):
        return raw.isoformat()  # and an unquoted 2026-01-31 for a date
    if hint is date and isinstance(raw, str):
        try:
            return date.fromisoformat(raw)
        except ValueError as error:
            raise ConfigError(f"{path}: wanted date (YYYY-MM-DD), got {raw!r}", path) from error
    if type(raw) is not hint:
        raise ConfigError(f"{path}: wanted {hint.__name__}, got {raw!r} ({type(raw).__name__})", path)
    return raw


def to_dict(config: Any) -> Any:
    """Plain dicts, lists and values, for YAML and JSON."""
    if dataclasses.is_dataclass(config):
        return {f.name: to_dict(getattr(config, f.name)) for f in dataclasses.fields(config)}
    if isinstance(config, Mapping):
        return {key: to_dict(value) for key, value in config.items()}
    if isinstance(config, tuple | list):
        return [to_dict(item) for item in config]
    return config
