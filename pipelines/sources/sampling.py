"""Which pictures of a video are kept, and how large."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """Cuts a video into segments and picks the pictures of each."""

    segment_s: int = 30
    """Length of a segment, seconds. The last one of a video may be shorter."""
    frames_per_segment: int = 4
    """Pictures of a segment, evenly spread; a segment with fewer distinct pictures gives those it has."""
    frame_max_side: int = 448
    """Longer side of a kept picture, pixels; smaller ones are kept as they are."""
    jpeg_quality: int = 85
    """JPEG quality, 1 to 95."""

    def __post_init__(self) -> None:
        for name in ("segment_s", "frames_per_segment", "frame_max_side"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: wanted at least 1, got {getattr(self, name)}")
        if not 1 <= self.jpeg_quality <= 95:
            raise ValueError(f"jpeg_quality: wanted 1 to 95, got {self.jpeg_quality}")

    def offsets_s(self, length_s: float) -> list[float]:
        """Seconds into a segment of `length_s`: the middles of equal parts."""
        count = self.frames_per_segment
        return [(part + 0.5) * length_s / count for part in range(count)]
