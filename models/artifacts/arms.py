"""Arms: banks that answer beside the one of CURRENT, each a share of the users or whoever names it; an A/B test.

`artifacts/bank/ARMS` holds all of them and moves in one step, as CURRENT does. A bank decides its model, so an arm may
be another ranker, other weights, or an older day.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field

from models.artifacts.manifest import ArtifactError
from models.artifacts.store import ArtifactStore

KIND, POINTER = "bank", "ARMS"
MAIN = "current"
"""What the arm of CURRENT is called."""
_NAME = re.compile(r"[a-z][a-z0-9_-]{0,31}")
_FORMAT = 1
_MOST = 8


@dataclass(frozen=True, kw_only=True, slots=True)
class Arm:
    """A bank that answers beside the one of CURRENT."""

    bank: str
    """Its run id."""
    share: float = 0.0
    """Of the users whom it answers, 0 to 1; with 0 it answers who names it. Of requests, where it is a shadow."""
    shadow: bool = False
    """Whether it only scores what another arm answers, so that the two can be compared."""

    def __post_init__(self) -> None:
        if not 0.0 <= self.share <= 1.0:
            raise ValueError(f"share: wanted 0 to 1, got {self.share}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Arms:
    """All arms but that of CURRENT."""

    by_name: Mapping[str, Arm] = field(default_factory=dict)
    salt: str = ""
    """Another one draws other users into the same shares."""

    def __post_init__(self) -> None:
        names = list(self.by_name)
        if wrong := [name for name in names if not _NAME.fullmatch(name) or name == MAIN]:
            raise ValueError(f"wanted names of small letters, digits, - and _, and not {MAIN}, got {', '.join(wrong)}")
        if len(names) > _MOST:
            raise ValueError(f"wanted at most {_MOST} arms, got {len(names)}: every replica holds the bank of each")
        if (total := sum(arm.share for arm in self.by_name.values() if not arm.shadow)) > 1.0 + 1e-9:
            raise ValueError(f"wanted shares that add up to 1 at most, got {total:g}")

    def of_user(self, user_id: int) -> str:
        """The arm that answers a user: always the same one, as long as shares and salt stay.

        An arm whose share grows keeps those whom it had, where it is the first by name.
        """
        place, end = _place(self.salt, user_id), 0.0
        for name in sorted(self.by_name):
            arm = self.by_name[name]
            if arm.shadow:
                continue
            end += arm.share
            if place < end:
                return name
        return MAIN


def _place(salt: str, user_id: int) -> float:
    """Where a user stands between 0 and 1."""
    digest = hashlib.sha256(f"{salt}:{user_id}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def read(store: ArtifactStore) -> Arms:
    """The arms of a store, none where there is no pointer. Raises ArtifactError for a damaged one."""
    content = store.read_pointer(KIND, POINTER)
    if content is None:
        return Arms()
    try:
        head = json.loads(content)
        if head["format"] != _FORMAT:
            raise ValueError(f"wanted format {_FORMAT}, got {head['format']}")
        arms = {str(name): Arm(**arm) for name, arm in head["arms"].items()}
        return Arms(by_name=arms, salt=str(head["salt"]))
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ArtifactError(f"{KIND}/{POINTER} is damaged ({error!r}); run the job split again") from error


def write(store: ArtifactStore, arms: Arms) -> None:
    """Puts all arms in the place of those that there were, in one step."""
    head = {"format": _FORMAT, "salt": arms.salt, "arms": {name: asdict(arm) for name, arm in arms.by_name.items()}}
    store.put_pointer(KIND, POINTER, json.dumps(head, indent=1, sort_keys=True).encode())
