"""Sizes and laws of the simulated platform."""

from dataclasses import dataclass
from datetime import date

from pipelines.world.live.config import LiveConfig

LAWS = ("sessions", "platform")
PLATFORM_ONLY = ("laws", "new_user_share", "taste_drift", "live")
"""Keys that say nothing in a world of the laws `sessions`."""
_SHARES = (
    "new_author_share",
    "new_user_share",
    "on_air_share",
    "taste_drift",
    "profile_noise",
    "category_error",
    "category_missing",
)


@dataclass(frozen=True, kw_only=True, slots=True)
class WorldConfig:
    """Every size of the world. Memory grows with authors and users (about 3 kB each), not with frames or days."""

    laws: str = "sessions"
    """How the platform works: `sessions` (phrases liked one by one, no memory) or `platform` (docs/world.md)."""
    live: LiveConfig | None = None
    """What is on screen moves from act to act and decides what viewers do; only with the laws `platform`."""
    first_day: date = date(2026, 1, 1)
    """First simulated day."""
    num_days: int = 6
    """Days simulated."""
    warmup_days: int = 0
    """First days on which lives are recorded but nobody is watched yet, so that authors have anchors when it begins."""
    num_authors: int = 2000
    """Authors on the first day."""
    new_author_share: float = 0.02
    """Authors who join on each later day, as a share of `num_authors`."""
    on_air_share: float = 0.35
    """Share of authors who are on air on a day."""
    num_users: int = 3000
    """Users on the first day."""
    new_user_share: float = 0.02
    """Users who join on each later day, as a share of `num_users`; only with the laws `platform`."""
    impressions_per_day: int = 50_000
    """Exposures per day, before rounding to whole sessions."""
    session_length: int = 10
    """Exposures in a session."""
    num_groups: int = 16
    """Groups of users with shared tastes."""
    semantic_taste: bool = True
    """False switches every taste for content off, as a negative control; tastes for single authors remain."""
    group_taste: float = 1.0
    """Scale of the groups' shared taste for content."""
    personal_taste: float = 0.3
    """Scale of a user's own deviation from the group's taste."""
    taste_drift: float = 0.2
    """How far that deviation moves in a day, in its standard deviations; only with the laws `platform`."""
    author_taste: float = 0.5
    """Scale of a user's taste for single authors."""
    profile_noise: float = 0.03
    """Chance that a profile field says nothing about the user's group."""
    category_error: float = 0.15
    """Share of authors whose coarse category is wrong."""
    category_missing: float = 0.10
    """Share of authors whose coarse category is missing."""
    num_points: int = 300
    """Points of interest in the lexicon."""
    lexicon_seed: int = 7
    """Seed of the lexicon, apart from the world's, so that worlds share one language."""
    recorded_segments: int = 6
    """Segments of a live that are kept in `segments`, evenly spread; 0 keeps all."""
    frames_per_segment: int = 1
    """Frames kept of a recorded segment."""
    frame_size: int = 64
    """Side of a frame, pixels."""
    impressions: bool = True
    """False writes authors, segments and the true anchors only, as for a corpus to distil from."""
    teacher: bool = False
    """True also writes the true anchors as `anchors`, in place of a large teacher model, for distillation."""

    @property
    def content_matters(self) -> bool:
        """Whether anybody likes any content."""
        return self.semantic_taste and (self.live is None or self.live.live_taste)

    def __post_init__(self) -> None:
        if self.laws not in LAWS:
            raise ValueError(f"world.laws: wanted one of {', '.join(LAWS)}, got {self.laws}")
        for name in ("num_days", "num_authors", "num_users", "impressions_per_day", "session_length", "num_points"):
            if getattr(self, name) < 1:
                raise ValueError(f"world.{name}: wanted at least 1, got {getattr(self, name)}")
        for name in _SHARES:
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"world.{name}: wanted a share in 0..1, got {getattr(self, name)}")
        if self.live is not None and self.laws != "platform":
            raise ValueError(f"world.live: wanted the laws platform, got {self.laws}; set world.laws: platform")
        if self.live is not None and self.recorded_segments:
            raise ValueError(
                f"world.live: wanted all segments recorded, got {self.recorded_segments}; "
                "set world.recorded_segments: 0"
            )
        if not 0 <= self.warmup_days < self.num_days:
            raise ValueError(f"world.warmup_days: wanted 0 or more and fewer than num_days, got {self.warmup_days}")
        if self.num_points < 36:
            raise ValueError(f"world.num_points: wanted at least 36 (3 a category), got {self.num_points}")
