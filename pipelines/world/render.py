"""Frames of the simulated platform. Scene and format exist only here, in the pixels.

A scene is a palette and a texture of the background; a format is the layout of what stands in front of it.
"""

import io
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipelines.world.lexicon import FORMATS, SCENES

Pixels = NDArray[np.float32]

# Two background colours per scene (RGB) and the texture that mixes them.
_PALETTES: tuple[tuple[tuple[int, int, int], tuple[int, int, int], str], ...] = (
    ((235, 225, 205), (190, 150, 110), "tiles"),
    ((150, 110, 90), (205, 180, 160), "stripes"),
    ((60, 30, 120), (220, 60, 200), "gradient"),
    ((90, 95, 100), (200, 60, 50), "bars"),
    ((20, 25, 35), (70, 160, 220), "grid"),
    ((30, 20, 40), (250, 180, 60), "lights"),
    ((120, 190, 225), (50, 110, 80), "horizon"),
    ((120, 85, 50), (70, 60, 55), "planks"),
    ((40, 90, 65), (230, 230, 225), "board"),
    ((170, 200, 90), (110, 80, 40), "furrows"),
    ((15, 10, 25), (240, 240, 120), "beams"),
    ((45, 50, 60), (150, 170, 190), "window"),
)


def _texture(kind: str, size: int, shift: int) -> Pixels:
    """Mixing weight in 0..1 per pixel, [size, size]; `shift` moves it so that no two lives look the same."""
    y, x = np.mgrid[0:size, 0:size].astype(np.float32) * (64 / size)
    x, y = x + shift, y + shift // 2
    weights: dict[str, NDArray[Any]] = {
        "tiles": ((x // 8 + y // 8) % 2),
        "stripes": (x // 6) % 2,
        "gradient": (y % 64) / 63,
        "bars": ((x % 16) < 3),
        "grid": ((x % 12 < 2) | (y % 12 < 2)),
        "lights": ((x % 13 < 4) & (y % 11 < 4)),
        "horizon": ((y - shift // 2) > 38),
        "planks": (y // 9) % 2,
        "board": (((x - shift) > 10) & ((x - shift) < 54) & ((y - shift // 2) > 6) & ((y - shift // 2) < 34)),
        "furrows": ((x + y) // 5) % 2,
        "beams": (np.abs(((x - y) % 32) - 16) < 4),
        "window": (((x - shift) > 20) & ((y - shift // 2) < 30)),
    }
    return weights[kind].astype(np.float32)


@cache
def _background(scene: int, shift: int, size: int) -> Pixels:
    """The scene alone, [size, size, 3]."""
    first, second, kind = _PALETTES[scene]
    weight = _texture(kind, size, shift)[..., None]
    return np.asarray(first, np.float32) * (1 - weight) + np.asarray(second, np.float32) * weight


@cache
def _noise(size: int) -> Pixels:
    """64 sheets of sensor noise, [64, size, size, 3]; drawing fresh noise for each frame would double the cost."""
    return np.random.default_rng(0).normal(0, 6, (64, size, size, 3)).astype(np.float32)


def _box(image: Pixels, box: tuple[float, float, float, float], colour: tuple[int, int, int]) -> None:
    """Fills a box given in 64ths of the frame: x0, y0, x1, y1."""
    scale = image.shape[0] / 64
    x0, y0, x1, y1 = (round(v * scale) for v in box)
    image[max(y0, 0) : y1, max(x0, 0) : x1] = colour


def _person(image: Pixels, x: float, y: float, shirt: tuple[int, int, int]) -> None:
    _box(image, (x - 5, y - 6, x + 5, y + 5), (235, 190, 160))
    _box(image, (x - 9, y + 5, x + 9, y + 26), shirt)


def _layout(image: Pixels, format_id: int, dx: float, shirt: tuple[int, int, int]) -> None:
    name = FORMATS[format_id]
    if name == "single host":
        _person(image, 32 + dx, 32, shirt)
    elif name == "two host duet":
        _box(image, (31, 0, 33, 64), (255, 255, 255))
        _person(image, 16 + dx / 2, 32, shirt)
        _person(image, 48 + dx / 2, 32, (shirt[2], shirt[0], shirt[1]))
    elif name == "outdoor walk":
        _box(image, (0, 0, 64, 10), (140, 205, 250))
        _box(image, (46 + dx, 2, 54 + dx, 9), (255, 240, 90))
        _person(image, 20 + dx, 42, shirt)
    elif name == "screen capture":
        _box(image, (0, 54, 64, 64), (10, 10, 10))
        _box(image, (0, 0, 18, 5), (240, 40, 40))
        _box(image, (46, 36, 62, 52), (235, 190, 160))
    elif name == "product table":
        _box(image, (0, 44, 64, 64), (245, 245, 245))
        for slot in range(4):
            _box(image, (4 + 15 * slot + dx / 3, 34, 14 + 15 * slot + dx / 3, 50), shirt)
    # "unattended camera" shows the scene alone


def render(scene: int, format_id: int, rng: np.random.Generator, size: int = 64) -> NDArray[np.uint8]:
    """One frame, [size, size, 3] uint8. Raises IndexError for an unknown scene or format."""
    image = _background(scene, int(rng.integers(0, 12)), size).copy()
    shirt = tuple(int(v) for v in rng.integers(40, 220, size=3))
    _layout(image, format_id, float(rng.uniform(-6, 6)), (shirt[0], shirt[1], shirt[2]))
    image *= np.float32(rng.uniform(0.85, 1.15))
    image += _noise(size)[int(rng.integers(64))]
    return np.clip(image, 0, 255).astype(np.uint8)


def jpeg(pixels: NDArray[np.uint8], quality: int = 85) -> bytes:
    """JPEG bytes of a frame."""
    sink = io.BytesIO()
    Image.fromarray(pixels).save(sink, "JPEG", quality=quality)
    return sink.getvalue()


assert len(_PALETTES) == len(SCENES)
