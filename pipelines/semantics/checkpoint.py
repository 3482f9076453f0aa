"""The checkpoint that writes anchors: the one that ships, what identifies any other, and what its files say of it."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from models.artifacts.manifest import Manifest
from pipelines.runtime.config import ConfigError
from pipelines.semantics.image_sizes import ImageSizes
from pipelines.semantics.weights import read_json
from pipelines.tables.fingerprint import digest

STUDENT = Path(__file__).parents[1] / "world" / "student"
"""The distilled model that ships with the simulated world."""


def model_fingerprint(model: str) -> str:
    """Hash of a checkpoint: its manifest's where it has one, else of its files' names and sizes."""
    folder = Path(model)
    if not (folder / "config.json").is_file():
        raise ConfigError(
            f"anchors.model {model}: wanted a folder with a Hugging Face checkpoint (config.json), got none; "
            "run `make distil`, or give the folder of a downloaded Qwen-VL by --set anchors.model=PATH"
        )
    if (folder / "MANIFEST.json").is_file():
        return digest(dict(Manifest.verify(folder).files))
    return digest(sorted((p.name, p.stat().st_size) for p in folder.iterdir()))


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """What the JSON files of a Qwen-VL checkpoint say, read without torch."""

    folder: Path
    config: Mapping[str, Any]
    """config.json."""
    images: ImageSizes
    chat_template: str
    """Jinja."""

    @classmethod
    def read(cls, model: str, key: str = "anchors.model") -> "Checkpoint":
        """Raises ConfigError, which begins with `key`, where a file is missing, a pointer, or no JSON."""
        folder = Path(model)
        if not (folder / "config.json").is_file():
            raise ConfigError(f"{key} {model}: wanted a folder with a checkpoint (config.json), got none; correct it")
        return cls(
            folder=folder,
            config=read_json(folder / "config.json", key),
            images=ImageSizes.of(_image_processor(folder, key)),
            chat_template=_chat_template(folder, key),
        )

    @property
    def text(self) -> Mapping[str, Any]:
        """The language model's part of config.json; older checkpoints have it at the top."""
        return self.config.get("text_config") or self.config

    @property
    def longest(self) -> int:
        """Most tokens that the language model can attend to."""
        return int(self.text.get("max_position_embeddings", 32768))

    def kv_bytes(self, bytes_per_number: int) -> int:
        """Memory that the keys and values of one token take."""
        text, heads = self.text, self.text["num_attention_heads"]
        width = text.get("head_dim") or text["hidden_size"] // heads
        return int(2 * text["num_hidden_layers"] * text.get("num_key_value_heads", heads) * width * bytes_per_number)


def _image_processor(folder: Path, key: str) -> Mapping[str, Any]:
    """The image processor's settings: a section of the newer file, all of the older one."""
    for name in ("processor_config.json", "preprocessor_config.json"):
        if (folder / name).is_file():
            settings = read_json(folder / name, key)
            found = settings.get("image_processor") if name == "processor_config.json" else settings
            if found:
                return dict(found)
    raise ConfigError(
        f"{key} {folder}: wanted the image processor's settings (preprocessor_config.json or processor_config.json), "
        "got none; copy the file from the model that this one was tuned from"
    )


def _chat_template(folder: Path, key: str) -> str:
    if (folder / "chat_template.jinja").is_file():
        return (folder / "chat_template.jinja").read_text(encoding="utf-8")
    for name in ("chat_template.json", "tokenizer_config.json"):
        if (folder / name).is_file() and (found := read_json(folder / name, key).get("chat_template")):
            named = {"default": found} if isinstance(found, str) else {each["name"]: each["template"] for each in found}
            if "default" in named:
                return named["default"]
    raise ConfigError(
        f"{key} {folder}: wanted a chat template (chat_template.jinja, chat_template.json, or in "
        "tokenizer_config.json), got none; a base model has none: take the Instruct model, or copy its template"
    )
