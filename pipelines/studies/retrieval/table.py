"""The table of a study of retrieval: HitRates in percent, and paired differences to the reference with intervals."""

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pipelines.studies.table import compared

if TYPE_CHECKING:
    from pipelines.studies.config import StudyConfig

SEARCHES = {"on_air": "on air", "overall": "overall", "cold_on_air": "cold, on air", "cold_overall": "cold, overall"}
"""What is searched, as people read it."""

Record = Mapping[str, Any]


def build(config: "StudyConfig", seeds: Sequence[int], records: Sequence[Record], purity: Sequence[Record]) -> Any:
    """The table of `table.json`. `records` hold one trial per row and seed, `purity` what `purity_of_codes` gave."""
    by_row = {name: [_record(records, name, seed) for seed in seeds] for name in config.towers}
    reference = by_row[config.reference]
    ks = [int(k) for k in reference[0]["metrics"]["hit_rate"]["on_air"]]
    return {
        "study": config.name,
        "data": config.about or ("simulated live worlds" if config.data == "world" else "tables"),
        "seeds": list(seeds),
        "interval_over": "worlds" if config.data == "world" else "initialisations",
        "reference": config.reference,
        "days": sorted({record["day"] for record in records}),
        "ks": ks,
        "labels": {name: row.label or name for name, row in config.towers.items()},
        "paper": {name: row.paper for name, row in config.towers.items()},
        "candidates": {
            name: _mean(of["metrics"]["candidates"][name] for of in reference)
            for name in SEARCHES
            if name in reference[0]["metrics"]["candidates"]
        },
        "clicks": _mean(of["metrics"]["clicks"] for of in reference),
        "cold_clicks": _mean(of["metrics"]["cold_clicks"] for of in reference),
        "no_segment_yet": _mean(of["metrics"]["no_segment_yet"] for of in reference),
        "rows": [
            {"row": name, "search": search, "k": k} | _compared(by_row[name], reference, search, k)
            for name in by_row
            for search in SEARCHES
            for k in ks
        ],
        "training": {name: _training(of) for name, of in by_row.items()},
        "gates": [{"row": name, **of} for name in by_row for of in _gates(by_row[name])],
        "neighbours": [{"row": name, **of} for name in by_row for of in _neighbours(by_row[name], reference)],
        "purity": _purity(purity),
    }


def _record(records: Sequence[Record], row: str, seed: int) -> Record:
    return next(record for record in records if (record["row"], record["seed"]) == (row, seed))


def _mean(values: Iterable[float]) -> float:
    return float(np.mean(list(values)))


def _percent(records: Sequence[Record], search: str, k: int) -> Any:
    rates = [record["metrics"]["hit_rate"][search][str(k)] for record in records]
    return np.array([np.nan if rate is None else 100 * rate for rate in rates])


def _compared(records: Sequence[Record], reference: Sequence[Record], search: str, k: int) -> dict[str, Any]:
    values = _percent(records, search, k)
    seeds = [None if np.isnan(value) else float(value) for value in values]
    return compared(values, _percent(reference, search, k)) | {"seeds": seeds}


def _training(records: Sequence[Record]) -> dict[str, Any]:
    gates = [record["gate"] for record in records]
    return {
        "gate": _mean(gates),
        "gates": gates,
        "loss": _mean(record["loss"] for record in records),
        "clicks_per_s": _mean(record["clicks_per_s"] for record in records),
        "seconds": _mean(record["loop_seconds"] for record in records),
    }


def _gates(records: Sequence[Record]) -> list[dict[str, Any]]:
    """Mean over seeds, of the groups that all of them have."""
    groups = [(of["from"], of["to"]) for of in records[0]["gates"]]
    by_seed = [{(of["from"], of["to"]): of["gate"] for of in record["gates"]} for record in records]
    return [
        {"from": low, "to": high, "gate": _mean(of[low, high] for of in by_seed)}
        for low, high in groups
        if all((low, high) in of for of in by_seed)
    ]


