"""What the demo does beside the daily jobs."""

from dataclasses import dataclass, field

from models.larm.two_tower import TwoTowerConfig
from pipelines.retrieval.item_vectors import ItemVectorsConfig
from pipelines.retrieval.recall import RecallConfig
from pipelines.retrieval.towers_plan import TowersConfig
from pipelines.runtime.scaling import TrainScaling
from pipelines.semantics.codes import CodesConfig
from pipelines.world.config import WorldConfig
from pipelines.world.live.config import LiveConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class LiveDemoConfig:
    """The live part: a small world whose screens move, in a store of its own below run_dir."""

    world: WorldConfig = field(
        default_factory=lambda: WorldConfig(
            laws="platform",
            live=LiveConfig(max_segments=32),
            num_days=3,
            num_authors=100,
            on_air_share=0.8,
            num_users=300,
            personal_taste=0.8,
            impressions_per_day=24_000,
            recorded_segments=0,
        )
    )
    """Its platform; a newest day that nothing learns, and days before it."""
    codes: CodesConfig = field(default_factory=lambda: CodesConfig(clusters=(32, 16, 8)))
    """Segments as codes."""
    towers: TowersConfig = field(
        default_factory=lambda: TowersConfig(
            model=TwoTowerConfig(dim=32), scaling=TrainScaling(num_workers=1), batch_size=128, epochs=4
        )
    )
    """The retrieval model, which is trained by ids alone, too."""
    item_vectors: ItemVectorsConfig = field(default_factory=ItemVectorsConfig)
    """Segments as vectors of the retrieval model."""
    recall: RecallConfig = field(default_factory=lambda: RecallConfig(ks=(1, 3, 10)))
    """What is measured of it."""
    later_s: float = 120.0
    """Seconds between two questions to the endpoint, in which screens move."""
    found: int = 8
    """Lives that are shown of its answers."""

    def __post_init__(self) -> None:
        if self.world.live is None or self.world.recorded_segments:
            raise ValueError("live.world: wanted a live world of which all segments are recorded; see docs/world.md")
        if self.later_s <= 0 or self.found < 1:
            raise ValueError(f"wanted later_s > 0 and found >= 1, got {self.later_s} and {self.found}")


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
    live: LiveDemoConfig | None = field(default_factory=LiveDemoConfig)
    """The live part; null leaves it out."""

    def __post_init__(self) -> None:
        if self.swapped_frames < 0 or self.swapped_frames == 1:
            raise ValueError(
                f"swapped_frames: wanted 0, or at least 2 authors to swap frames among, got {self.swapped_frames}"
            )
