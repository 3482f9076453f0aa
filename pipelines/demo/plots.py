"""The figures of the demo's report: numbers in, inline SVG out."""

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from pipelines.pages.drawing import GRID, SERIES, STYLE, lying_bars, panels, svg
from pipelines.ranking.evaluate import ORACLE
from pipelines.ranking.variants import BASE, ranker_label

MEASURES = ("auc", "gauc")
_SHADES = ("#56B4E9", "#E69F00", "#009E73", "#F0E442", "#CC79A7", "#D55E00", "#8FA8FF", "#BBBBBB")
"""Okabe and Ito's lighter colours, for black numbers upon them."""

_MARKERS = {BASE: "s", "ranker": "o", ORACLE: "D"}


def labels(names: Iterable[str]) -> dict[str, str]:
    """What figures and tables call rankers and the oracle, in their order: Base first, the oracle last."""
    ordered = sorted(names, key=lambda name: (name == ORACLE, name != BASE, name))
    return {name: "Oracle" if name == ORACLE else ranker_label(name) for name in ordered}


def _role(name: str) -> str:
    return name if name in (BASE, ORACLE) else "ranker"


def training_curves(curves: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """Main loss of each ranker by step, and auxiliary losses; raw points faint, their running mean strong.

    `curves` holds {step, main_loss, aux_loss} entries by ranker.
    """
    named = labels(name for name, curve in curves.items() if curve)
    shown = {name: curves[name] for name in named}
    auxiliary = {name: curve for name, curve in shown.items() if any(_column(curve, "aux_loss"))}
    ends = [f"{named[name]} ends at {_smooth(_column(c, 'main_loss'))[-1]:.4f}" for name, c in shown.items()]
    alt = f"Training loss by step: {', '.join(ends)} (running mean)."
    with rc_context(STYLE):
        figure, axes = panels(2 if auxiliary else 1, 2.7)
        for name, curve in shown.items():
            _curve(axes[0], curve, "main_loss", _role(name), named[name])
        axes[0].set_title("Main loss (all tasks)")
        axes[0].legend(loc="upper right")
        if auxiliary:
            for name, curve in auxiliary.items():
                _curve(axes[1], curve, "aux_loss", _role(name), named[name])
            axes[1].set_title(f"Auxiliary click loss ({', '.join(named[name] for name in auxiliary)} only)")
        for axis in axes:
            axis.set_xlabel("step")
            axis.grid(axis="y")
        return svg(figure, "training", alt)


def quality_dots(
    name: str, subject: str, rows: Sequence[str], series: Mapping[str, Mapping[str, Sequence[float | None]]]
) -> str:
    """AUC and GAUC of each row, one mark per ranker: `series`[ranker][measure] holds one number per row.

    `name` makes the ids unique, `subject` opens the description. A number that is missing or nan leaves no mark.
    """
    named = labels(series)
    shown = list(named)
    alt = f"{subject}: AUC and GAUC of {', '.join(named.values())} for {', '.join(rows)}; numbers in the table."
    with rc_context(STYLE):
        figure, axes = panels(2, 1.2 + 0.36 * len(rows), sharey=True)
        heights = np.arange(len(rows))
        for axis, measure in zip(axes, MEASURES, strict=True):
            values = np.array([_floats(series[ranker][measure]) for ranker in shown])
            axis.plot(np.stack([_low(values), _high(values)]), np.stack([heights, heights]), color=GRID, lw=1.2)
            for ranker, line in zip(shown, values, strict=True):
                axis.plot(line, heights, ls="", marker=_MARKERS[_role(ranker)], ms=6.5, color=SERIES[_role(ranker)])
            axis.set_title(measure.upper())
            axis.grid(axis="x")
            axis.margins(x=0.08)
            axis.xaxis.set_major_locator(MaxNLocator(5))
            axis.tick_params(axis="y", length=0)
            axis.spines["left"].set_visible(False)
        axes[0].set_yticks(heights, rows)
        axes[0].set_ylim(len(rows) - 0.5, -0.5)
        marks = [
            axes[0].plot([], [], ls="", marker=_MARKERS[_role(v)], color=SERIES[_role(v)], label=named[v])[0]
            for v in shown
        ]
        figure.legend(handles=marks, loc="outside lower center", ncols=len(shown))
        return svg(figure, name, alt)


def gate_bars(layers: Mapping[str, float]) -> str:
    """Mean gate alpha of each fused layer, within 0 and 1."""
    names = sorted(layers, key=int)
    values = [layers[name] for name in names]
    alt = "Mean gate by layer: " + ", ".join(f"layer {n} {v:.2f}" for n, v in zip(names, values, strict=True)) + "."
    with rc_context(STYLE):
        figure, (axis,) = panels(1, 0.9 + 0.3 * len(names))
        bars = axis.barh([f"layer {name}" for name in names], values, color=SERIES["ranker"], height=0.6)
        axis.bar_label(bars, fmt="{:.3f}", padding=4)
        axis.set_xlim(0, 1)
        lying_bars(axis, "mean gate α over covered tokens")
        return svg(figure, "gates", alt)


def agreement_bars(
    right: Mapping[str, float], swapped: Mapping[str, float] | None, chance: Mapping[str, float] | None
) -> str:
    """Share of author-days whose field is exactly right: own frames, another author's frames, and chance as a line."""
    fields = list(right)
    alt = "Exact agreement with the truth by field: " + ", ".join(f"{f} {right[f]:.0%}" for f in fields)
    with rc_context(STYLE):
        figure, (axis,) = panels(1, 1.1 + (0.5 if swapped else 0.35) * len(fields))
        heights, thick = np.arange(len(fields)), 0.36 if swapped else 0.6
        top = heights - (thick / 2 if swapped else 0)
        bars = [axis.barh(top, [right[f] for f in fields], thick, color=SERIES["ranker"], label="own frames")]
        if swapped:
            alt += "; with another author's frames: " + ", ".join(f"{f} {swapped[f]:.0%}" for f in fields)
            low = [swapped[f] for f in fields]
            bars.append(axis.barh(top + thick, low, thick, color=SERIES["control"], label="another author's frames"))
        for group in bars:
            axis.bar_label(group, fmt="{:.0%}", padding=4, fontsize=8)
        for field, level in (chance or {}).items():
            if field in right:
                row = fields.index(field)
                axis.vlines(level, row - 0.45, row + 0.45, color=SERIES["base"], lw=2, label="chance")
        axis.set_yticks(heights, [f.replace("_", " ") for f in fields])
        axis.set_ylim(len(fields) - 0.4, -0.6)
        axis.set_xlim(0, 1.08)
        axis.set_xticks(np.linspace(0, 1, 6), [f"{v:.0%}" for v in np.linspace(0, 1, 6)])
        handles, labels = axis.get_legend_handles_labels()
        unique = dict(zip(labels, handles, strict=True))
        figure.legend(unique.values(), unique.keys(), loc="outside lower center", ncols=3)
        lying_bars(axis, "author-days with exactly the true phrases", inverted=False)
        return svg(figure, "agreement", alt + ".")


def codes_over_time(segments: Sequence[Mapping[str, Any]]) -> str:
    """One live, segment by segment: its true act, and its code of each level, one colour for each act and code."""
    rows = [[segment["act"] for segment in segments], *zip(*(segment["codes"] for segment in segments), strict=True)]
    names = ["true act", *(f"code, level {level}" for level in range(1, len(rows)))]
    numbers = [segment["segment"] for segment in segments]
    changes = int(sum(left != right for left, right in pairwise(rows[0])))
    alt = f"{len(segments)} segments of one live with {changes} changes of act, and {len(rows) - 1} levels of codes."
    with rc_context(STYLE):
        figure, (axis,) = panels(1, 0.9 + 0.34 * len(rows))
        for height, row in enumerate(rows):
            shades = {value: place for place, value in enumerate(dict.fromkeys(row))}
            for number, value in zip(numbers, row, strict=True):
                color = _SHADES[shades[value] % len(_SHADES)]
                axis.barh(height, 1.0, 0.82, left=number - 0.5, color=color, edgecolor="none")
            for first, value in _begins(numbers, row):
                axis.text(first - 0.35, height, str(value), va="center", fontsize=6.5, color="#101010")
        axis.set_yticks(range(len(rows)), names)
        axis.set_xlim(numbers[0] - 0.5, numbers[-1] + 0.5)
        axis.invert_yaxis()
        axis.set_xlabel("segment of 30 seconds")
        axis.tick_params(axis="y", length=0)
        axis.spines["left"].set_visible(False)
        return svg(figure, "codes", alt)


def _begins(numbers: Sequence[int], row: Sequence[int]) -> list[tuple[int, int]]:
    """Where a value begins that was not there in the segment before."""
    both = list(zip(numbers, row, strict=True))
    return both[:1] + [after for before, after in pairwise(both) if before[1] != after[1]]


def stage_bars(seconds: Mapping[str, float]) -> str:
    """Seconds of each stage, in the order given."""
    alt = "Seconds by stage: " + ", ".join(f"{stage} {value:.1f}" for stage, value in seconds.items()) + "."
    with rc_context(STYLE):
        figure, (axis,) = panels(1, 0.8 + 0.27 * len(seconds))
        bars = axis.barh(list(seconds), list(seconds.values()), color=SERIES["ranker"], height=0.62)
        axis.bar_label(bars, fmt="{:,.1f} s", padding=4, fontsize=8)
        axis.margins(x=0.12)
        lying_bars(axis, "seconds of wall clock")
        return svg(figure, "stages", alt)


def _curve(axis: Axes, curve: Sequence[Mapping[str, Any]], key: str, role: str, label: str) -> None:
    steps, values = _column(curve, "step"), _column(curve, key)
    axis.plot(steps, values, color=SERIES[role], alpha=0.25, lw=1)
    axis.plot(steps, _smooth(values), color=SERIES[role], lw=1.8, label=label)


def _column(curve: Sequence[Mapping[str, Any]], key: str) -> npt.NDArray[np.float64]:
    return np.array([entry[key] for entry in curve], dtype=np.float64)


def _smooth(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Mean over a centred window of a tenth of the points, cut off at both ends."""
    half, count = len(values) // 20, len(values)
    sums = np.concatenate([[0.0], np.cumsum(values)])
    first, last = np.maximum(np.arange(count) - half, 0), np.minimum(np.arange(count) + half + 1, count)
    return np.asarray((sums[last] - sums[first]) / (last - first))


def _floats(values: Sequence[float | None]) -> list[float]:
    return [math.nan if value is None else float(value) for value in values]


def _low(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Least of each column [R] of [V, R], nan ignored; nan where all are."""
    return np.where(np.isnan(values).all(axis=0), np.nan, np.where(np.isnan(values), np.inf, values).min(axis=0))


def _high(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return -_low(-values)
