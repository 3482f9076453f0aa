"""Training examples: each impression with the user's history as it was known at that moment.

Reads impressions, anchors and, where `examples.codes` names them, codes of segments; writes examples, one day after
another. Memory: of one shard of users the clicks of the days in a history and a day's impressions, about 100 bytes a
row, and for each table of J codes 24 + 8 J more; and `chunk_rows` examples.
Run: python -m pipelines examples --config pipelines/configs/demo.yaml
"""

import json
import logging
import time
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import date, timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from models import HISTORY, ON_SCREEN
from models.artifacts.bank import Histories
from models.history import HISTORY_PAD, HistoryRule, as_known, num_stored
from pipelines.runtime.run import Run
from pipelines.samples.empty_histories import EmptyHistories
from pipelines.samples.on_screen import NONE, Codes, Screen, delay_key
from pipelines.tables import contract, newest
from pipelines.tables.columns import to_numpy
from pipelines.tables.days import NO_ANCHOR
from pipelines.tables.due import due_days
from pipelines.tables.fingerprint import digest
from pipelines.tables.storage import Storage

log = logging.getLogger(__name__)
Ints = NDArray[np.int64]
Floats = NDArray[np.float32]

_CLICK_COLUMNS = ["impression_id", "user_id", "author_id", "ts_ms", "watch_time_s"]
_EXAMPLE_COLUMNS = ["impression_id", "user_id", "author_id", "live_id", "ts_ms"]
_OF_CODES = ("codes", "segment_delay_s")


@dataclass(frozen=True, kw_only=True, slots=True)
class ExamplesConfig:
    """What history an example carries."""

    history_length: int = 20
    """L: the newest clicks before the impression, at most."""
    history_days: int = 14
    """Clicks of this many days before the impression's day count, and those of the day itself."""
    delay_s: float = 0.0
    """Seconds from an exposure until its click reaches the histories, as the platform's own pipeline needs them."""
    shards: int = 1
    """A day is made in this many parts, by user, to bound memory; a power of two."""
    chunk_rows: int = 65_536
    """Examples held in memory and written at a time."""
    codes: tuple[str, ...] = ()
    """Some of `segment_codes`, `item_codes`: examples carry these codes of what was on screen, of the live that was
    shown and of each click of the history, for rankers that read them (docs/codes.md)."""
    segment_delay_s: float = 0.0
    """Seconds from a segment's end until its codes are known."""

    def __post_init__(self) -> None:
        if set(self.codes) - set(ON_SCREEN) or len(set(self.codes)) != len(self.codes):
            raise ValueError(f"codes: wanted some of {', '.join(ON_SCREEN)}, each once, got {list(self.codes)}")
        if self.segment_delay_s < 0:
            raise ValueError(f"segment_delay_s: wanted 0 or more, got {self.segment_delay_s}")
        if min(self.history_length, self.chunk_rows) < 1 or self.history_days < 0 or self.delay_s < 0:
            raise ValueError(
                f"wanted history_length and chunk_rows >= 1, history_days and delay_s >= 0, got {self}; correct them"
            )
        if self.shards < 1 or self.shards & (self.shards - 1):
            raise ValueError(f"shards: wanted a power of two, got {self.shards}; take 1, 2, 4, ...")

    @property
    def fingerprint(self) -> str:
        """Of what decides on rows; without codes that of versions which knew none, so that nothing is made again."""
        return digest({key: of for key, of in asdict(self).items() if self.codes or key not in _OF_CODES})


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Clicks:
    """Clicked exposures sorted by (user, time, impression); arrays are [n]."""

    user_ids: Ints
    """Distinct users, sorted, [u]."""
    user: Ints
    """Position of the click's user in `user_ids`."""
    author_id: Ints
    ts_ms: Ints
    watch_time_s: Floats
    on_screen: Mapping[str, Codes] = field(default_factory=dict)
    """By table, codes [n, J] of what each click saw."""

    @classmethod
    def of(cls, columns: Mapping[str, NDArray[Any]], on_screen: Mapping[str, Codes] | None = None) -> "Clicks":
        """From columns of clicked impressions in any order, and what each of them saw."""
        order = np.lexsort((columns["impression_id"], columns["ts_ms"], columns["user_id"]))
        user_ids, user = np.unique(columns["user_id"][order], return_inverse=True)
        return cls(
            user_ids=user_ids.astype(np.int64),
            user=user.astype(np.int64),
            author_id=columns["author_id"][order],
            ts_ms=columns["ts_ms"][order],
            watch_time_s=columns["watch_time_s"][order],
            on_screen={table: codes[order] for table, codes in (on_screen or {}).items()},
        )


