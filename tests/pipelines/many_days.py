"""A platform of many days that is written in seconds: few authors, and as much on one day as on any other."""

from datetime import date, timedelta

import numpy as np
import pyarrow as pa

from pipelines.semantics import anchors
from pipelines.semantics.anchors import AnchorsConfig
from pipelines.tables import contract
from pipelines.tables.anchor_text import canonical_text
from pipelines.tables.contract import FIELD_LIMITS, TASKS_COLUMNS
from pipelines.tables.storage import Storage

FIRST_DAY = date(2026, 1, 1)
AUTHORS, ON_AIR, USERS, IMPRESSIONS = 200, 80, 50, 400
_WORDS = ("late", "night", "used", "car", "home", "cooking", "folk", "music", "chess", "market", "river", "garden")
_PHRASES = [f"{left} {right}" for left in _WORDS for right in _WORDS if left != right]


def day_name(day: int) -> str:
    """Days count from 1."""
    return (FIRST_DAY + timedelta(days=day - 1)).isoformat()


def write_day(storage: Storage, day: int, config: AnchorsConfig) -> None:
    """All that the platform and the anchor engine of `config` leave of a day."""
    name, rng = day_name(day), np.random.default_rng([5, day])
    on_air = np.sort(rng.permutation(AUTHORS)[:ON_AIR]).tolist()
    if day == 1:
        _write(storage, "users", name, [{"user_id": u} | dict.fromkeys(_PROFILE, u % 3) for u in range(USERS)])
        _write(storage, "authors", name, [_author(a) for a in range(AUTHORS)])
    _write(storage, "segments", name, [_segment(a, day) for a in on_air])
    _write(storage, "impressions", name, _impressions(rng, on_air, day))
    written = [_anchor(a, rng) for a in on_air]
    _write(storage, "anchors", name, written, anchors.lineage(storage, config)[name])


_PROFILE = ("age_band", "gender", "region", "device")


def _write(
    storage: Storage, table: str, day: str, rows: list[dict[str, object]], made_from: dict[str, str] | None = None
) -> None:
    storage.write(table, day, [pa.Table.from_pylist(rows, schema=contract.spec(table).schema)], made_from)


def _author(author_id: int) -> dict[str, object]:
    return {
        "author_id": author_id,
        "profile": f"author {author_id}",
        "category": None,
        "tags": [],
        "first_live_day": FIRST_DAY,
    }


def _segment(author_id: int, day: int) -> dict[str, object]:
    counts = dict.fromkeys(("segment", "viewers", "likes", "gifts"), 0)
    row = {"author_id": author_id, "live_id": day * 1000 + author_id, "start_ts_ms": 0, "speech": "hello"}
    return row | counts | {"frames": [], "comments": []}


def _anchor(author_id: int, rng: np.random.Generator) -> dict[str, object]:
    fields = {
        field: [str(p) for p in rng.choice(_PHRASES, most, replace=False)] for field, most in FIELD_LIMITS.items()
    }
    about = {"model": "none", "prompt_hash": "", "schema_hash": "", "num_frames": 0, "num_comments": 0}
    return {"author_id": author_id, **fields, "text": canonical_text(fields), **about}


def _impressions(rng: np.random.Generator, on_air: list[int], day: int) -> list[dict[str, object]]:
    midnight = (FIRST_DAY + timedelta(days=day - 1)).toordinal() - date(1970, 1, 1).toordinal()
    times = midnight * 86_400_000 + np.sort(rng.integers(0, 86_400_000, IMPRESSIONS))
    rows = []
    for index, ts_ms in enumerate(times.tolist()):
        author, clicked = int(rng.choice(on_air)), int(rng.integers(0, 2))
        ids = {"impression_id": day * 10_000 + index, "user_id": int(rng.integers(0, USERS)), "author_id": author}
        labels = dict.fromkeys(TASKS_COLUMNS, 0) | {"click": clicked}
        rows.append({**ids, "live_id": day * 1000 + author, "ts_ms": ts_ms, **labels, "watch_time_s": 9.0 * clicked})
    return rows
