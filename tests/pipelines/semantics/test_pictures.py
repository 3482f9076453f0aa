"""Frames of any format and size: bounded, brought to what a model reads, or refused with an error."""

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipelines.semantics import pictures
from pipelines.semantics.image_sizes import MARKS, ImageSizes
from pipelines.semantics.keyframes import select

IMAGES = ImageSizes(block=28, min_pixels=3136, max_pixels=12845056)


def picture(width: int = 300, height: int = 200, mode: str = "RGB") -> Image.Image:
    ramp = np.linspace(0, 255, width * height * 3).reshape(height, width, 3).astype(np.uint8)
    return Image.fromarray(ramp).convert(mode)


def encoded(image: Image.Image, kind: str = "JPEG", **options: Any) -> bytes:
    sink = io.BytesIO()
    image.save(sink, kind, **options)
    return sink.getvalue()


def transparent_palette() -> bytes:
    return encoded(picture().quantize(8), "PNG", transparency=bytes([0, 128, 255]))


@pytest.mark.parametrize(
    "data",
    [
        encoded(picture()),
        encoded(picture(), progressive=True),
        encoded(picture(mode="L")),
        encoded(picture(mode="CMYK")),
        encoded(picture(), "PNG"),
        encoded(picture(mode="RGBA"), "PNG"),
        encoded(picture(mode="LA"), "PNG"),
        encoded(picture(mode="1"), "PNG"),
        transparent_palette(),
        encoded(Image.fromarray(np.zeros((60, 80), np.uint16)), "PNG"),
        encoded(picture(), "WEBP"),
        encoded(picture(), "GIF"),
        encoded(picture(), "BMP"),
        encoded(picture(1, 1)),
        encoded(picture(2000, 11)),
    ],
)
@pytest.mark.parametrize("tokens", [4, 256])
def test_every_usual_format_is_read(data: bytes, tokens: int):
    frame = {"offset_ms": 0, "jpeg": data}
    chosen, bad = select([{"live_id": 1, "segment": 0, "frames": [frame], "likes": 0, "gifts": 0, "comments": []}], 1)
    assert len(chosen) == 1 and bad == []
    pixels = pictures.decoded(pictures.fitted(data, IMAGES, tokens))
    assert pixels.mode == "RGB"
    assert IMAGES.tokens(*pixels.size) <= max(tokens, 200) + MARKS  # a strip costs its length


def test_a_frame_that_fits_keeps_its_bytes():
    data = encoded(picture(448, 252))
    assert pictures.fitted(data, IMAGES, 256) is data


def test_a_large_frame_is_brought_to_a_size_that_the_processor_leaves():
    data = encoded(picture(1280, 720))
    pixels = pictures.decoded(pictures.fitted(data, IMAGES, 256))
    assert pixels.size == IMAGES.read_at(1280, 720, 256) == IMAGES.read_at(*pixels.size)
    wanted = picture(1280, 720).resize(pixels.size, Image.Resampling.BICUBIC)
    assert np.abs(np.asarray(pixels, int) - np.asarray(wanted, int)).mean() < 12


def test_a_frame_that_lies_on_its_side_stands_up():
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    data = encoded(picture(1280, 640), exif=exif)
    small = pictures.decoded(pictures.fitted(data, IMAGES, 64))
    assert small.height > small.width
    upright = encoded(picture(280, 140), exif=exif)
    assert pictures.decoded(pictures.fitted(upright, IMAGES, 256)).size == (140, 280)


def test_what_is_transparent_stands_on_white():
    clear = Image.new("RGBA", (30, 30), (0, 0, 0, 0))
    assert pictures.decoded(encoded(clear, "PNG")).getpixel((5, 5)) == (255, 255, 255)


def test_a_jpeg_of_169_million_pixels_is_never_held_at_its_size():
    data = encoded(Image.new("L", (13000, 13000), 70))
    assert pictures.opened(data, (448, 448)).size == (1625, 1625)
    assert pictures.decoded(pictures.fitted(data, IMAGES, 256)).size == (448, 448)


def huge_png() -> bytes:
    return encoded(Image.new("1", (8000, 8000)), "PNG")


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (huge_png(), "8000 x 8000 pixels of PNG: wanted at most 40,000,000"),
        (encoded(Image.new("L", (1, 20000)), "PNG"), "1 x 20000 pixels"),
        (encoded(picture())[:300], "(?i)truncated"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n", "cannot identify"),
        (b"", "cannot identify"),
    ],
)
def test_what_cannot_be_read_is_a_bad_frame_with_its_reason(data: bytes, said: str):
    frame = {"offset_ms": 7, "jpeg": data}
    chosen, bad = select([{"live_id": 1, "segment": 3, "frames": [frame], "likes": 0, "gifts": 0, "comments": []}], 1)
    assert chosen == [] and len(bad) == 1
    with pytest.raises((OSError, ValueError), match=said):
        pictures.grey(data, 8)
    assert bad[0].startswith("live 1 segment 3 frame 0 at 7 ms: ")
