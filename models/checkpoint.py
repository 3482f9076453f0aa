"""Models as folders that describe themselves: ``config.json`` and ``model.safetensors``."""

from __future__ import annotations

import dataclasses
import json
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from safetensors.torch import load_file, save_file
from torch import nn

_CONFIG_FILE, _WEIGHTS_FILE = "config.json", "model.safetensors"

ConfigT = TypeVar("ConfigT")


def config_to_dict(config: Any) -> dict[str, Any]:
    """A (nested) dataclass as JSON-ready values."""
    plain: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(config)))
    return plain


def config_from_dict(cls: type[ConfigT], values: Mapping[str, Any]) -> ConfigT:
    """The dataclass ``cls`` from what ``config_to_dict`` gave. Raises ValueError for unknown and missing keys."""
    assert dataclasses.is_dataclass(cls)
    fields = {field.name: field for field in dataclasses.fields(cls)}
    unknown = sorted(set(values) - set(fields))
    if unknown:
        raise ValueError(f"{cls.__name__} has no {unknown}; its keys are {sorted(fields)}")
    required = {
        name
        for name, field in fields.items()
        if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    }
    missing = sorted(required - set(values))
    if missing:
        raise ValueError(f"{cls.__name__} misses {missing}; given are {sorted(values)}")
    hints = typing.get_type_hints(cls)
    return cls(**{name: _typed(hints[name], value) for name, value in values.items()})


def save_model(model: nn.Module, folder: Path, *, version: int, **parts: Any) -> None:
    """Write the weights, and ``parts`` (dataclasses by name) with class and version, into ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    described = {name: config_to_dict(part) for name, part in parts.items()}
    head = {"class": type(model).__name__, "version": version, **described}
    (folder / _CONFIG_FILE).write_text(json.dumps(head, indent=2) + "\n", encoding="utf-8")
    save_file(
        {name: tensor.detach().contiguous() for name, tensor in model.state_dict().items()}, folder / _WEIGHTS_FILE
    )


def load_parts(folder: Path, cls: type, *, version: int, **parts: type) -> dict[str, Any]:
    """The dataclasses that ``save_model`` described. Raises ValueError when class, version or parts differ."""
    head = json.loads((folder / _CONFIG_FILE).read_text(encoding="utf-8"))
    for key, wanted in (("class", cls.__name__), ("version", version)):
        if head.get(key) != wanted:
            raise ValueError(f"{folder / _CONFIG_FILE} has {key} {head.get(key)!r}, wanted {wanted!r}")
    missing = sorted(set(parts) - set(head))
    if missing:
        raise ValueError(f"{folder / _CONFIG_FILE} misses {missing}; it has {sorted(head)}")
    return {name: config_from_dict(part, head[name]) for name, part in parts.items()}


def load_weights(model: nn.Module, folder: Path) -> None:
    """Fill ``model``. Raises ValueError when names or shapes differ from those in the file, with both."""
    stored = load_file(folder / _WEIGHTS_FILE)
    wanted = model.state_dict()
    if stored.keys() != wanted.keys():
        raise ValueError(
            f"{folder / _WEIGHTS_FILE} has tensors {sorted(stored.keys() - wanted.keys())} that the config "
            f"does not make and misses {sorted(wanted.keys() - stored.keys())}"
        )
    for name, tensor in wanted.items():
        if stored[name].shape != tensor.shape:
            raise ValueError(
                f"{name} has shape {list(stored[name].shape)} in the file, {list(tensor.shape)} in the config"
            )
    model.load_state_dict(stored)


def _typed(hint: Any, value: Any) -> Any:
    options = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    for option in options:
        if dataclasses.is_dataclass(option) and isinstance(option, type) and isinstance(value, Mapping):
            return config_from_dict(option, value)
        if typing.get_origin(option) is tuple and isinstance(value, list):
            return tuple(value)
    return value
