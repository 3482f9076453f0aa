"""Jobs as the door starts them."""

from types import ModuleType
from typing import Any

from pipelines.settings import Settings


def run_job(job: ModuleType, settings: Settings) -> dict[str, Any]:
    """Runs the module of one job with its own section."""
    return job.run(getattr(settings, job.__name__.rpartition(".")[2]), settings.open())
