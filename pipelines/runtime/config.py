"""YAML files <-> nested dataclasses, 1:1. `base: other.yaml` is read before a file, and `--set a.b=c` wins over all."""

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml

from models.config import ConfigError, build, to_dict
from pipelines.runtime.overrides import Override
from pipelines.runtime.yaml_loader import read

__all__ = ["ConfigError", "build", "dump", "load", "merged", "read_yaml", "to_dict"]

log = logging.getLogger(__name__)

T = TypeVar("T")
BASE = "base"
"""The key at the top of a file that names another one, relative to it."""
Layer = tuple[str, Mapping[str, Any]]
"""A file or an override, as errors call it, and the keys that it gives."""


def load(
    cls: type[T],
    path: str | Path,
    overrides: Sequence[str] = (),
    *,
    prepare: Callable[[dict[str, Any]], dict[str, Any]] = dict,
) -> T:
    """`cls` with the keys of `read_yaml`, as `prepare` completes them.

    Raises ConfigError; it says in which file the wrong key stands.
    """
    keys, layers = _read(path, overrides, cls)
    try:
        return build(cls, prepare(keys))
    except ConfigError as error:
        raise ConfigError(f"{_place(layers, error.key) or path}: {error}", error.key) from error


def read_yaml(path: str | Path) -> dict[str, Any]:
    """The file as nested dicts, over its bases."""
    return _read(path)[0]


def merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """`above` on top of `below`, section by section; lists and values replace, and an empty section says nothing."""
    result = dict(below)
    for key, value in above.items():
        inner = result.get(key)
        if isinstance(inner, Mapping) and (value is None or isinstance(value, Mapping)):
            value = merged(inner, value or {})
        result[key] = value
    return result


def dump(config: Any, path: str | Path) -> None:
    """Writes the resolved config beside a run's output."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(yaml.safe_dump(to_dict(config), sort_keys=False))


def _read(
    path: str | Path, overrides: Sequence[str] = (), cls: type | None = None
) -> tuple[dict[str, Any], list[Layer]]:
    """All keys, and who gives which. `cls` has the types by which the values of `overrides` are read."""
    layers = _files(Path(path).expanduser(), f"--config {path}", ())
    keys: dict[str, Any] = {}
    for _, keys_of_layer in layers:
        keys = merged(keys, keys_of_layer)
    given: dict[tuple[str, ...], str] = {}
    for override in (Override.parse(text, cls) for text in overrides):
        if override.path in given:
            log.warning("%s: replaces %s", override.name, given[override.path])
        given[override.path] = override.name
        keys = _replaced(keys, override.path, override.value, override.name)
        layers.append((override.name, _replaced({}, override.path, override.value, override.name)))
    return keys, layers


def _replaced(keys: Mapping[str, Any] | None, path: Sequence[str], value: Any, name: str) -> dict[str, Any]:
    """`keys` with one value replaced; sections on the way to it are made where they are missing."""
    key, *rest = path
    keys = keys or {}
    inner = keys.get(key)
    if rest and not (inner is None or isinstance(inner, Mapping)):
        raise ConfigError(f"{name}: {key} is not a section")
    return {**keys, key: _replaced(inner, rest, value, name) if rest else value}


def _files(file: Path, name: str, above: tuple[Path, ...]) -> list[Layer]:
    """The file's bases, and it last. `name` is how errors call the file, `above` are the files that led to it."""
    chain = (*above, file.resolve())
    if chain[-1] in above:
        raise ConfigError(f"{name}: wanted bases that end, got a circle: {' -> '.join(map(str, chain))}")
    keys = _sections(file, name)
    if BASE not in keys:
        return [(str(file), keys)]
    base = keys.pop(BASE)
    if not isinstance(base, str):
        raise ConfigError(f"{file}: {BASE}: wanted the path of a YAML file, relative to this one, got {base!r}")
    below = _files(Path(os.path.normpath(file.parent / base)), f"{file}: {BASE} {base}", chain)
    return [*below, (str(file), keys)]


def _sections(file: Path, name: str) -> dict[str, Any]:
    if file.is_dir():
        raise ConfigError(f"{name}: wanted a YAML file, got a folder; name the file in it")
    if not file.exists():
        raise ConfigError(f"{name}: no such file; configs that ship: pipelines/configs/*.yaml")
    try:
        keys = read(file.read_bytes())
    except OSError as error:
        raise ConfigError(f"{name}: cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise ConfigError(f"{name}: not YAML: {error}") from error
    keys = {} if keys is None else keys
    if not isinstance(keys, dict):
        raise ConfigError(f"{name}: wanted a mapping of sections, got {type(keys).__name__}")
    return keys


def _place(layers: Sequence[Layer], key: str) -> str:
    """Where a value stands; of a section, every place that says something of it; "" where none does."""
    path = key.partition("[")[0].split(".")[1:]
    places = [(name, value) for name, keys in layers if (value := _find(keys, path)) is not None]
    in_pieces = all(isinstance(value, Mapping) for _, value in places)
    return ", ".join(name for name, _ in (places if in_pieces else places[-1:]))


def _find(keys: Any, path: Sequence[str]) -> Any:
    for key in path:
        keys = keys.get(key) if isinstance(keys, Mapping) else None
    return keys