def rule_of(config: ExamplesConfig) -> HistoryRule:
    """The rule of a configuration."""
    return HistoryRule(length=config.history_length, days=config.history_days, delay_ms=round(config.delay_s * 1000))


def committed_rule(storage: Storage) -> HistoryRule:
    """The rule that the newest examples were made with. Raises ContractError where there are none of ours."""
    days = storage.days("examples")
    commit = storage.commit_of("examples", days[-1]) if days else None
    if commit is None or "history" not in commit.made_from:
        raise contract.ContractError(
            "table examples: wanted a day that the job examples wrote, which says what histories it holds, got "
            f"{', '.join(days) or 'none'}; run the job examples"
        )
    return HistoryRule(**json.loads(commit.made_from["history"]))


def committed_screens(storage: Storage, tables: Sequence[str]) -> list[Screen]:
    """Tables of codes by the rule of the newest examples. Raises ContractError where these carry none of one."""
    if not tables:
        return []
    made_from = _newest_made_from(storage)
    if missing := [table for table in tables if table not in made_from]:
        raise contract.ContractError(
            f"table examples: wanted a newest day that carries codes of {', '.join(missing)}, got one without; set "
            "examples.codes and run the job examples"
        )
    return [Screen(storage, table, int(made_from.get(delay_key(table), 0)) / 1000) for table in tables]


def committed_tables(storage: Storage) -> list[str]:
    """Tables of codes that the newest examples carry. Raises ContractError where these are none."""
    made_from = _newest_made_from(storage)
    tables = [table for table in ON_SCREEN if table in made_from]
    if not tables:
        raise contract.ContractError(
            f"table examples: wanted a newest day that carries codes of {' or '.join(ON_SCREEN)}, got none; set "
            "examples.codes and run the job examples"
        )
    return tables


def _newest_made_from(storage: Storage) -> Mapping[str, str]:
    days = storage.days("examples")
    commit = storage.commit_of("examples", days[-1]) if days else None
    return {} if commit is None else commit.made_from


def run(config: ExamplesConfig, run: Run) -> dict[str, Any]:
    """Writes the `examples` of every day of `impressions` that is not current yet."""
    storage = run.storage
    screens = screens_of(storage, config)
    made_from = _made_from(storage, config, screens)
    days = list(made_from)
    if not days:
        raise contract.ContractError(
            "table impressions: wanted at least one day, got none; run the job that writes impressions first"
        )
    written: dict[str, int] = {}
    empty = EmptyHistories()
    for day in due_days(storage, "examples", made_from):
        started = time.perf_counter()
        chunks = _chunks(storage, config, day, days, empty, screens)
        written[day] = storage.write("examples", day, chunks, made_from[day]).rows
        log.info("examples of %s | %d rows | %.1f s", day, written[day], time.perf_counter() - started)
    for warning in empty.warnings():
        log.warning("examples | %s", warning)
    figures = {"days": days, "days_written": sorted(written), "examples": sum(written.values())}
    return figures | ({"on_screen": say_known(screens)} if screens and written else {})


def screens_of(storage: Storage, config: ExamplesConfig) -> list[Screen]:
    """The tables of codes that a configuration asks for. Raises ContractError where one has no rows."""
    return [Screen(storage, table, config.segment_delay_s) for table in config.codes]


def say_known(screens: Sequence[Screen]) -> dict[str, float]:
    """By table, the share of impressions and clicks at which a segment of the live was known; logs it, too."""
    shares = {screen.table: round(screen.known / max(1, screen.asked), 4) for screen in screens}
    for table, known in shares.items():
        log.info("examples | %s | known of %.1f %% of impressions and clicks", table, 100 * known)
    return shares


def history_of(
    clicks: Clicks, user_id: Ints, ts_ms: Ints, length: int, delay_ms: int = 0
) -> tuple[Ints, Floats, Floats]:
    """Each row's newest `length` clicks whose exposure is more than `delay_ms` before `ts_ms`.

    Returns author ids [n, L] (newest last, padded on the left with HISTORY_PAD), ages in seconds and seconds watched as
    known then [n, L]: for many rows at once what `known_at` gives for one.
    """
    return _told(clicks, ts_ms, *_places(clicks, user_id, ts_ms, length, delay_ms))


