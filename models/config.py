"""Dataclasses from nested mappings, as YAML and JSON hold them, and back. Errors name the key and say what is valid."""

import dataclasses
import difflib
import os
import re
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from datetime import date
from typing import Annotated, Any, TypeVar

T = TypeVar("T")
_EXPONENT = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+")
_SHOWN = 200
"""Characters of a wrong value that an error repeats."""


def _home(path: str) -> str:
    expanded = os.path.expanduser(path)
    if expanded.startswith("~") and not os.path.exists(expanded):
        raise ValueError(f"wanted a path, got {path!r}, the home of a user whom this machine does not know")
    return expanded


def _day(text: str) -> str:
    try:
        known = date.fromisoformat(text).isoformat() == text  # ISO 8601 has other names for the same day
    except ValueError:
        known = False
    if not known:
        raise ValueError(f"wanted a day (YYYY-MM-DD), got {text!r}")
    return text


PathText = Annotated[str, _home]
"""Text of a path or URL; `~` at its beginning is the user's home folder."""
DayText = Annotated[str, _day]
"""Text of a day of the calendar, YYYY-MM-DD."""


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
        raise ConfigError(f"{path}: wanted a mapping of {cls.__name__}'s keys, got {_shown(raw)}", path)
    fields = {f.name: f for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    unknown = [str(key) for key in raw if key not in fields]
    if unknown:
        named = f"{path}: unknown key(s) {', '.join(unknown)}"
        message = f"{named};{_nearest(unknown[0], fields)} valid keys are {', '.join(fields)}"
        raise ConfigError(message, f"{path}.{unknown[0]}")
    missing = [name for name, field in fields.items() if name not in raw and _is_required(field)]
    if missing:
        raise ConfigError(f"{path}: missing key(s) {', '.join(missing)}; got {', '.join(raw) or 'none'}", path)
    hints = typing.get_type_hints(cls, include_extras=True)
    values = {key: _value(hints[key], value, f"{path}.{key}") for key, value in raw.items()}
    try:
        return cls(**values)
    except ConfigError:
        raise
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{path}: {error}", path) from error


def hint_at(cls: Any, keys: Sequence[str]) -> Any:
    """The type of what stands at a path of keys below a dataclass; None where it has no such field."""
    for key in keys:
        options = typing.get_args(cls) if _is_union(cls) else (cls,)
        cls = next((hint for option in options if (hint := _hint_below(option, key)) is not None), None)
    return cls


def is_text(hint: Any) -> bool:
    """True for the type of a text, which may be missing."""
    options = [option for option in (typing.get_args(hint) if _is_union(hint) else (hint,)) if option is not type(None)]
    return all((typing.get_args(o)[0] if typing.get_origin(o) is Annotated else o) is str for o in options)


def _hint_below(hint: Any, key: str) -> Any:
    if dataclasses.is_dataclass(hint):
        return typing.get_type_hints(hint, include_extras=True).get(key)
    return typing.get_args(hint)[1] if typing.get_origin(hint) in (dict, Mapping) else None


def _is_union(hint: Any) -> bool:
    return typing.get_origin(hint) in (types.UnionType, typing.Union)


def _nearest(key: str, keys: Iterable[str]) -> str:
    near = difflib.get_close_matches(key, list(keys), n=1)
    return f" did you mean {near[0]}?" if near else ""


def _shown(raw: Any) -> str:
    text = repr(raw)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}... ({len(text):,} characters)"


def _is_required(field: "dataclasses.Field[Any]") -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def _value(hint: Any, raw: Any, path: str) -> Any:
    """`raw` as the type `hint` asks for."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return raw
    if origin is Annotated:
        return _read_by(args[1], _value(args[0], raw, path), path)
    if _is_union(hint):
        return _one_of(args, raw, path)
    if dataclasses.is_dataclass(hint):
        return build(typing.cast(type, hint), raw, path)
    if origin is tuple:
        return _tuple(args, raw, path)
    if origin in (dict, Mapping):
        return _mapping(args, raw, path)
    assert isinstance(hint, type), f"{path}: no value is read as {hint}"
    return _plain(hint, raw, path)


def _read_by(reader: Any, value: Any, path: str) -> Any:
    try:
        return reader(value)
    except ValueError as error:
        raise ConfigError(f"{path}: {error}", path) from error


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
        raise ConfigError(f"{path}: wanted a list, such as [a, b], got {_shown(raw)}", path)
    if hints[-1] is Ellipsis:
        hints = [hints[0]] * len(raw)
    if len(hints) != len(raw):
        raise ConfigError(f"{path}: wanted a list of {len(hints)}, got {_shown(raw)}", path)
    return tuple(_value(hint, item, f"{path}[{i}]") for i, (hint, item) in enumerate(zip(hints, raw, strict=True)))


def _mapping(hints: Sequence[Any], raw: Any, path: str) -> dict[Any, Any]:
    raw = {} if raw is None else raw
    if not isinstance(raw, Mapping):
        raise ConfigError(f"{path}: wanted a mapping, got {_shown(raw)}", path)
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
            return date.fromisoformat(_day(raw))
        except ValueError as error:
            raise ConfigError(f"{path}: wanted date (YYYY-MM-DD), got {_shown(raw)}", path) from error
    if type(raw) is not hint:
        wanted = f"wanted {hint.__name__}, got {_shown(raw)} ({type(raw).__name__})"
        raise ConfigError(f"{path}: {wanted}{_remedy(hint, raw)}", path)
    return raw


def _remedy(hint: type, raw: Any) -> str:
    """What to write instead, where YAML has taken a value for something else."""
    if hint is str and isinstance(raw, bool | int | float):
        return "; put it in quotes"
    if hint in (int, float) and isinstance(raw, str) and re.fullmatch(r"[-+]?[\d_.]+", raw):
        return "; write it without quotes, and without zeros in front"
    if hint is int and (isinstance(raw, float) or isinstance(raw, str) and _EXPONENT.fullmatch(raw)):
        return "; write its digits, without point or exponent"
    return "; write true or false" if hint is bool else ""


def to_dict(config: Any) -> Any:
    """Plain dicts, lists and values, for YAML and JSON."""
    if dataclasses.is_dataclass(config):
        return {f.name: to_dict(getattr(config, f.name)) for f in dataclasses.fields(config)}
    if isinstance(config, Mapping):
        return {key: to_dict(value) for key, value in config.items()}
    if isinstance(config, tuple | list):
        return [to_dict(item) for item in config]
    return config
