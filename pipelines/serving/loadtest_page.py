"""The page of a load test: requests of every second, and how long their answers took."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.ticker import NullFormatter, StrMethodFormatter

from pipelines.pages import page
from pipelines.pages.drawing import SERIES, STYLE, panels, svg
from pipelines.serving.offered import FAILED, OK, SHED, Recorded

_TEMPLATE = Path(__file__).parent / "loadtest.html.jinja"
_COLOURS = {OK: SERIES["ranker"], SHED: SERIES["control"], FAILED: SERIES["base"]}
_MOST_POINTS = 300


def page_of(url: str, recorded: Sequence[Recorded], rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Writes the page of a test whose steps came one after another."""
    figures = {"rates": _rates(recorded), "latencies": _latencies(recorded)}
    page.write(page.render(_TEMPLATE, {"url": url, "rows": rows}, figures), path)


def _binned(recorded: Sequence[Recorded]) -> tuple[float, list[tuple[float, Recorded, np.ndarray[Any, Any]]]]:
    """Width of a bin in seconds, and for each bin: where it begins, its step, and which requests were due in it."""
    width = max(1.0, float(np.ceil(sum(step.step.seconds for step in recorded) / _MOST_POINTS)))
    bins, begins = [], 0.0
    for step in recorded:
        due = np.array(step.due_s)
        for start in np.arange(0.0, step.step.seconds - width / 2, width).tolist():
            bins.append((begins + start, step, (due >= start) & (due < start + width)))
        begins += step.step.seconds
    return width, bins


def _rates(recorded: Sequence[Recorded]) -> str:
    width, bins = _binned(recorded)
    with rc_context(STYLE):
        figure, (axis,) = panels(1, 2.4)
        times = [start for start, _, _ in bins]
        for what, colour in _COLOURS.items():
            counts = [int((step.became(what) & due).sum()) / width for _, step, due in bins]
            axis.plot(times, counts, color=colour, label=what, lw=1.6)
        _finish(axis, "Requests a second, by when they were due")
        return svg(figure, "rates", "Requests a second that were answered, shed and failed")


def _latencies(recorded: Sequence[Recorded]) -> str:
    _, bins = _binned(recorded)
    with rc_context(STYLE):
        figure, (axis,) = panels(1, 2.4)
        for share, colour in ((50, SERIES["ranker"]), (99, SERIES["base"])):
            points = [(start, _percentile(step, due, share)) for start, step, due in bins]
            axis.plot([x for x, _ in points], [y for _, y in points], color=colour, label=f"p{share}", lw=1.6)
        axis.set_yscale("log")
        axis.yaxis.set_major_formatter(StrMethodFormatter("{x:,g}"))
        axis.yaxis.set_minor_formatter(NullFormatter())
        _finish(axis, "Milliseconds until the answer, of those answered 200")
        return svg(figure, "latencies", "Latency p50 and p99 over time")


def _percentile(step: Recorded, due: np.ndarray[Any, Any], share: int) -> float:
    chosen = np.array(step.latency_ms)[due & step.became(OK)]
    return float(np.percentile(chosen, share)) if len(chosen) else float("nan")


def _finish(axis: Any, title: str) -> None:
    axis.set_title(title)
    axis.set_xlabel("seconds")
    axis.grid(axis="y")
    axis.legend(loc="upper left")
