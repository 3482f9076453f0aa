"""Videos made for the tests: real containers and codecs, a few frames long."""

import io
from pathlib import Path
from typing import Any

import av
import numpy as np
from PIL import Image

CODECS = {
    ".mp4": "libx264",
    ".mkv": "mpeg4",
    ".webm": "libvpx",
    ".avi": "mjpeg",
    ".ts": "mpeg2video",
    ".flv": "flv",
    ".mov": "prores_ks",
}
PIXELS = {"mjpeg": "yuvj420p", "prores_ks": "yuv422p10le"}


class Pipe(io.BytesIO):
    """A file that cannot seek: what is written to it declares no length."""

    def seekable(self) -> bool:
        return False


def film(path: Path, seconds: float = 2.0, size: tuple[int, int] = (64, 48), gop: int = 12) -> Path:
    """A video at 8 frames a second whose grey level is 2 x the number of half seconds passed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    codec = CODECS[path.suffix]
    with av.open(str(path), "w", format="mpegts" if path.suffix == ".ts" else None) as container:
        encode(container, codec, seconds, size, gop)
    return path


def encode(container: Any, codec: str, seconds: float, size: tuple[int, int], gop: int) -> None:
    stream = container.add_stream(codec, rate=8)
    stream.width, stream.height = size
    stream.pix_fmt = PIXELS.get(codec, "yuv420p")
    stream.gop_size = gop
    for number in range(int(seconds * 8)):
        grey = np.full((size[1], size[0], 3), min(255, 2 * (number // 4)), np.uint8)
        container.mux(stream.encode(av.VideoFrame.from_ndarray(grey, format="rgb24")))
    container.mux(stream.encode(None))


def grey(jpeg: bytes) -> float:
    with Image.open(io.BytesIO(jpeg)) as image:
        assert (image.format, image.mode) == ("JPEG", "RGB")
        return float(np.asarray(image).mean())
