"""Weights that are not all there are found without reading one of them."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from pipelines.runtime.config import ConfigError
from pipelines.semantics.weights import INDEX, weights_bytes

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:" + "0" * 64 + "\nsize 5643936\n"


def shards(folder: Path) -> Path:
    for number in (1, 2):
        save_file(
            {f"layer.{number}": np.zeros((4, 8), np.float32)}, folder / f"model-0000{number}-of-00002.safetensors"
        )
    names = {f"layer.{number}": f"model-0000{number}-of-00002.safetensors" for number in (1, 2)}
    (folder / INDEX).write_text(json.dumps({"weight_map": names}))
    return folder


def test_whole_weights_are_counted(tmp_path: Path):
    folder = shards(tmp_path)
    assert weights_bytes(folder, "key") == sum(p.stat().st_size for p in folder.glob("*.safetensors"))
    (folder / INDEX).unlink()
    assert weights_bytes(folder, "key") > 2 * 4 * 8 * 4


def second(folder: Path) -> Path:
    return folder / "model-00002-of-00002.safetensors"


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (lambda f: second(f).write_text(POINTER), r"00002-of-00002\.safetensors: got a Git-LFS pointer"),
        (lambda f: second(f).unlink(), r"names 2 weight files, 1 of them are missing \(model-00002"),
        (lambda f: second(f).write_bytes(second(f).read_bytes()[:-20]), r"wanted [\d,]+ bytes, as its header says"),
        (lambda f: second(f).write_bytes(second(f).read_bytes() + b"more"), r"wanted [\d,]+ bytes, as its header says"),
        (lambda f: second(f).write_bytes(second(f).read_bytes()[:12]), "wanted a safetensors file, got 12 bytes"),
        (lambda f: second(f).write_bytes(b""), "wanted a safetensors file, got 0 bytes"),
        (lambda f: second(f).write_bytes(b"\x10" + b"\0" * 7 + b"{" * 60), "the safetensors header is damaged"),
        (lambda f: (f / INDEX).write_text(POINTER), r"index\.json: got a Git-LFS pointer"),
        (lambda f: (f / INDEX).write_text('{"weight'), r"index\.json: not JSON"),
        (lambda f: (f / INDEX).write_text("{}"), "names 0 weight files"),
        (lambda f: [p.unlink() for p in f.iterdir()], "wanted weights"),
    ],
)
def test_what_is_missing_is_named_with_key_and_file(tmp_path: Path, harm: Callable[[Path], object], said: str):
    harm(shards(tmp_path))
    with pytest.raises(ConfigError, match=f"^anchors.model {tmp_path}.*{said}.*download the ch") as caught:
        weights_bytes(tmp_path, "anchors.model")
    assert "\n" not in str(caught.value)
