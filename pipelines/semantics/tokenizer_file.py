"""A `tokenizer.json` that somebody names, or that lies in a checkpoint."""

from pathlib import Path
from typing import Any

from pipelines.runtime.config import ConfigError
from pipelines.semantics.weights import refuse_pointer

TOKENIZER = "tokenizer.json"


def load_tokenizer(file: Path, key: str) -> Any:
    """The tokenizer in a file. Raises ConfigError, which begins with `key`, where it is none."""
    from tokenizers import Tokenizer

    if not file.is_file():
        raise ConfigError(f"{key} {file}: wanted a {TOKENIZER}, got no file; download the checkpoint again")
    refuse_pointer(file, key)
    try:
        return Tokenizer.from_file(str(file))
    except Exception as error:  # the library raises nothing narrower
        raise ConfigError(
            f"{key} {file}: wanted a {TOKENIZER}, got a file that cannot be read ({error}); download it again"
        ) from error