def _told(clicks: Clicks, ts_ms: Ints, index: Ints, real: NDArray[np.bool_]) -> tuple[Ints, Floats, Floats]:
    """What `history_of` returns, of clicks at the places [n, L] that are `real`."""
    history = np.full(index.shape, HISTORY_PAD, dtype=np.int64)
    age = np.zeros(index.shape, dtype=np.float32)
    watch = np.zeros_like(age)
    source = index[real]
    history[real] = clicks.author_id[source]
    moments = np.broadcast_to(ts_ms[:, None], index.shape)[real]
    age[real], watch[real] = as_known(moments, clicks.ts_ms[source], clicks.watch_time_s[source])
    return history, age, watch


def _places(clicks: Clicks, user_id: Ints, ts_ms: Ints, length: int, delay_ms: int) -> tuple[Ints, NDArray[np.bool_]]:
    """Places among clicks [n, L] of the newest that are known of each row, and where there is one."""
    if not len(clicks.ts_ms) or not len(ts_ms):
        return np.zeros((len(ts_ms), length), np.int64), np.zeros((len(ts_ms), length), np.bool_)
    code = np.searchsorted(clicks.user_ids, user_id)
    is_known = clicks.user_ids[np.minimum(code, len(clicks.user_ids) - 1)] == user_id
    # One sortable number per (user, time): clicks of a user stand together, in time order.
    first = min(int(clicks.ts_ms.min()), int(ts_ms.min()) - delay_ms)
    span = max(int(clicks.ts_ms.max()), int(ts_ms.max())) - first + 1
    key = clicks.user * span + (clicks.ts_ms - first)
    end = np.searchsorted(key, code * span + (ts_ms - delay_ms - first), side="left")
    start = np.searchsorted(key, code * span, side="left")
    index = end[:, None] + np.arange(-length, 0)
    return index, (index >= start[:, None]) & is_known[:, None]


def anchor_days(storage: Storage, before: str) -> tuple[Ints, NDArray[np.int32]]:
    """Authors with an anchor on a day before `before` (sorted), and the newest such day, in days since 1970."""
    anchors = newest.read(storage, "anchors", before=before, columns=["author_id", "since"])
    return anchors["author_id"].to_numpy(), anchors["since"].combine_chunks().cast("int32").to_numpy()


def window(day: str, days: list[str], history_days: int) -> list[str]:
    """The days, of sorted ones, whose clicks may be in the histories of `day`: itself and the `history_days` before."""
    first = (date.fromisoformat(day) - timedelta(days=history_days)).isoformat()
    return days[bisect_left(days, first) : bisect_right(days, day)]


def read_clicks(
    storage: Storage, days: list[str], shard: pc.Expression | None = None, screens: Sequence[Screen] = ()
) -> Clicks:
    """The clicked impressions of `days`, with what was on screen at each."""
    clicked = pc.field("click") == 1
    where = clicked if shard is None else clicked & shard
    wanted = [*_CLICK_COLUMNS, *(["live_id"] if screens else [])]
    columns = to_numpy(pa.concat_tables([storage.read("impressions", d, wanted, where) for d in days]))
    return Clicks.of(columns, {of.table: of.at(columns["live_id"], columns["ts_ms"]) for of in screens})


def with_screens(shown: pa.Table, screens: Sequence[Screen]) -> pa.Table:
    """The rows with the codes of what was on screen of the live that was shown, at `ts_ms`."""
    for screen in screens:
        codes = screen.at(shown["live_id"].to_numpy(), shown["ts_ms"].to_numpy())
        shown = shown.append_column(screen.table, _lists(codes))
    return shown


