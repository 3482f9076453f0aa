"""Event files of a run, read as TensorBoard reads them."""

from pathlib import Path

Curve = list[tuple[int, float]]
"""(step, value) in the order of the files."""


def curves(folder: Path) -> dict[str, Curve]:
    """By name of the figure."""
    from tensorboard.backend.event_processing.event_accumulator import SCALARS, TENSORS, EventAccumulator

    # TensorBoard itself shows a sample of the points; 0 is all of them.
    events = EventAccumulator(str(folder), {SCALARS: 0, TENSORS: 0}).Reload()
    return {name: [(event.step, event.value) for event in events.Scalars(name)] for name in events.Tags()["scalars"]}