def _neighbours(records: Sequence[Record], reference: Sequence[Record]) -> list[dict[str, Any]]:
    if not all("neighbours" in record for record in (*records, *reference)):
        return []
    found = []
    for label in records[0]["neighbours"]:
        shares, others = (
            np.array([100 * record["neighbours"][label]["share"] for record in of]) for of in (records, reference)
        )
        chance = _mean(100 * record["neighbours"][label]["chance"] for record in records)
        found.append({"label": label, "chance": chance} | compared(shares, others))
    return found


def _purity(found: Sequence[Record]) -> list[dict[str, Any]]:
    keys = dict.fromkeys((of["table"], of["level"]) for of in found)
    return [
        {"table": table, "level": level}
        | {
            name: 100 * _mean(of[name] for of in found if (of["table"], of["level"]) == (table, level))
            for name in ("purity", "chance")
        }
        for table, level in keys
    ]


def markdown(table: Mapping[str, Any]) -> str:
    """The table for people: a cell is the mean, or the difference with its interval."""
    columns = [(search, k) for search in SEARCHES for k in table["ks"]]
    titles = [f"@{k} {SEARCHES[search]}" for search, k in columns]
    lines = ["| HitRate | " + " | ".join(titles) + " | gate | paper @1000 |", "|" + "---|" * (len(columns) + 3)]
    for name, label in table["labels"].items():
        cells = [_cell(_row(table, name, search, k), name == table["reference"]) for search, k in columns]
        paper = "" if table["paper"][name] is None else f"{table['paper'][name]:.2f}"
        lines.append(f"| {label} | {' | '.join(cells)} | {table['training'][name]['gate']:.2f} | {paper} |")
    seeds, days, candidates = table["seeds"], ", ".join(table["days"]), table["candidates"]
    head = f"**{table['study']}**: {table['data']}, seeds {seeds[0]} to {seeds[-1]}, scored on {days}."
    how = (
        f"Percent of clicks; difference to the first row with its 95 % interval over {table['interval_over']}. On air "
        f"{candidates['on_air']:.0f} lives are candidates on average, overall {candidates['overall']:.0f} authors; "
        f"{table['cold_clicks']:.0f} of {table['clicks']:.0f} clicks are on cold authors. Gate: the mean weight of the "
        "content."
    )
    return "\n".join([f"{head} {how}", "", *lines, *_pictures(table)])


def _pictures(table: Mapping[str, Any]) -> list[str]:
    lines: list[str] = []
    if table["neighbours"]:
        lines += ["", "| of an author's 10 nearest, % that show the same | theme | category |", "|---|---|---|"]
        for name, label in table["labels"].items():
            shares = [of for of in table["neighbours"] if of["row"] == name]
            lines.append(
                f"| {label} | " + " | ".join(f"{of['mean']:.1f} (chance {of['chance']:.1f})" for of in shares) + " |"
            )
    if table["purity"]:
        lines += ["", "| purity of codes, % | first code | first two | all |", "|---|---|---|---|"]
        for name in dict.fromkeys(of["table"] for of in table["purity"]):
            cells = [f"{of['purity']:.1f} (chance {of['chance']:.1f})" for of in table["purity"] if of["table"] == name]
            lines.append(f"| {name} | {' | '.join(cells)} |")
    return lines


def _row(table: Mapping[str, Any], name: str, search: str, k: int) -> Record:
    return next(r for r in table["rows"] if (r["row"], r["search"], r["k"]) == (name, search, k))


def _cell(row: Record, is_reference: bool) -> str:
    if row["mean"] is None or row["delta"] is None:
        return "n/a"
    if is_reference:
        return f"{row['mean']:.2f}"
    interval = "" if row["ci_low"] is None else f" ({row['ci_low']:+.2f} to {row['ci_high']:+.2f})"
    return f"{row['delta']:+.2f}{interval}"


def write(folder: Path, table: Mapping[str, Any]) -> Path:
    """Writes table.json and table.md, each in one step; returns the path of the first."""
    for name, text in (("table.md", markdown(table)), ("table.json", json.dumps(table, indent=1, allow_nan=False))):
        unfinished = folder / f"{name}.tmp"
        unfinished.write_text(text + "\n", encoding="utf-8")
        os.replace(unfinished, folder / name)
    return folder / "table.json"
