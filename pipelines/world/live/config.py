"""The section `world.live`."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class LiveConfig:
    """How what is on screen moves (docs/world.md). All segments of a live are recorded."""

    live_taste: bool = True
    """False: nothing on screen matters to anyone, as a negative control; tastes for single authors remain."""
    next_act: float = 0.75
    """Chance that the next act of the cycle follows; else a live jumps to another one."""
    max_segments: int = 60
    """Longest live, in segments; the shortest has half of it."""

    def __post_init__(self) -> None:
        if not 0 <= self.next_act <= 1:
            raise ValueError(f"next_act: wanted a chance in 0..1, got {self.next_act}")
        if self.max_segments < 16:
            raise ValueError(f"max_segments: wanted at least 16, got {self.max_segments}")
