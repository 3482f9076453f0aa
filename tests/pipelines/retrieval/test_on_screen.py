"""What was on screen of lives: the newest segment that had ended, and the mean of all that its author had shown by
then; the same whoever asks and however the table is cut, and nothing that ends later."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipelines.retrieval import on_screen
from pipelines.semantics import segment_vectors
from pipelines.semantics.segment_vectors import Space
from pipelines.tables.storage import Storage
from tests.pipelines.semantics.embedded import MODEL, table

DAYS = ("2026-01-01", "2026-01-02", "2026-01-03", "2026-01-04")
SPACE = Space(model=MODEL, width=3)
Row = dict[str, Any]


def row(author: int, live: int, segment: int, end: int, vector: list[float]) -> Row:
    return {
        "author_id": author, "live_id": live, "segment": segment, "end_ts_ms": end,
        "embedding": np.array(vector, np.float16), "model": MODEL,
    }  # fmt: skip


def store(folder: Path, by_day: dict[str, list[Row]]) -> Storage:
    storage = Storage.open(str(folder))
    for day, rows in by_day.items():
        storage.write("segment_embeddings", day, [table(rows[at::2]) for at in range(2) if rows[at::2]])
    return storage


def expected(by_day: dict[str, list[Row]], day: str, live: int, at: int, days: int, delay: int) -> Any:
    """r and m by the words of the rule."""
    before = DAYS[DAYS.index(day) - 1]
    own = [(of, row) for of in (before, day) for row in by_day.get(of, []) if row["live_id"] == live]
    known = [(row["end_ts_ms"], of, row) for of, row in own if row["end_ts_ms"] + delay <= at]
    if not known:
        return None
    newest = max(end for end, _, _ in known)
    end, of, of_live = next(one for one in known if one[0] == newest)
    window = DAYS[max(0, DAYS.index(of) - days + 1) : DAYS.index(of) + 1]
    rows = [row for d in window for row in by_day.get(d, []) if row["author_id"] == of_live["author_id"]]
    shown = [row["embedding"].astype(np.float64) for row in rows if row["end_ts_ms"] <= end]
    return of_live["embedding"].astype(np.float32), np.mean(shown, axis=0)


@st.composite
def platforms(draw: st.DrawFn) -> dict[str, list[Row]]:
    """Up to three authors with lives that may go on over midnight; ends are unique within a live."""
    by_day: dict[str, list[Row]] = {}
    for number, day in enumerate(DAYS):
        rows = []
        for author in range(3):
            ends = draw(st.lists(st.integers(0, 14), unique=True, max_size=5))
            live = 10 * author + draw(st.integers(0, number))
            values = draw(st.lists(st.integers(-8, 8), min_size=3 * len(ends), max_size=3 * len(ends)))
            vectors = np.reshape(values, (-1, 3)) / 4
            # `live` may have been on air the day before, too: its segments have other ends then.
            rows += [
                row(author, live, 100 * number + at, 20 * number + end, vectors[at].tolist())
                for at, end in enumerate(ends)
            ]
        by_day[day] = rows
    return by_day


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(by_day=platforms(), days=st.integers(1, 3), delay=st.integers(0, 6), data=st.data())
def test_what_was_known_is_what_the_rule_says(
    by_day: dict[str, list[Row]], days: int, delay: int, data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    storage = store(tmp_path_factory.mktemp("store"), by_day)
    asked = data.draw(st.lists(st.tuples(st.integers(0, 25), st.integers(55, 95)), min_size=1, max_size=8))
    lives, moments = (np.array(of, np.int64) for of in zip(*asked, strict=True))
    found = on_screen.at_moments(storage, SPACE, DAYS[3], lives, moments, mean_days=days, delay_ms=delay)
    for at, (live, moment) in enumerate(asked):
        wanted = expected(by_day, DAYS[3], live, moment, days, delay)
        assert found.known[at] == (wanted is not None)
        now, mean = (np.zeros(3), np.zeros(3)) if wanted is None else wanted
        np.testing.assert_array_equal(found.now[at], now)
        np.testing.assert_allclose(found.mean[at], mean, atol=1e-6)


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(by_day=platforms(), at=st.integers(60, 75), data=st.data())
def test_nothing_that_ends_later_has_a_say(
    by_day: dict[str, list[Row]], at: int, data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Whatever is done to segments that end after a moment, what is said of it stays."""
    lives = np.arange(26)
    moments = np.full(26, at)
    changed = {
        day: [
            row
            if row["end_ts_ms"] <= at
            else row | {"embedding": np.full(3, data.draw(st.integers(-9, 9)), np.float16)}
            for row in rows
            if row["end_ts_ms"] <= at or data.draw(st.booleans())
        ]
        for day, rows in by_day.items()
    }
    before, after = (
        on_screen.at_moments(store(tmp_path_factory.mktemp("store"), of), SPACE, DAYS[3], lives, moments, mean_days=3)
        for of in (by_day, changed)
    )
    for one, other in zip(before, after, strict=True):
        np.testing.assert_array_equal(one, other)


def test_parts_change_no_bit_and_bad_rows_are_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    rows = [
        row(author, author, at, 30 * at + author, rng.normal(size=3).tolist())
        for author in range(40)
        for at in range(60)
    ]
    bad = row(5, 5, 99, 1795, [float("nan")] * 3)
    storage = store(tmp_path / "a", {DAYS[2]: rows[:900], DAYS[3]: [*rows[900:], bad]})
    whole = on_screen.at_moments(storage, SPACE, DAYS[3], np.arange(40), np.full(40, 1800), mean_days=2)
    monkeypatch.setattr(segment_vectors, "_NUMBERS", 300)
    pieces = on_screen.at_moments(storage, SPACE, DAYS[3], np.arange(40), np.full(40, 1800), mean_days=2)
    assert whole.known.all()
    for one, other in zip(whole, pieces, strict=True):
        np.testing.assert_array_equal(one, other)
    np.testing.assert_array_equal(whole.now[5], rows[5 * 60 + 59]["embedding"].astype(np.float32))
