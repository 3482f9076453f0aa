"""Models as folders that describe themselves: `config.json` and `model.safetensors`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any, ClassVar, Self

from huggingface_hub import ModelHubMixin, snapshot_download
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from models.config import build, to_dict
from models.embeddings import IdTable, undrawn

_CONFIG_FILE, _WEIGHTS_FILE = "config.json", "model.safetensors"


class SavedModel(nn.Module, ModelHubMixin):
    """A model made from dataclasses alone, which it keeps under their names: `cls(**parts)`.

    `save` and `load` are what jobs use; `save_pretrained`, `from_pretrained` and `push_to_hub` are the same
    for the Hugging Face Hub, a model card included.
    """

    version: ClassVar[int]
    """Version of the weights' layout; a folder of another one is refused."""
    parts: ClassVar[Mapping[str, type]]
    """The dataclasses that make a model, by argument and attribute."""

    def save(self, folder: Path, state: Mapping[str, Tensor] | None = None) -> None:
        """Write config.json (class, version, parts) and model.safetensors.

        Args: `state` is the `state_dict` with whole tables, where this model has shards of them.
        """
        folder.mkdir(parents=True, exist_ok=True)
        described = {name: to_dict(getattr(self, name)) for name in self.parts}
        head = {"class": type(self).__name__, "version": self.version, **described}
        (folder / _CONFIG_FILE).write_text(json.dumps(head, indent=2) + "\n", encoding="utf-8")
        state = self.state_dict() if state is None else state
        weights = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
        save_file(weights, folder / _WEIGHTS_FILE)

    @classmethod
    def load(cls, folder: Path, *, mapped: bool = False) -> Self:
        """Read what `save` wrote, in evaluation mode. Raises ValueError on any mismatch, with both values.

        `mapped` leaves the weights on disk, for who only reads them: processes of a node share their pages. The file
        must stay as it is while the model is in use.
        """
        head, parts = cls._head(folder), cls.parts.items()
        made: dict[str, Any] = {
            name: build(part, head[name], f"{folder / _CONFIG_FILE}: {name}") for name, part in parts
        }
        with undrawn() if mapped else nullcontext():
            model = cls(**made)
        _load_weights(model, folder, mapped=mapped)
        return model.eval()

    def fill(self, folder: Path) -> None:
        """Read what a model of the same parts wrote into this one, without a second one beside it. Raises as `load`."""
        self._head(folder)
        _load_weights(self, folder)

    @classmethod
    def _head(cls, folder: Path) -> dict[str, Any]:
        """config.json, which must be of this class and version and have its parts."""
        head: dict[str, Any] = json.loads((folder / _CONFIG_FILE).read_text(encoding="utf-8"))
        for key, wanted in (("class", cls.__name__), ("version", cls.version)):
            if head.get(key) != wanted:
                raise ValueError(f"{folder / _CONFIG_FILE} has {key} {head.get(key)!r}, wanted {wanted!r}")
        missing = sorted(set(cls.parts) - set(head))
        if missing:
            raise ValueError(f"{folder / _CONFIG_FILE} misses {missing}; it has {sorted(head)}")
        return head

    def _save_pretrained(self, save_directory: Path) -> None:
        self.save(save_directory)

    @classmethod
    def _from_pretrained(
        cls,
        *,
        model_id: str,
        revision: str | None,
        cache_dir: str | Path | None,
        force_download: bool,
        local_files_only: bool,
        token: str | bool | None,
        **described: Any,
    ) -> Self:
        # The mixin's own reading of config.json, which knows nothing of our checks: `load` reads it again.
        unknown = sorted(set(described) - set(cls.parts))
        if unknown:
            raise TypeError(f"{cls.__name__}.from_pretrained has no argument {unknown}; a folder fixes the whole model")
        folder = Path(model_id)
        if not folder.is_dir():
            fetched = snapshot_download(
                model_id,
                revision=revision,
                cache_dir=cache_dir,
                force_download=force_download,
                local_files_only=local_files_only,
                token=token,
                allow_patterns=[_CONFIG_FILE, _WEIGHTS_FILE],
            )
            folder = Path(fetched)
        return cls.load(folder)


def _load_weights(model: nn.Module, folder: Path, *, mapped: bool = False) -> None:
    """Fill `model`, or put what is in the file in its place.

    Raises ValueError when names or shapes differ from those in the file, with both.
    """
    stored = load_file(folder / _WEIGHTS_FILE)
    wanted = _whole_shapes(model)
    if stored.keys() != wanted.keys():
        raise ValueError(
            f"{folder / _WEIGHTS_FILE} has tensors {sorted(stored.keys() - wanted.keys())} that the config "
            f"does not make and misses {sorted(wanted.keys() - stored.keys())}"
        )
    for name, shape in wanted.items():
        if list(stored[name].shape) != shape:
            raise ValueError(f"{name} has shape {list(stored[name].shape)} in the file, {shape} in the config")
    model.load_state_dict(stored, assign=mapped)


def _whole_shapes(model: nn.Module) -> dict[str, list[int]]:
    """Shapes of all weights by name, as a file has them: of tables whole."""
    shapes = {name: list(tensor.shape) for name, tensor in model.state_dict().items()}
    tables = {f"{name}.weight": of for name, of in model.named_modules() if isinstance(of, IdTable)}
    return shapes | {name: [of.num_rows, *shapes[name][1:]] for name, of in tables.items()}
