"""How many tokens a Qwen-VL makes of a picture, and the size that it is read at.

A picture is read in blocks of `block` x `block` pixels, one token each, after it was brought to a whole number of them
and to a number of pixels between two bounds, all of which the checkpoint's processor sets.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

MAX_ASPECT = 200
"""Processors refuse pictures whose sides differ by more."""
MARKS = 2
"""Tokens before and behind a picture."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageSizes:
    """What a processor's settings say."""

    block: int
    """Side of the square that becomes one token, pixels: patch size x merge size."""
    min_pixels: int
    """Smaller pictures are made larger."""
    max_pixels: int
    """Larger pictures are made smaller."""

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> "ImageSizes":
        """From an image processor's settings, in their present form (`size`) or the older one (`max_pixels`)."""
        size = {"shortest_edge": 56 * 56, "longest_edge": 28 * 28 * 1280} | (settings.get("size") or {})
        return cls(
            block=settings.get("patch_size", 14) * settings.get("merge_size", 2),
            min_pixels=settings.get("min_pixels") or size.get("min_pixels") or size["shortest_edge"],
            max_pixels=settings.get("max_pixels") or size.get("max_pixels") or size["longest_edge"],
        )

    @property
    def fewest_tokens(self) -> int:
        """Of the smallest picture."""
        return max(1, math.ceil(self.min_pixels / self.block**2))

    @property
    def most_tokens(self) -> int:
        """Of the largest picture."""
        return max(1, self.max_pixels // self.block**2)

    def read_at(self, width: int, height: int, tokens: int | None = None) -> tuple[int, int]:
        """Width and height at which a picture is read that may cost at most `tokens`. Raises ValueError for a strip.

        As transformers' `smart_resize`: that it changes nothing at a size which came from here is what we rely on.
        """
        if max(width, height) > MAX_ASPECT * min(width, height):
            raise ValueError(f"{width} x {height} pixels: wanted sides that differ by a factor of at most {MAX_ASPECT}")
        most = self.max_pixels if tokens is None else min(self.max_pixels, tokens * self.block**2)
        sides = [round(side / self.block) * self.block for side in (width, height)]
        if sides[0] * sides[1] > most:
            scale = math.sqrt(width * height / most)
            sides = [max(self.block, int(side / scale / self.block) * self.block) for side in (width, height)]
            if tokens is not None and sides[0] * sides[1] > most:  # a strip, of which one side is one block
                sides = [min(side, most // self.block) for side in sides]
        elif sides[0] * sides[1] < self.min_pixels:
            scale = math.sqrt(self.min_pixels / (width * height))
            sides = [math.ceil(side * scale / self.block) * self.block for side in (width, height)]
        return sides[0], sides[1]

    def tokens(self, width: int, height: int, most: int | None = None) -> int:
        """What a picture costs, with the marks around it."""
        read = self.read_at(width, height, most)
        return read[0] * read[1] // self.block**2 + MARKS
