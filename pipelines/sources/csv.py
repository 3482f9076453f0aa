"""Two plain files as tables of the contract: who was shown what and what came of it, and the items with their text.

An item is an author, its own text the anchor, which counts as known from the day before the first interaction. A third
file may say who users are. Files are CSV or Parquet (*.parquet), and are held in memory.
Run: python -m pipelines csv --config my.yaml      (a copy of pipelines/configs/csv.yaml; see docs/data.md)
"""

import csv
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from models.config import PathText
from pipelines.runtime.run import Run
from pipelines.sources.plain_file import ID_KINDS, TIME_UNITS, PlainFile
from pipelines.sources.refusals import Ints, summary
from pipelines.sources.rows import anchor_row, author_row, coded, rows_by_day, to_table
from pipelines.sources.written import Written
from pipelines.tables.contract import FIELD_LIMITS, FIELDS, PROFILE, ContractError, spec

log = logging.getLogger(__name__)
STAGE = "csv"
TABLES = ("authors", "anchors", "users", "impressions")
"""What it writes beside rejections."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Label:
    """Where a label stands."""

    column: str
    """Column of numbers, or of true and false."""
    least: float = 1.0
    """Least value that counts as 1."""


@dataclass(frozen=True, kw_only=True, slots=True)
class InteractionsConfig:
    """The file with one row for each time that an item was shown to a user, and the names of its columns."""

    file: PathText = ""
    """Path of the file."""
    user: str = "user_id"
    """Column of the user's id."""
    item: str = "item_id"
    """Column of the item's id."""
    time: str = "time"
    """Column of the moment at which it was shown."""
    time_unit: str = "s"
    """s or ms: numbers since 1970; iso: text such as 2026-01-31T18:30:00, UTC where it names no zone."""
    watch_time_s: str = ""
    """Column of the seconds watched; empty = not known, which is 0."""
    labels: Mapping[str, Label] = field(default_factory=lambda: {"click": Label(column="click")})
    """Label, of any name -> its column; click must be there, as histories are made of clicks."""

    def __post_init__(self) -> None:
        if self.time_unit not in TIME_UNITS:
            raise ValueError(f"time_unit: wanted one of {', '.join(TIME_UNITS)}, got {self.time_unit!r}")
        taken = [name for name in self.labels if name != "click" and name in spec("examples").schema.names]
        if taken or "watch_time_s" in self.labels or "click" not in self.labels:
            raise ValueError(
                "labels: wanted click and others, none called like another column of impressions or examples, got "
                f"{', '.join(self.labels) or 'none'}"
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class ItemsConfig:
    """The file with one row for each item, and the names of its columns."""

    file: PathText = ""
    """Path of the file."""
    item: str = "item_id"
    """Column of the item's id."""
    name: str = ""
    """Column of a name to show; empty = none."""
    text: Mapping[str, tuple[str, ...]] = field(default_factory=lambda: {"theme": ("title",)})
    """Field of the anchor -> columns whose text goes there, in order."""
    category: str = ""
    """Column of one category, which every ranker reads; empty = none."""
    tags: str = ""
    """Column of tags, which the source `tags` reads; empty = none."""
    separator: str = "|"
    """Between the phrases of a cell of text or tags; empty = a cell is one phrase."""

    def __post_init__(self) -> None:
        unknown = [name for name in self.text if name not in FIELDS]
        if unknown or not any(self.text.values()):
            raise ValueError(f"text: wanted columns for some of {', '.join(FIELDS)}, got {', '.join(self.text)}")

    @property
    def columns(self) -> list[str]:
        """All that are read."""
        texts = [column for columns in self.text.values() for column in columns]
        return [name for name in (self.item, self.name, self.category, self.tags, *texts) if name]


@dataclass(frozen=True, kw_only=True, slots=True)
class UsersConfig:
    """The file with one row for each user, which may be left out."""

    file: PathText = ""
    """Path of the file; empty = nothing is known of users."""
    user: str = "user_id"
    """Column of the user's id."""
    profile: Mapping[str, str] = field(default_factory=dict)
    """age_band, gender, region, device -> the column; each value becomes a code, in the order of the values."""

    def __post_init__(self) -> None:
        if unknown := [name for name in self.profile if name not in PROFILE]:
            raise ValueError(f"profile: wanted some of {', '.join(PROFILE)}, got {', '.join(unknown)}")


@dataclass(frozen=True, kw_only=True, slots=True)
class CSVConfig:
    """The files, and what their columns are called."""

    interactions: InteractionsConfig = field(default_factory=InteractionsConfig)
    """Who was shown what."""
    items: ItemsConfig = field(default_factory=ItemsConfig)
    """What the items say."""
    users: UsersConfig = field(default_factory=UsersConfig)
    """Who the users are."""
    ids: str = "integer"
    """integer: ids are kept; text: they are any text and get a number, listed in `<run_dir>/ids`."""
    delimiter: str = ","
    """Between the cells of a CSV file."""
    replace: bool = False
    """Whether files of far fewer interactions (storage.least_share) may replace what earlier ones made."""

    def __post_init__(self) -> None:
        if self.ids not in ID_KINDS:
            raise ValueError(f"ids: wanted one of {', '.join(ID_KINDS)}, got {self.ids!r}")
        if len(self.delimiter) != 1:
            raise ValueError(f'delimiter: wanted one character, got {self.delimiter!r}; a tabulator is "\\t"')


def run(config: CSVConfig, run: Run) -> dict[str, Any]:
    """Writes authors, anchors, users, impressions and rejections. Raises ContractError where no row can be used."""
    items = PlainFile("csv.items.file", config.items.file, config.items.columns, config.delimiter)
    files = {"items": items, "interactions": _open_interactions(config)}
    item_ids = _distinct(items, config.items.item, config.ids)
    impressions = _impressions(files["interactions"], config, item_ids[items.good])
    days = rows_by_day(impressions, "ts_ms")
    users, codes = _users(config, files, impressions["user_id"].to_numpy())
    before = (date.fromisoformat(days[0][0]) - timedelta(days=1)).isoformat()
    authors, anchors, dropped = _items(items, config.items, item_ids, before)
    tables = {("authors", before): authors, ("anchors", before): anchors, ("users", before): users}
    written = Written(run.storage, STAGE)
    written.check(run.guard(STAGE, config.replace), "impressions", len(impressions))
    for (name, day), rows in (tables | {("impressions", day): rows for day, rows in days}).items():
        written.write(name, day, rows)
    refused = [row for file in files.values() for row in file.refused]
    written.finish(TABLES, {before: refused})
    if config.ids == "text":
        _list_ids(run.folder / "ids", config, files)
    counts = {"impressions": len(impressions), "items": len(authors), "anchors": len(anchors), "users": len(users)}
    log.info("csv | %s", " | ".join(f"{count:,} {name}" for name, count in counts.items()))
    log.info("csv | %d day(s), %s to %s | text known from %s", len(days), days[0][0], days[-1][0], before)
    for line in summary(files.values()):
        log.warning("csv | %s", line)
    if dropped:
        log.warning("csv | %d phrase(s) left out: a field holds at most %s", dropped, dict(FIELD_LIMITS))
    about = {"days": [day for day, _ in days], "rejections": len(refused), "rejected_on": before}
    return counts | about | {"phrases_left_out": dropped, "profile_codes": codes}


def _open_interactions(config: CSVConfig) -> PlainFile:
    own = config.interactions
    columns = [own.user, own.item, own.time, own.watch_time_s, *(label.column for label in own.labels.values())]
    return PlainFile("csv.interactions.file", own.file, [name for name in columns if name], config.delimiter)


def _distinct(file: PlainFile, column: str, kind: str) -> Ints:
    """[rows] ids of a file in which each may stand once; the first row with an id is kept."""
    ids = file.ids(column, kind)
    file.refuse_repeated(ids, column)
    return ids


def _impressions(file: PlainFile, config: CSVConfig, known: Ints) -> pa.Table:
    """The rows that can be used, in the order of time; an impression's id is its row in the file."""
    own = config.interactions
    columns: dict[str, Any] = {"impression_id": file.row}
    columns["user_id"], item = file.ids(own.user, config.ids), file.ids(own.item, config.ids)
    file.refuse(~np.isin(item, known), own.item, f"an item of {Path(config.items.file).name} (add it there)")
    columns |= {"author_id": item, "live_id": item, "ts_ms": file.times(own.time, own.time_unit)}
    columns |= {
        name: (file.numbers(label.column) >= label.least).astype(np.uint8) for name, label in own.labels.items()
    }
    wanted = "seconds watched, 0 or more"
    watched = file.numbers(own.watch_time_s, wanted, 0.0) if own.watch_time_s else np.zeros(len(file))
    rows = pa.table(columns | {"watch_time_s": watched.astype(np.float32)}).filter(pa.array(file.good))
    if not len(rows):
        found = "\n".join(f"  {line}" for line in summary([file])) or "  the file has no rows"
        raise ContractError(f"csv.interactions.file {own.file}: no row can be used\n{found}")
    return rows.sort_by([("ts_ms", "ascending"), ("impression_id", "ascending")])


def _users(config: CSVConfig, files: dict[str, PlainFile], seen: Ints) -> tuple[pa.Table, dict[str, list[str]]]:
    """Everyone in the file of users or with an impression, and the values that profile codes stand for."""
    own, ids = config.users, np.unique(seen)
    profile = {name: np.full(len(ids), -1, np.int16) for name in PROFILE}
    if not own.file:
        return pa.table({"user_id": ids, **profile}), {}
    file = PlainFile("csv.users.file", own.file, [own.user, *own.profile.values()], config.delimiter)
    files["users"] = file
    listed = _distinct(file, own.user, config.ids)
    good, names = np.flatnonzero(file.good), {}
    everyone = np.union1d(ids, listed[good])
    at = np.searchsorted(everyone, listed[good])
    for column in PROFILE:
        profile[column] = np.full(len(everyone), -1, np.int16)
        if column in own.profile:
            shown = file.text(own.profile[column])
            profile[column][at], names[column] = coded([shown[index] for index in good])
    return pa.table({"user_id": everyone, **profile}), names


def _items(file: PlainFile, config: ItemsConfig, ids: Ints, day: str) -> tuple[pa.Table, pa.Table, int]:
    """Authors, anchors of those with text, and how many phrases were more than a field may hold."""
    cells = {column: file.text(column) for column in config.columns}
    authors, anchors, dropped = [], [], 0
    for index in np.flatnonzero(file.good).tolist():
        cell = {column: values[index] for column, values in cells.items()}
        item, category = int(ids[index]), cell.get(config.category)
        tags = _phrases(cell.get(config.tags), config.separator)
        authors.append(author_row(item, cell.get(config.name) or "", category, tags, day))
        phrases = {
            name: [phrase for column in columns for phrase in _phrases(cell[column], config.separator)]
            for name, columns in config.text.items()
        }
        dropped += sum(max(0, len(of) - FIELD_LIMITS[name]) for name, of in phrases.items())
        if any(phrases.values()):
            anchors.append(anchor_row(item, phrases, STAGE))
    return to_table("authors", authors), to_table("anchors", anchors), dropped


def _phrases(cell: str | None, separator: str) -> list[str]:
    parts = (cell or "").split(separator) if separator else [cell or ""]
    return [" ".join(part.split()) for part in parts if part.strip()]


def _list_ids(folder: Path, config: CSVConfig, files: Mapping[str, PlainFile]) -> None:
    """Which number stands for which text: items.csv and users.csv, as requests and answers need them."""
    folder.mkdir(parents=True, exist_ok=True)
    sources = {"items": [("items", config.items.item)], "users": [("interactions", config.interactions.user)]}
    if "users" in files:
        sources["users"].append(("users", config.users.user))
    for name, columns in sources.items():
        texts: dict[str, int] = {}
        for file, column in columns:
            ids, shown = files[file].ids(column, config.ids), files[file].text(column)
            texts |= {shown[i] or "": int(ids[i]) for i in np.flatnonzero(files[file].good)}
        with (folder / f"{name}.csv").open("w", encoding="utf-8", newline="") as out:
            writer = csv.writer(out)
            writer.writerow(["id", "text"])
            writer.writerows((number, text) for text, number in sorted(texts.items()))
