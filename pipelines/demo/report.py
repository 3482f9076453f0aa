"""The report of a demo run: what the jobs left in `report.json`, as one HTML file that needs nothing else.

Figures are inline SVG, frames are data URLs. A job that left nothing makes its section say that it was not run.
"""

import base64
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipelines.demo.live_content import LivePart
from pipelines.demo.report_content import Analysis, Gates, Report, Word
from pipelines.pages import page
from pipelines.ranking.evaluate import ORACLE
from pipelines.ranking.published import is_ranker
from pipelines.ranking.variants import BASE, ranker_label
from pipelines.tables.contract import FIELDS, TASKS_COLUMNS

_TEMPLATE = Path(__file__).parent / "report.html.jinja"
_PARTS = (
    "machine", "world", "distil", "anchors", "vocabulary", "train", "metrics", "gates", "analysis", "publish", "serve",
    "ranked", "live", "retrieved",
)  # fmt: skip
_TERMS = 15
"""Merged terms whose gates are shown."""


@dataclass(frozen=True, kw_only=True, slots=True)
class AnchorCard:
    """One author-day: what the model saw and what it wrote."""

    author_id: int
    frames: list[bytes]
    """JPEGs, in the order in which the model saw them."""
    written: Mapping[str, Sequence[str]]
    """Phrases of each of the six fields."""
    truth: Mapping[str, Sequence[str]] | None = None
    """The oracle's phrases; None where nobody knows them, then nothing is marked right or wrong."""


@dataclass(frozen=True, kw_only=True, slots=True)
class NeighbourRow:
    """An author and those whose vectors are nearest."""

    author_id: int
    theme: str
    similar: list[tuple[int, float, str]]
    """Author, cosine and theme, nearest first."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ReportPictures:
    """What the report shows beside numbers."""

    anchors: list[AnchorCard] = field(default_factory=list)
    """Anchors beside the frames they were written from."""
    neighbours: list[NeighbourRow] = field(default_factory=list)
    """Similar authors by the published bank."""
    live: list[bytes] = field(default_factory=list)
    """JPEGs of the live that is shown, one for each act."""


def write(report: Report, path: Path, pictures: ReportPictures) -> None:
    """Writes the page to `path` in one step; equal arguments give equal bytes.

    `report` is the content of `report.json`; any key may be missing. Raises ValueError where `train` or `metrics` is
    not by ranker.
    """
    page.write(render(report, pictures), path)


def render(report: Report, pictures: ReportPictures) -> str:
    """The page as text."""
    _check(report)
    content = {part: report.get(part) for part in _PARTS} | {
        "report": report,
        "fields": FIELDS,
        "tasks": _tasks(report),
        "summary": _summary(report),
        "rankers": _ranker_labels(report.get("metrics") or {}),
        "trained": _ranker_labels(report.get("train") or {}),
        "buckets": [(page.bucket(row["from"], row["to"]), row) for row in report.get("buckets") or []],
        "terms": _terms(report.get("gates")),
        "drawn": _drawn(report.get("analysis")),
        "stages": _stages(report),
        "cards": [_card(card) for card in pictures.anchors],
        "neighbours": pictures.neighbours,
        "acts": _acts(report.get("live"), pictures.live),
        "same_theme": _same_theme(pictures.neighbours),
        "config": page.as_yaml(report.get("config")),
    }
    return page.render(_TEMPLATE, content, _figures(report))


def _check(report: Report) -> None:
    by_ranker: dict[str, Mapping[str, Any]] = {
        "train": report.get("train") or {}, "metrics": report.get("metrics") or {}
    }  # fmt: skip
    for part, results in by_ranker.items():
        if results and not any(map(_is_measured, results)):
            raise ValueError(
                f"report.json, {part}: wanted results by ranker, got {', '.join(results)}; "
                "run the job again, and write the report after it"
            )


def _is_measured(name: str) -> bool:
    return name == ORACLE or is_ranker(name)


def _summary(report: Report) -> dict[str, Any]:
    """The headline: click quality of each ranker, and one number or two of every other part, None where not run."""
    click = {name: tasks["click"] for name, tasks in (report.get("metrics") or {}).items()}
    anchors = report.get("anchors")
    agreement = anchors.get("agreement") if anchors else None
    gain = share = None
    ranker = next((name for name in click if name not in (BASE, ORACLE)), None)
    if ranker in click and BASE in click:
        best, base = click[ranker], click[BASE]
        gain = {"auc": _minus(best["auc"], base["auc"]), "gauc": _minus(best["gauc"], base["gauc"])}
        room = _minus(click[ORACLE]["gauc"], base["gauc"]) if ORACLE in click else None
        share = gain["gauc"] / room if gain["gauc"] is not None and room is not None and room > 0 else None
    return {
        "click": click,
        "gain": gain,
        "ranker": ranker and ranker_label(ranker),
        "share": share,
        "valid_rate": anchors.get("valid_rate") if anchors else None,
        "agreement": sum(agreement.values()) / len(agreement) if agreement else None,
        "serve": report.get("serve") or {},
        "total": (report.get("seconds") or {}).get("total"),
    }


def _figures(report: Report) -> dict[str, str]:
    """SVG of every figure whose numbers are there."""
    from pipelines.demo import plots

    figures = {}
    curves = {name: run["curve"] for name, run in (report.get("train") or {}).items() if run.get("curve")}
    if curves:
        figures["training"] = plots.training_curves(curves)
    metrics: Mapping[str, Mapping[str, Mapping[str, Any]]] = report.get("metrics") or {}
    if metrics:
        tasks = _tasks(report)
        series = {v: {m: [metrics[v][t][m] for t in tasks] for m in plots.MEASURES} for v in metrics}
        figures["quality"] = plots.quality_dots("quality", "Ranking quality", [page.words(t) for t in tasks], series)
    if buckets := report.get("buckets"):
        rankers = [name for name in buckets[0] if _is_measured(name) and all(name in row for row in buckets)]
        series = {v: {m: [row[v][m] for row in buckets] for m in plots.MEASURES} for v in rankers}
        names = [page.bucket(row["from"], row["to"]) for row in buckets]
        figures["buckets"] = plots.quality_dots("buckets", "Clicks by exposure of the author", names, series)
    gates, anchors = report.get("gates"), report.get("anchors")
    if gates and gates["layers"]:
        figures["gates"] = plots.gate_bars(gates["layers"])
    if anchors and (right := anchors.get("agreement")):
        figures["agreement"] = plots.agreement_bars(
            right, anchors.get("agreement_frames_swapped"), anchors.get("chance")
        )
    if live := report.get("live"):
        figures["codes"] = plots.codes_over_time(live["shown"]["segments"])
    if stages := _stages(report):
        figures["stages"] = plots.stage_bars(stages)
    return figures


def _tasks(report: Report) -> list[str]:
    """What was measured, in order; the default tasks where nothing was."""
    measured = list((report.get("metrics") or {}).values())
    return list(measured[0] if measured else TASKS_COLUMNS)


def _ranker_labels(metrics: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(key, label) of the rankers that were measured, Base first, and of the oracle."""
    from pipelines.demo.plots import labels

    return list(labels(metrics).items())


