"""Workers of Ray Train."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainScaling:
    """Ray Train's ScalingConfig, by its own names."""

    num_workers: int = 2
    """Workers of data-parallel training."""
    use_gpu: bool = False
    """One GPU a worker."""
    cpus_per_worker: int = 1
    """CPUs reserved per worker, and its compute threads where it has no GPU."""
