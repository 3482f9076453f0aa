"""The figures of a study's report: losses over training, and differences to the reference with their intervals."""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import numpy.typing as npt
from matplotlib import rc_context
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from pipelines.pages.drawing import INK, SERIES, STYLE, lying_bars, panels, svg

Floats = npt.NDArray[np.float64]
Interval = tuple[float | None, float | None, float | None]
"""A difference and the ends of its interval; None where there is none."""

_MORE = ("#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8C8C8C", "#7A5195", "#882255", "#44AA99")
"""Colours of variants without one in SERIES, in order."""
_LEGEND_CHARACTERS = 110
"""What a line of a legend may hold."""
_SETTLED = 0.1
"""Share of training before which a loss falls too far to be shown with the rest."""


def colours(variants: Sequence[str]) -> dict[str, str]:
    """One per variant, the same in all figures of a study."""
    others = [name for name in variants if name not in SERIES]
    return {name: SERIES[name] if name in SERIES else _MORE[others.index(name) % len(_MORE)] for name in variants}


def loss_curves(
    name: str, title: str, share: Floats, losses: Mapping[str, Floats], labels: Mapping[str, str], reference: str
) -> str:
    """A loss of every variant over the share of training [P], and its difference to the reference's.

    `losses` are [seeds, P]: lines are means over seeds, bands go from the least seed to the largest. Differences are
    within a seed, so that what its data have in common falls out.
    """
    ends = ", ".join(f"{labels[v]} {values[:, -1].mean():.4f}" for v, values in losses.items())
    alt = f"{title} over training, mean over seeds; at the end {ends}."
    colour = colours(list(losses))
    settled, faint = share >= _SETTLED, min(0.15, 0.6 / len(losses))
    with rc_context(STYLE):
        figure, axes = panels(2, 2.8 + _legend_height(labels, len(losses)))
        for variant, values in losses.items():
            _band(axes[0], share, values, labels[variant], color=colour[variant], alpha=faint)
            if variant != reference:
                difference = (values - losses[reference])[:, settled]
                _band(axes[1], share[settled], difference, None, color=colour[variant], alpha=faint)
        low, high = (pick([pick(values[:, settled]) for values in losses.values()]) for pick in (np.min, np.max))
        axes[0].set_ylim(low - 0.05 * (high - low), high + 0.05 * (high - low))
        axes[1].axhline(0.0, color=colour[reference], lw=1.4)
        axes[0].set_title(title[:1].upper() + title[1:])
        axes[1].set_title(f"Difference to {labels[reference]}")
        for axis in axes:
            axis.set_xlabel("share of training")
            axis.xaxis.set_major_formatter(PercentFormatter(1.0))
            axis.set_xlim(0.0, 1.0)
            axis.grid(axis="y")
        _legend(figure, *axes[0].get_legend_handles_labels())
        return svg(figure, name, alt)


def delta_bars(
    name: str,
    subject: str,
    groups: Sequence[str],
    series: Mapping[str, Mapping[str, Sequence[Interval]]],
    labels: Mapping[str, str],
    reference: str,
) -> str:
    """Differences to the reference in points: one bar per variant in each group, one panel per measure.

    `series`[variant][measure] holds one interval per group. What was not measured leaves no bar.
    """
    measures = list(next(iter(series.values())))
    colour = colours([reference, *series])
    alt = (
        f"{subject}: difference to {labels[reference]} of {', '.join(labels[v] for v in series)} for "
        f"{', '.join(groups)}, with 95 % intervals; numbers in the table."
    )
    thick = 0.8 / len(series)
    with rc_context(STYLE):
        height = 0.9 + len(groups) * max(0.42, 0.13 * len(series)) + _legend_height(labels, len(series))
        figure, axes = panels(len(measures), height, sharey=True)
        heights = np.arange(len(groups))
        for axis, measure in zip(axes, measures, strict=True):
            for order, (variant, by_measure) in enumerate(series.items()):
                y = heights + (order - (len(series) - 1) / 2) * thick
                delta, low, high = np.array(by_measure[measure], dtype=np.float64).T
                axis.barh(y, delta, 0.86 * thick, color=colour[variant], label=labels[variant])
                axis.errorbar(
                    delta, y, xerr=[delta - low, high - delta], fmt="none", ecolor=INK, elinewidth=0.9, capsize=2
                )
            axis.axvline(0.0, color=INK, lw=0.9)
            axis.set_title(measure.upper())
            lying_bars(axis, "points", inverted=False)
        axes[0].set_yticks(heights, groups)
        axes[0].set_ylim(len(groups) - 0.5, -0.5)
        _legend(figure, *axes[0].get_legend_handles_labels())
        return svg(figure, name, alt)


def _columns(labels: Iterable[str]) -> int:
    """As many columns as a legend of these labels has room for on a page."""
    return max(1, min(4, _LEGEND_CHARACTERS // (max(map(len, labels)) + 8)))


def _legend_height(labels: Mapping[str, str], entries: int) -> float:
    """Inches."""
    return 0.2 * -(-entries // _columns(labels.values()))


def _legend(figure: Figure, handles: Sequence[Artist], labels: Sequence[str]) -> None:
    figure.legend(handles, labels, loc="outside lower center", ncols=_columns(labels))


def _band(axis: Axes, share: Floats, values: Floats, label: str | None, *, color: str, alpha: float) -> None:
    axis.fill_between(share, values.min(axis=0), values.max(axis=0), color=color, alpha=alpha, lw=0)
    axis.plot(share, values.mean(axis=0), color=color, lw=1.6, label=label)