def _lists(values: NDArray[Any]) -> pa.ListArray:
    """[n, ...] as n lists of equal lengths."""
    offsets = np.arange(len(values) + 1, dtype=np.int32) * (values.size // max(1, len(values)))
    return pa.ListArray.from_arrays(offsets, values.ravel())


def _made_from(storage: Storage, config: ExamplesConfig, screens: Sequence[Screen]) -> dict[str, dict[str, str]]:
    """By day of impressions, what its examples are made from."""
    impressions, anchors = storage.listing("impressions"), storage.listing("anchors")
    rule = {"config": config.fingerprint, "history": json.dumps(asdict(rule_of(config)))}
    stamps = {day: impressions.stamp(day) for day in impressions.days}
    made_from = {}
    for day in impressions.days:
        read = window(day, impressions.days, config.history_days)
        clicks = [[d, stamps[d]] for d in read]
        made_from[day] = rule | {"impressions": digest(clicks), "anchors": anchors.history(before=day)}
        for screen in screens:
            made_from[day] |= screen.made_from(read)
    return made_from


def _chunks(
    storage: Storage,
    config: ExamplesConfig,
    day: str,
    days: list[str],
    empty: EmptyHistories,
    screens: Sequence[Screen],
) -> Iterator[pa.Table]:
    """A day's examples in time order (within a shard), `chunk_rows` at a time; `empty` counts them."""
    anchors = anchor_days(storage, day)
    for shard in range(config.shards):
        where = in_shard(config, shard)
        clicks = read_clicks(storage, window(day, days, config.history_days), where, screens)
        empty.clicked(clicks.user_ids[clicks.user], clicks.ts_ms)
        columns = [*_EXAMPLE_COLUMNS, *storage.labels("impressions", day)]
        impressions = with_screens(storage.read("impressions", day, columns, where), screens)
        impressions = impressions.sort_by([("ts_ms", "ascending"), ("impression_id", "ascending")])
        for start in range(0, impressions.num_rows, config.chunk_rows):
            rows = with_histories(impressions.slice(start, config.chunk_rows), clicks, anchors, config)
            empty.count(rows)
            yield rows


def in_shard(config: ExamplesConfig, shard: int) -> pc.Expression | None:
    """Which rows are of a shard of users; None = all of them."""
    if config.shards == 1:
        return None
    return pc.bit_wise_and(pc.field("user_id"), pa.scalar(config.shards - 1, pa.int64())) == shard


def with_histories(
    impressions: pa.Table, clicks: Clicks, anchors: tuple[Ints, NDArray[np.int32]], config: ExamplesConfig
) -> pa.Table:
    """The rows with what a user's history was at `ts_ms`, with the codes that `clicks` have, and the anchor's day.

    `clicks` are those that may be in the histories; `anchors` what `anchor_days` gave."""
    user_id, ts_ms = impressions["user_id"].to_numpy(), impressions["ts_ms"].to_numpy()
    index, real = _places(clicks, user_id, ts_ms, config.history_length, round(config.delay_s * 1000))
    names = ("history_author_ids", "history_age_s", "history_watch_s")
    columns: dict[str, NDArray[Any]] = dict(zip(names, _told(clicks, ts_ms, index, real), strict=True))
    for table_of_codes, codes in clicks.on_screen.items():
        columns[f"{HISTORY}{table_of_codes}"] = seen = np.full((*index.shape, codes.shape[1]), NONE, np.int32)
        seen[real] = codes[index[real]]
    table = impressions
    for name, values in columns.items():
        table = table.append_column(name, _lists(values))
    day = lookup(*anchors, impressions["author_id"].to_numpy())
    return table.append_column("anchor_day", pa.array(day, mask=day == NO_ANCHOR).cast(pa.date32()))


def lookup(author_ids: Ints, days: NDArray[np.int32], wanted: Ints) -> NDArray[np.int32]:
    """The day of each wanted author, NO_ANCHOR where there is none."""
    if not len(author_ids):
        return np.full(len(wanted), NO_ANCHOR, dtype=np.int32)
    at = np.minimum(np.searchsorted(author_ids, wanted), len(author_ids) - 1)
    return np.where(author_ids[at] == wanted, days[at], NO_ANCHOR).astype(np.int32)


def histories(storage: Storage, days: Sequence[str], rule: HistoryRule, screens: Sequence[Screen] = ()) -> Histories:
    """Every user's newest clicks of `days`, and what was on screen at each: so many that `rule.length` known ones
    remain at any moment after them."""
    clicks = read_clicks(storage, list(days), screens=screens) if days else None
    if clicks is None or not len(clicks.user_ids):
        return Histories.none(rule, {screen.table: screen.num_codes for screen in screens})
    users = np.arange(len(clicks.user_ids))
    start = np.searchsorted(clicks.user, users, side="left")
    end = np.searchsorted(clicks.user, users, side="right")
    index = end[:, None] + np.arange(-num_stored(clicks.user, clicks.ts_ms, clicks.ts_ms[end - 1], rule), 0)
    real = index >= start[:, None]

    def newest(values: NDArray[Any], empty: int) -> NDArray[Any]:
        column = np.full((*index.shape, *values.shape[1:]), empty, dtype=values.dtype)
        column[real] = values[index[real]]
        return column

    return Histories(
        rule=rule,
        user_ids=clicks.user_ids,
        author_ids=newest(clicks.author_id, HISTORY_PAD),
        ts_ms=newest(clicks.ts_ms, 0),
        watch_s=newest(clicks.watch_time_s, 0),
        on_screen={table: newest(codes, NONE) for table, codes in clicks.on_screen.items()},
    )
