"""Plain JSON against the TypedDict that describes it: what it holds, and what is read of it."""

import types
import typing
from typing import Any


def problems(value: Any, kind: Any, path: str = "report") -> list[str]:
    """Where `value` is not as `kind` says: missing and unknown keys, and values of another type."""
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if kind is Any:
        return []
    if origin in (types.UnionType, typing.Union):
        return min((problems(value, arg, path) for arg in args), key=len)
    if typing.is_typeddict(kind):
        if not isinstance(value, dict):
            return [f"{path}: wanted {kind.__name__}, got {value!r}"]
        hints = typing.get_type_hints(kind)
        wrong = [f"{path}.{key} is missing" for key in sorted(kind.__required_keys__ - value.keys())]
        wrong += [f"{path}.{key} is not described" for key in sorted(value.keys() - hints.keys())]
        known = [key for key in value if key in hints]
        return wrong + [w for key in known for w in problems(value[key], hints[key], f"{path}.{key}")]
    if origin is dict and isinstance(value, dict):
        return [w for key, of_key in value.items() for w in problems(of_key, args[1], f"{path}.{key}")]
    if origin is list and isinstance(value, list):
        return [w for index, item in enumerate(value) for w in problems(item, args[0], f"{path}[{index}]")]
    fits = (int, float) if kind is float else origin or kind
    return [] if isinstance(value, fits) else [f"{path}: wanted {kind}, got {value!r}"]


class Watched(dict[str, Any]):
    """A dict that refuses to be asked for a key that its TypedDict does not describe."""

    kind: Any

    def _check(self, key: str) -> None:
        if key not in typing.get_type_hints(self.kind):
            raise AssertionError(f"{self.kind.__name__} does not describe {key!r}")

    def get(self, key: str, default: Any = None) -> Any:
        self._check(key)
        return super().get(key, default)

    def __getitem__(self, key: str) -> Any:
        self._check(key)
        return super().__getitem__(key)

    def __contains__(self, key: object) -> bool:
        self._check(str(key))
        return super().__contains__(key)


def watched(value: Any, kind: Any) -> Any:
    """`value` with every part that a TypedDict describes watched."""
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin in (types.UnionType, typing.Union):
        return None if value is None else watched(value, next(arg for arg in args if arg is not type(None)))
    if typing.is_typeddict(kind):
        hints = typing.get_type_hints(kind)
        result = Watched({key: watched(of_key, hints.get(key, Any)) for key, of_key in value.items()})
        result.kind = kind
        return result
    if origin is dict:
        return {key: watched(of_key, args[1]) for key, of_key in value.items()}
    return [watched(item, args[0]) for item in value] if origin is list else value
