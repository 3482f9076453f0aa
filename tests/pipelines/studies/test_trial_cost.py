"""What a trial's process measures of itself."""

import numpy as np

from pipelines.studies import trial_cost


def test_the_peak_of_memory_is_in_gib() -> None:
    before = trial_cost.peak_memory_gib()
    block = np.ones(2**27, dtype=np.uint8)
    after = trial_cost.peak_memory_gib()
    assert 0.02 < before <= after and len(block) == 2**27 and after >= 0.125