def _stages(report: Report) -> dict[str, float]:
    return {stage: value for stage, value in (report.get("seconds") or {}).items() if stage != "total"}


def _terms(gates: Gates | None) -> list[tuple[str, int, float]]:
    """(term, times met, mean gate over layers) of the most frequent terms; the fields' own names are left out."""
    terms = [
        (term["term"], term["tokens"], sum(term["layers"].values()) / len(term["layers"]))
        for term in (gates["terms"] if gates else [])
        if ":" not in term["term"]
    ]
    return terms[:_TERMS]


def _drawn(analysis: Analysis | None) -> list[dict[str, Any]]:
    """The anchors that are drawn, each word with the depth of its colour."""
    importance = analysis["importance"] if analysis else None
    return [
        {**author, "fields": [[_word(word, author["tokens"]) for word in field] for field in author["fields"]]}
        for author in (importance["drawn"] if importance else [])
    ]


def _word(word: Word, tokens: int) -> dict[str, Any]:
    """A word of an anchor of so many tokens: depth 0 where its tokens have half of an even share, 1 where twice."""
    times = word["importance"] * tokens / word["tokens"] if word["tokens"] else 0.0
    depth = min(max((math.log2(times) + 1) / 2, 0.0), 1.0) if times > 0 else 0.0
    return {"text": word["word"], "importance": word["importance"], "times": times, "depth": depth}


def _card(card: AnchorCard) -> dict[str, Any]:
    """The card with each phrase marked: right True, False or, with no truth, None; and true phrases not written."""
    rows = []
    for name in FIELDS:
        truth = None if card.truth is None else set(card.truth[name])
        phrases = [(phrase, None if truth is None else phrase in truth) for phrase in card.written[name]]
        missed = sorted(truth - set(card.written[name])) if truth is not None else []
        rows.append((name, phrases, missed))
    return {
        "author_id": card.author_id,
        "frames": [_data_url(frame) for frame in card.frames],
        "rows": rows,
        "known": card.truth is not None,
        "right": sum(not missed and all(ok for _, ok in phrases) for _, phrases, missed in rows),
    }


def _data_url(frame: bytes) -> str:
    return "data:image/jpeg;base64," + base64.b64encode(frame).decode()


def _acts(live: LivePart | None, frames: Sequence[bytes]) -> list[dict[str, Any]]:
    """The acts of the live that is shown as they first come: number, what is shown, a frame."""
    segments = live["shown"]["segments"] if live else []
    acts = {segment["act"]: f"{segment['theme']}, {segment['scene']}" for segment in reversed(segments)}
    order = dict.fromkeys(segment["act"] for segment in segments)
    return [
        {"act": act, "says": acts[act], "frame": _data_url(frame)} for act, frame in zip(order, frames, strict=False)
    ]


def _same_theme(rows: Sequence[NeighbourRow]) -> tuple[int, int]:
    """How many of the neighbours shown share the author's theme, and how many are shown."""
    same = [theme == row.theme for row in rows for _, _, theme in row.similar]
    return sum(same), len(same)


def _minus(left: float | None, right: float | None) -> float | None:
    return None if page.nothing(left) or page.nothing(right) else left - right  # type: ignore[operator]
