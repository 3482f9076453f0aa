"""Whether a checkpoint's weights are all there, told from names, sizes and headers: no tensor is read.

A clone without Git LFS leaves pointers of 130 bytes, a broken download leaves shards that are missing or cut.
"""

import json
import struct
from pathlib import Path
from typing import Any

from pipelines.runtime.config import ConfigError

INDEX = "model.safetensors.index.json"
_POINTER = b"version https://git-lfs"
_MAX_HEADER = 100 * 2**20
"""The safetensors library refuses longer ones, too."""
_REMEDY = "download the checkpoint again (`hf download`; in a Git clone: `git lfs pull`)"


def weights_bytes(folder: Path, key: str) -> int:
    """Bytes of a checkpoint's weight files. Raises ConfigError, which begins with `key`, where one is missing or cut.

    Where there are no .safetensors, PyTorch's .bin files are counted; of these only pointers and gaps are seen.
    """
    files = _shards(folder, key)
    for file in files:
        refuse_pointer(file, key)
        if file.suffix == ".safetensors":
            _check_safetensors(file, key)
    return sum(file.stat().st_size for file in files)


def refuse_pointer(file: Path, key: str) -> None:
    """Raises ConfigError where a file is a Git-LFS pointer in place of its content."""
    with file.open("rb") as stream:
        if stream.read(len(_POINTER)) == _POINTER:
            raise ConfigError(f"{key} {file}: got a Git-LFS pointer in place of the file; {_REMEDY}")


def _shards(folder: Path, key: str) -> list[Path]:
    for name in (INDEX, "pytorch_model.bin.index.json"):
        if (folder / name).is_file():
            index = read_json(folder / name, key)
            named = sorted(set(index.get("weight_map", {}).values()))
            missing = [file for file in named if not (folder / file).is_file()]
            if missing or not named:
                raise ConfigError(
                    f"{key} {folder}: {name} names {len(named)} weight files, {len(missing)} of them are missing "
                    f"({', '.join(missing[:3])}); {_REMEDY}"
                )
            return [folder / file for file in named]
    files = sorted(folder.glob("*.safetensors")) or sorted(folder.glob("pytorch_model*.bin"))
    if not files:
        raise ConfigError(f"{key} {folder}: wanted weights (*.safetensors), got none; {_REMEDY}")
    return files


def _check_safetensors(file: Path, key: str) -> None:
    """The header says where the last tensor ends, and there the file ends."""
    size = file.stat().st_size
    with file.open("rb") as stream:
        start = stream.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else _MAX_HEADER
        if length >= min(_MAX_HEADER, size):
            raise ConfigError(f"{key} {file}: wanted a safetensors file, got {size} bytes that are none; {_REMEDY}")
        try:
            header = json.loads(stream.read(length))
            ends = [tensor["data_offsets"][1] for name, tensor in header.items() if name != "__metadata__"]
        except (ValueError, AttributeError, TypeError, LookupError) as error:
            raise ConfigError(f"{key} {file}: the safetensors header is damaged ({error}); {_REMEDY}") from error
    wanted = 8 + length + max(ends, default=0)
    if size != wanted:
        raise ConfigError(f"{key} {file}: wanted {wanted:,} bytes, as its header says, got {size:,}; {_REMEDY}")


def read_json(file: Path, key: str) -> dict[str, Any]:
    """A JSON object of a checkpoint. Raises ConfigError where the file is a pointer or holds none."""
    refuse_pointer(file, key)
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ConfigError(f"{key} {file}: not JSON ({error}); {_REMEDY}") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{key} {file}: wanted a JSON object, got {type(content).__name__}; {_REMEDY}")
    return content
