"""What the demo does beside the daily jobs."""

from dataclasses import dataclass, field

from pipelines.world.config import WorldConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class DemoConfig:
    """What the demo does beside the daily jobs."""

    keep: bool = False
    """Leave the endpoint up at the end, until Ctrl-C."""
    fresh: bool = True
    """Start from an empty run folder; False resumes what an earlier demo left."""
    distil_world: WorldConfig = field(
        default_factory=lambda: WorldConfig(
            num_days=1, num_authors=1500, on_air_share=1.0, impressions=False, teacher=True
        )
    )
    """The world whose author-days the student is taught from, with a seed of its own."""
    swapped_frames: int = 300
    """Authors of the newest day whose anchors are written a second time with another author's frames, as a control:
    what is read from pixels alone must then be wrong. 0 leaves the control out, and one start of the engine."""
    compared: int = 200
    """Impressions of the last day whose served scores are compared with offline ones."""
    load_seconds: float = 10.0
    """Length of the load test of /rank."""
    load_clients: int = 4
    """Clients of the load test."""
    load_candidates: int = 100
    """Candidates per request of the load test."""
    ranked_users: int = 4
    """Users whose ranking is shown."""
    cards: int = 6
    """Anchors shown beside their frames."""

    def __post_init__(self) -> None:
        if self.swapped_frames < 0 or self.swapped_frames == 1:
            raise ValueError(
                f"swapped_frames: wanted 0, or at least 2 authors to swap frames among, got {self.swapped_frames}"
            )
