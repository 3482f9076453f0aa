"""What a job is told beside its own section: seed, folder, storage, cluster. Opened once, at the door."""

from dataclasses import dataclass
from pathlib import Path

from pipelines.runtime.cluster import ClusterConfig
from pipelines.tables.guard import Guard
from pipelines.tables.storage import Storage


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """One run of one job or chain."""

    seed: int
    """Fixes world, initialisation and order."""
    folder: Path
    """Local folder for reports, logs and the resolved config."""
    storage: Storage
    """Where tables and artifacts live."""
    cluster: ClusterConfig
    """How the job reaches Ray."""
    least_share: float = 0.5
    """See StorageConfig."""

    def guard(self, job: str, replace: bool) -> Guard:
        """What a job whose rows come from outside may replace."""
        return Guard(job=job, least_share=self.least_share, replace=replace)
