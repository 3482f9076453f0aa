"""A platform of many days that is written in seconds: few authors, and as much on one day as on any other."""

import time
from collections import Counter
from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path
from types import ModuleType

import numpy as np

from pipelines.ranking import publish
from pipelines.samples import examples
from pipelines.semantics import anchors, vocabulary
from pipelines.semantics.anchors import AnchorsConfig
from pipelines.semantics.corpus import corpus
from pipelines.sources.rows import to_table
from pipelines.tables.anchor_text import canonical_text
from pipelines.tables.contract import FIELD_LIMITS, TASKS_COLUMNS
from pipelines.tables.storage import Storage
from tests.pipelines.conftest import tiny_settings, train_here, write_base_tokenizer
from tests.pipelines.counting import counting

JOBS: dict[str, ModuleType] = {"anchors": anchors, "vocabulary": vocabulary, "examples": examples, "publish": publish}
"""The jobs of a day that need neither engine, as long as every anchor is written, nor trainer."""
FIRST_DAY = date(2026, 1, 1)
AUTHORS, ON_AIR, USERS, IMPRESSIONS = 200, 80, 50, 400
_WORDS = ("late", "night", "used", "car", "home", "cooking", "folk", "music", "chess", "market", "river", "garden")
_PHRASES = [f"{left} {right}" for left in _WORDS for right in _WORDS if left != right]


class Platform:
    """A store that grows by days, with a model that was trained on its first ones."""

    def __init__(self, root: Path) -> None:
        settings = tiny_settings(root)
        self.settings = replace(
            settings,
            examples=replace(settings.examples, history_days=2),
            train=replace(settings.train, base=False),
        )
        self.day = 0
        self._storage = Storage.open(self.settings.storage.root)
        self.grow(4)
        texts = corpus(self._storage, self._storage.days("anchors"))
        write_base_tokenizer([text for fields in texts for text in fields], root / "tokenizer.json")
        for name in ("vocabulary", "examples"):
            JOBS[name].run(getattr(self.settings, name), self.settings.open())
        train_here(self.settings)

    def grow(self, until: int) -> None:
        """Days arrive, up to and including this one."""
        for day in range(self.day + 1, until + 1):
            write_day(self._storage, day, self.settings.anchors)
        self.day = max(self.day, until)

    def run(self) -> tuple[dict[str, float], Counter[str]]:
        """A daily run: CPU seconds of each job, and what they ask of the file system."""
        storage, calls = counting(self.settings.storage.root)
        run, seconds = replace(self.settings.open(), storage=storage), {}
        for name, job in JOBS.items():
            started = time.process_time()
            job.run(getattr(self.settings, name), run)
            seconds[name] = time.process_time() - started
        return seconds, calls


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
    storage.write(table, day, [to_table(table, rows)], made_from)


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
