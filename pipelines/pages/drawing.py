"""How every figure is drawn: one style, numbers in, inline SVG out, the same bytes for the same numbers.

Ink and grid take their colours from the page (`currentColor`, `var(--grid)`), so that a figure follows light and dark
mode. Ids are prefixed by the figure's name, so that several figures may share a page.
"""

import io
import re
from collections.abc import Sequence
from html import escape
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

SERIES = {"base": "#D55E00", "ranker": "#0072B2", "oracle": "#009E73", "control": "#8C8C8C"}
"""Okabe and Ito's colours, told apart by colour-blind readers, with enough contrast on white and on black."""
INK, GRID = "#010203", "#040506"
"""Stand-ins that `svg` replaces with the page's colours."""
_WIDTH = 7.6
STYLE: dict[str, Any] = {
    "svg.hashsalt": "report",
    "svg.fonttype": "none",
    "text.parse_math": False,
    "font.family": ["sans-serif"],
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9,
    "axes.titlesize": 9.5,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": GRID,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "axes.axisbelow": True,
    "text.color": INK,
    "xtick.color": GRID,
    "ytick.color": GRID,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
}
"""To draw under: `with rc_context(STYLE)`."""


def panels(count: int, height: float, *, sharey: bool = False) -> tuple[Figure, Sequence[Axes]]:
    """A figure as wide as the page, `height` inches high, with `count` panels side by side."""
    figure = Figure(figsize=(_WIDTH, height), layout="constrained")
    return figure, figure.subplots(1, count, sharey=sharey, squeeze=False)[0]


def lying_bars(axis: Axes, label: str, *, inverted: bool = True) -> None:
    """What bars from left to right share; `inverted` puts the first one on top."""
    if inverted:
        axis.invert_yaxis()
    axis.set_xlabel(label)
    axis.grid(axis="x")
    axis.tick_params(axis="y", length=0)


def svg(figure: Figure, name: str, alt: str) -> str:
    """The figure as an <svg> element for an HTML page, described by `alt`."""
    target = io.StringIO()
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    figure.savefig(target, format="svg", transparent=True, metadata=nothing)
    text = target.getvalue()
    text = text[text.index("<svg") :].strip()
    # The style sheet inside is dropped: on a page it would reach every element, not only the figure's.
    text = re.sub(r"<metadata>.*?</metadata>\s*|<defs>\s*<style.*?</style>\s*</defs>\s*", "", text, flags=re.DOTALL)
    head, body = text.split(">", 1)
    box = re.search(r'viewBox="[^"]*"', head)
    assert box is not None, head
    body = re.sub(r'\bid="', f'id="{name}-', body)
    body = re.sub(r'(url\(|href=")#', rf"\g<1>#{name}-", body).replace("xlink:href", "href")
    body = body.replace(INK, "currentColor").replace(GRID, "var(--grid, #999)")
    body = body.replace("'DejaVu Sans'", "system-ui, 'DejaVu Sans'")
    return f'<svg {box.group()} stroke-linejoin="round" role="img" aria-label="{escape(alt)}">{body}'
