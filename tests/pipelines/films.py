"""Videos made for the tests: real containers and codecs, a few frames long."""

import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.stream import Disposition
from PIL import Image

CODECS = {
    ".mp4": "libx264",
    ".mkv": "mpeg4",
    ".webm": "libvpx",
    ".avi": "mjpeg",
    ".ts": "mpeg2video",
    ".flv": "flv",
    ".mpg": "mpeg2video",
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
    roll(container, [pictures(container, codec, size, gop)], seconds)


def pictures(container: Any, codec: str, size: tuple[int, int] = (64, 48), gop: int = 12) -> Any:
    """A stream for pictures; all streams of a container have to be there before anything is written."""
    stream = container.add_stream(codec, rate=8)
    stream.width, stream.height = size
    stream.pix_fmt = PIXELS.get(codec, "yuv420p")
    stream.gop_size = gop
    return stream


def roll(container: Any, streams: Sequence[Any], until_s: float, since_s: float = 0.0) -> None:
    """Writes the film of `film` into streams, side by side."""
    for number in range(int(since_s * 8), int(until_s * 8)):
        for stream in streams:
            grey = np.full((stream.height, stream.width, 3), min(255, 2 * (number // 4)), np.uint8)
            frame = av.VideoFrame.from_ndarray(grey, format="rgb24")
            frame.pts = number
            container.mux(stream.encode(frame))
    for stream in streams:
        container.mux(stream.encode(None))


def grey(jpeg: bytes) -> float:
    with Image.open(io.BytesIO(jpeg)) as image:
        assert (image.format, image.mode) == ("JPEG", "RGB")
        return float(np.asarray(image).mean())


def restamped(path: Path, shift_s: Callable[[float], float], to: Path | None = None) -> Path:
    """The same packets with other times: each `shift_s(time_s)` seconds later."""
    target = to or path.with_name(f"restamped{path.suffix}")
    options = {"avoid_negative_ts": "disabled"}
    with (
        av.open(str(path)) as read,
        av.open(str(target), "w", format="mpegts" if path.suffix == ".ts" else None, options=options) as written,
    ):
        stream = read.streams.video[0]
        copy = written.add_stream_from_template(stream)
        start = stream.start_time or 0
        for packet in read.demux(stream):
            if packet.size:
                shift = round(shift_s(float((packet.pts - start) * stream.time_base)) / stream.time_base)
                packet.pts = packet.pts + shift
                packet.dts = None if packet.dts is None else packet.dts + shift
                packet.stream = copy
                written.mux(packet)
    return target


def silence(container: Any, stream: Any, seconds: float) -> None:
    """Writes sound that nobody hears, in one go."""
    formats = {"aac": ("fltp", np.float32), "mp2": ("s16", np.int16), "pcm_s16le": ("s16", np.int16)}
    name, kind = formats[stream.codec_context.name]
    samples = np.zeros((1, int(seconds * stream.rate)), kind)
    frame = av.AudioFrame.from_ndarray(samples, format=name, layout="mono")
    frame.rate, frame.pts = stream.rate, 0
    container.mux(stream.encode(frame))
    container.mux(stream.encode(None))


def with_cover(path: Path, seconds: float) -> Path:
    """Sound with cover art, and a film unless it has no length, as an mp4 whose cover is video stream 0."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        cover = pictures(container, "mjpeg")
        cover.disposition = Disposition.attached_pic
        sound = container.add_stream("aac", rate=8000)
        if seconds:
            encode(container, "libx264", seconds, (64, 48), 12)
        silence(container, sound, seconds or 40)
        roll(container, [cover], 1 / 8)
    content = path.read_bytes()
    start = content.rindex(b"moov") - 4
    boxes = _boxes(content[start + 8 :])
    boxes.sort(key=lambda box: {b"mvhd": 0, b"udta": 1}.get(box[4:8], 2))
    path.write_bytes(content[: start + 8] + b"".join(boxes))
    return path


def _boxes(content: bytes) -> list[bytes]:
    boxes = []
    while content:
        size = int.from_bytes(content[:4])
        boxes.append(content[:size])
        content = content[size:]
    return boxes
