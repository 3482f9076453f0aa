"""Split: which banks answer beside the one of CURRENT, for an A/B test, or only score what it answers.

Reads and verifies those banks and their rankers, writes one pointer, which replicas follow. Without arms the test ends.
Run: python -m pipelines split --config my.yaml --set 'split.arms={b: {bank: RUN_ID, share: 0.1}}'
     python -m pipelines split --config my.yaml --set 'split.arms={}'
"""

import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from models.artifacts import arms, bank, probe
from models.artifacts.arms import Arm, Arms
from pipelines.ranking.publish import KIND
from pipelines.runtime.run import Run
from pipelines.tables.artifacts import Artifacts

log = logging.getLogger(__name__)
_WAIT_S = 600.0
"""For another job that is publishing a bank."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SplitConfig:
    """All arms beside CURRENT: those that are not named end."""

    arms: Mapping[str, Arm] = field(default_factory=dict)
    """Name -> its bank, its share of the users (0 = who names it), and whether it only scores beside (shadow)."""
    salt: str = ""
    """Another one draws other users."""

    def __post_init__(self) -> None:
        Arms(by_name=self.arms, salt=self.salt)


def run(config: SplitConfig, run: Run) -> dict[str, Any]:
    """Verifies the bank of each arm, and moves the pointer. Raises ArtifactError for one that cannot be served."""
    artifacts = Artifacts(run.storage)
    with artifacts.lease(KIND, _WAIT_S):
        for arm in config.arms.values():
            folder, manifest = artifacts.verified(KIND, arm.bank)
            bank.read(folder)
            probe.read(folder)
            artifacts.verified(manifest.made_from["ranker"], manifest.made_from["model"])
        arms.write(artifacts, Arms(by_name=config.arms, salt=config.salt))
    said = ", ".join(f"{name}: {asdict(arm)}" for name, arm in config.arms.items())
    log.info("arms beside CURRENT: %s", said or "none")
    return {"arms": {name: asdict(arm) for name, arm in config.arms.items()}, "salt": config.salt}
