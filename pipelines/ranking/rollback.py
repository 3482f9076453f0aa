"""Roll back: the bank's CURRENT moves to an older version, which is verified before and not touched.

Reads and verifies that bank and its ranker, writes one pointer. Deployments follow it as they follow a new bank; the
next `publish` moves CURRENT on again.
Run: python -m pipelines rollback --config my.yaml --set rollback.version=RUN_ID
"""

import logging
from dataclasses import dataclass
from typing import Any

from models.artifacts import bank, probe
from models.artifacts.manifest import ArtifactError
from pipelines.ranking import published
from pipelines.ranking.publish import KIND
from pipelines.runtime.run import Run
from pipelines.tables.artifacts import Artifacts

log = logging.getLogger(__name__)
_WAIT_S = 600.0
"""For another job that is publishing a bank."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RollbackConfig:
    """Where the bank's CURRENT moves."""

    version: str | None = None
    """Run id of the bank to serve; null = the one that was published last before CURRENT."""


def run(config: RollbackConfig, run: Run) -> dict[str, Any]:
    """Verifies a bank and its ranker, and moves CURRENT there. Raises ArtifactError for one that cannot be served."""
    artifacts = Artifacts(run.storage)
    with artifacts.lease(KIND, _WAIT_S):
        current = artifacts.current(KIND)
        version = config.version or _before(artifacts, current)
        folder, manifest = artifacts.verified(KIND, version)
        bank.read(folder)
        probe.read(folder)
        ranker = published.load(artifacts, manifest.made_from["ranker"], manifest.made_from["model"])
        artifacts.roll_back(KIND, version)
    log.info("bank %s of %s %s is current, it was %s", version, ranker.name, ranker.manifest.run_id, current)
    return {"run_id": version, "how": "current" if version == current else "rolled back", "before": current}


def _before(artifacts: Artifacts, current: str | None) -> str:
    """The bank that was published last before CURRENT. Raises ArtifactError where there is none."""
    versions = artifacts.versions(KIND)
    older = versions[: versions.index(current)] if current in versions else []
    if not older:
        raise ArtifactError(
            f"rollback.version: wanted a bank that was published before CURRENT, {current}, got "
            f"{', '.join(versions) or 'none'}; name the version to serve, or publish one"
        )
    return older[-1]
