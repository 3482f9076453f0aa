"""The report of a study of retrieval as one HTML file: its table, and the pictures of LARM's figures 4 and 5."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rc_context

from pipelines.pages import page
from pipelines.pages.drawing import INK, STYLE, lying_bars, panels, svg
from pipelines.studies.plots import colours
from pipelines.studies.retrieval.table import SEARCHES

_TEMPLATE = Path(__file__).parents[1] / "retrieval.html.jinja"
_CODES = {"segment_codes": "of frozen embeddings", "item_codes": "of aligned vectors"}


def write_report(path: Path, table: Mapping[str, Any], config: Any) -> None:
    """Writes the page of a table that `table.build` made, in one step. Equal arguments give equal bytes."""
    page.write(render(table, config), path)


def render(table: Mapping[str, Any], config: Any) -> str:
    """The page as text. `config` is shown as the study's configuration."""
    content = {
        "table": table,
        "searches": SEARCHES,
        "cells": {(row["row"], row["search"], row["k"]): row for row in table["rows"]},
        "buckets": list(dict.fromkeys(page.bucket(of["from"], of["to"]) for of in table["gates"])),
        "gates": {(of["row"], page.bucket(of["from"], of["to"])): of["gate"] for of in table["gates"]},
        "codes": _CODES,
        "config": page.as_yaml(config),
    }
    figures = {"hits": _hits(table), "gates": _gates(table)}
    figures |= {"neighbours": _neighbours(table)} if table["neighbours"] else {}
    return page.render(_TEMPLATE, content, figures | ({"purity": _purity(table)} if table["purity"] else {}))


def _hits(table: Mapping[str, Any]) -> str:
    """HitRate at the largest K: a panel on air and one overall, cold authors below."""
    k, labels = max(table["ks"]), table["labels"]
    colour = colours(list(labels))
    groups = {"on air": ("on_air", "cold_on_air"), "overall": ("overall", "cold_overall")}
    with rc_context(STYLE):
        figure, axes = panels(2, 0.8 + 0.5 * len(labels), sharey=True)
        thick = 0.8 / len(labels)
        for axis, (title, searches) in zip(axes, groups.items(), strict=True):
            for order, name in enumerate(labels):
                rows = [
                    next(r for r in table["rows"] if (r["row"], r["search"], r["k"]) == (name, s, k)) for s in searches
                ]
                means = np.array([np.nan if row["mean"] is None else row["mean"] for row in rows])
                y = np.arange(2) + (order - (len(labels) - 1) / 2) * thick
                axis.barh(y, means, 0.86 * thick, color=colour[name], label=labels[name])
            axis.set_title(f"HitRate@{k}, {title}")
            lying_bars(axis, "% of clicks", inverted=False)
        axes[0].set_yticks(np.arange(2), ["all authors", "cold authors"])
        axes[0].set_ylim(1.5, -0.5)
        handles, names = axes[0].get_legend_handles_labels()
        figure.legend(handles, names, loc="outside lower center", ncols=2)
        return svg(figure, "hits", f"HitRate@{k} of {', '.join(labels.values())}; numbers in the table.")


def _gates(table: Mapping[str, Any]) -> str:
    buckets = list(dict.fromkeys((of["from"], of["to"]) for of in table["gates"]))
    labels = table["labels"]
    colour = colours(list(labels))
    with rc_context(STYLE):
        figure, (axis,) = panels(1, 2.6)
        for name, label in labels.items():
            by_bucket = {(of["from"], of["to"]): of["gate"] for of in table["gates"] if of["row"] == name}
            shown = [by_bucket.get(bucket, np.nan) for bucket in buckets]
            axis.plot(np.arange(len(buckets)), shown, "o-", color=colour[name], label=label)
        axis.set_xticks(np.arange(len(buckets)), [page.bucket(*bucket) for bucket in buckets])
        axis.set_xlabel("training impressions of the author")
        axis.set_ylabel("weight of the content")
        axis.set_ylim(-0.03, 1.03)
        axis.grid(axis="y")
        figure.legend(*axis.get_legend_handles_labels(), loc="outside lower center", ncols=2)
        return svg(figure, "gates", "Mean gate by the author's exposure; numbers in the table.")


def _neighbours(table: Mapping[str, Any]) -> str:
    labels = list(dict.fromkeys(of["label"] for of in table["neighbours"]))
    rows = table["labels"]
    with rc_context(STYLE):
        figure, axes = panels(len(labels), 0.7 + 0.34 * len(rows), sharey=True)
        for axis, label in zip(axes, labels, strict=True):
            found = {of["row"]: of for of in table["neighbours"] if of["label"] == label}
            shares = [found[name]["mean"] for name in rows]
            axis.barh(np.arange(len(rows)), shares, 0.7, color=[colours(list(rows))[name] for name in rows])
            axis.axvline(np.mean([of["chance"] for of in found.values()]), color=INK, lw=0.9, ls=":")
            axis.set_title(f"same {label}")
            lying_bars(axis, "% of the 10 nearest", inverted=False)
        axes[0].set_yticks(np.arange(len(rows)), list(rows.values()))
        axes[0].set_ylim(len(rows) - 0.5, -0.5)
        return svg(figure, "neighbours", "Share of the 10 nearest authors that show the same; dotted: chance.")


def _purity(table: Mapping[str, Any]) -> str:
    levels = list(dict.fromkeys(of["level"] for of in table["purity"]))
    names = {1: "first code", 2: "first two codes"}
    with rc_context(STYLE):
        figure, (axis,) = panels(1, 2.4)
        for color, (name, title) in zip(("#E69F00", "#0072B2"), _CODES.items(), strict=True):
            found = {of["level"]: of for of in table["purity"] if of["table"] == name}
            axis.plot(levels, [found[level]["purity"] for level in levels], "o-", color=color, label=title)
            axis.plot(levels, [found[level]["chance"] for level in levels], "o:", color=color, lw=0.9, ms=3)
        axis.set_xticks(levels, [names.get(level, f"first {level} codes") for level in levels])
        axis.set_ylabel("% of segments")
        axis.set_ylim(0, 103)
        axis.grid(axis="y")
        figure.legend(*axis.get_legend_handles_labels(), loc="outside lower center", ncols=2)
        return svg(figure, "purity", "Purity of codes against true themes; dotted: of shuffled themes.")
