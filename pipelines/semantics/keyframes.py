"""Which frames of an author's day the model sees: spread over the day, liked by viewers, unlike each other.

SARM 3.1.2 samples about 20 keyframes per stream by content diversity and user feedback.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines.semantics import pictures

THUMBNAIL = 8


@dataclass(frozen=True, kw_only=True)
class Keyframe:
    """A chosen frame and the segment it belongs to (index into the list given)."""

    segment: int
    offset_ms: int
    jpeg: bytes


def thumbnail(jpeg: bytes) -> NDArray[np.float32]:
    """A frame as THUMBNAIL x THUMBNAIL grey values in 0..1, flattened. Raises OSError if it cannot be decoded."""
    return np.asarray(pictures.grey(jpeg, THUMBNAIL), np.float32).ravel() / np.float32(255)


def select(segments: Sequence[Mapping[str, Any]], count: int) -> tuple[list[Keyframe], list[str]]:
    """At most `count` keyframes in time order, and a message for each frame that could not be decoded.

    Segments get equal shares first (the most engaging ones where there are more segments than frames); within and
    across segments the next frame is the one farthest from all chosen so far.
    """
    bad: list[str] = []
    frames: list[tuple[int, Mapping[str, Any], NDArray[np.float32]]] = []
    for index, segment in enumerate(segments):
        for number, frame in enumerate(segment["frames"]):
            try:
                frames.append((index, frame, thumbnail(frame["jpeg"])))
            except Exception as error:  # decoders raise whatever broken bytes lead them to
                where = f"live {segment['live_id']} segment {segment['segment']} frame {number}"
                bad.append(f"{where} at {frame['offset_ms']} ms: {error}")
    engagement = [1.0 + s["likes"] + 10.0 * s["gifts"] + len(s["comments"]) for s in segments]
    chosen: list[int] = []
    used = [0] * len(segments)
    while len(chosen) < min(count, len(frames)):
        left = [i for i in range(len(frames)) if i not in chosen]
        fewest = min(used[frames[i][0]] for i in left)
        pool = [i for i in left if used[frames[i][0]] == fewest]
        best = max(
            pool, key=lambda i: (_novelty(frames[i][2], [frames[c][2] for c in chosen]), engagement[frames[i][0]])
        )
        chosen.append(best)
        used[frames[best][0]] += 1
    keyframes = [
        Keyframe(segment=frames[i][0], offset_ms=frames[i][1]["offset_ms"], jpeg=frames[i][1]["jpeg"])
        for i in sorted(chosen)
    ]
    return keyframes, bad


def _novelty(thumb: NDArray[np.float32], chosen: Sequence[NDArray[np.float32]]) -> float:
    """Distance to the nearest chosen frame, in steps of 0.05 so that near ties go to engagement."""
    if not chosen:
        return 0.0
    return round(min(float(np.abs(thumb - other).mean()) for other in chosen) / 0.05)
