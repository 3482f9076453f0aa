"""Codes of what was on screen: against a plain reference, against leakage, and in examples and window examples."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.samples import examples, on_screen, window_examples, windows
from pipelines.samples.examples import ExamplesConfig
from pipelines.samples.on_screen import Screen
from pipelines.settings import Settings
from pipelines.tables.columns import to_numpy
from pipelines.tables.contract import ContractError
from pipelines.tables.storage import Storage
from tests.pipelines.jobs import run_job
from tests.pipelines.samples.screens import DAY_MS, code_row, code_the_lives, write_codes

DAYS = ("2026-01-01", "2026-01-02", "2026-01-03")
START = 20_454 * DAY_MS  # 2026-01-01
CLUSTERS = (5, 3)
CODED = ExamplesConfig(history_length=6, codes=("segment_codes",))

SEGMENTS = st.lists(
    st.tuples(st.integers(0, 1), st.integers(0, 3), st.integers(0, 2 * 2880)).filter(lambda s: s[2] >= 2880 * s[0]),
    max_size=60,
    unique_by=lambda s: s[1:],
)
"""Day of the live, live, end in half minutes: on that day, or later."""
MOMENTS = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 2 * 86_400)), min_size=1, max_size=30)
"""Live, second."""


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    yield tmp_path_factory.mktemp("screens")


@settings(max_examples=25)
@given(segments=SEGMENTS, moments=MOMENTS, delay_s=st.sampled_from([0.0, 1.5, 90.0]), parts=st.sampled_from([3, 1000]))
def test_a_moment_has_the_codes_of_the_newest_segment_that_had_ended(
    scratch: Path, segments: list[tuple[int, int, int]], moments: list[tuple[int, int]], delay_s: float, parts: int
) -> None:
    storage = Storage.open(str(scratch / str(hash((tuple(segments), delay_s, parts)))))
    ends = {(live, START + half * 30_000): [at % 5, at % 3] for at, (_, live, half) in enumerate(segments)}
    for day in (0, 1):
        of_day = [code_row(s[1], s[2], START + s[2] * 30_000, [0, 0]) for s in segments if s[0] == day]
        # One row of a live that nobody sees, so that the table has rows.
        rows = [row | {"codes": ends[row["live_id"], row["end_ts_ms"]]} for row in of_day] + [
            code_row(99, 0, START, [1, 1])
        ]
        write_codes(storage, DAYS[day], rows)
    screen = Screen(storage, "segment_codes", delay_s)
    live, ts = np.array([m[0] for m in moments]), np.array([START + m[1] * 1000 for m in moments])
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(on_screen, "_READ_TOGETHER", parts)
        found = screen.at(live, ts).tolist()
    for of, at, codes in zip(live.tolist(), ts.tolist(), found, strict=True):
        known = [end for which, end in ends if which == of and end + delay_s * 1000 <= at]
        assert codes == (ends[of, max(known)] if known else [-1, -1])


@settings(max_examples=25)
@given(
    segments=SEGMENTS,
    moment=st.integers(1, 2 * 2880),
    parts=st.sampled_from([3, 1000]),
    kept=st.none() | st.integers(0, 2880),
)
def test_an_author_has_the_newest_segments_that_were_known_of_any_of_their_lives(
    scratch: Path, segments: list[tuple[int, int, int]], moment: int, parts: int, kept: int | None
) -> None:
    """The last one, and where some half minutes are `kept` all of those."""
    storage = Storage.open(str(scratch / str(hash((tuple(segments), moment, parts, kept)))))
    # Ends differ by live, so that no two of an author are the same; authors have two lives each.
    rows = [
        code_row(live, half, START + half * 30_000 + live, [at % 5, at % 3]) | {"author_id": live // 2}
        for at, (_, live, half) in enumerate(segments)
    ]
    unseen = code_row(99, 0, START + 10**9, [1, 1])
    for day in (0, 1):
        of_day = [row for row, segment in zip(rows, segments, strict=True) if segment[0] == day]
        write_codes(storage, DAYS[day], [*of_day, unseen])
    at_ms = START + moment * 30_000
    since_ms = None if kept is None else at_ms - kept * 30_000
    screen = Screen(storage, "segment_codes", 90.0)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(on_screen, "_READ_TOGETHER", parts)
        found = screen.newest_of_authors(at_ms, since_ms=since_ms, days=None if kept is None else DAYS[:2])
    wanted: dict[int, list[dict[str, Any]]] = {}
    for row in sorted(rows, key=lambda row: row["end_ts_ms"]):
        if row["end_ts_ms"] + 90_000 <= at_ms:
            before = [] if since_ms is None else wanted.get(row["author_id"], [])
            # What was the newest one at a moment after `since_ms`: the next one ended after it.
            wanted[row["author_id"]] = [*(before if row["end_ts_ms"] > (since_ms or 0) else []), row]
    newest_rows = [row for author in sorted(wanted) for row in wanted[author]]
    for column, name in zip(found, ("author_id", "live_id", "end_ts_ms", "codes"), strict=True):
        assert column.tolist() == [row[name] for row in newest_rows]
    assert screen.newest_known_ms(DAYS[:2]) == START + 10**9 + 90_000


def test_of_two_segments_that_end_at_once_an_author_has_the_later_row(tmp_path: Path) -> None:
    storage = Storage.open(str(tmp_path))
    ends = [1000, 2000, 2000, 1000]
    write_codes(storage, DAYS[0], [code_row(10 + at, at, START + end, [at, 0]) for at, end in enumerate(ends)])
    screen = Screen(storage, "segment_codes")
    assert [of.tolist() for of in screen.newest_of_authors(START + 5000)[1:]] == [[12], [START + 2000], [[2, 0]]]
    assert screen.newest_of_authors(START + 5000, since_ms=START)[3].tolist() == [[3, 0], [2, 0]]


@pytest.fixture
def coded(tiny: Settings) -> Settings:
    """The tiny platform with codes of both tables, and examples that carry those of one."""
    code_the_lives(tiny.open().storage, CLUSTERS)
    code_the_lives(tiny.open().storage, (4,), "item_codes", "v7")
    return replace(tiny, examples=CODED)


def columns(settings: Settings, day: str, table: str = "examples") -> dict[str, Any]:
    storage = settings.open().storage
    return to_numpy(storage.read(table, day).drop_columns(["anchor_day"]))


def newest(storage: Storage, live: int, at_ms: int, table: str = "segment_codes") -> list[int]:
    """The plain rule."""
    rows = [row for day in storage.days(table) for row in _rows(storage, table, day).get(live, [])]
    known = [row for row in rows if row["end_ts_ms"] <= at_ms]
    return max(known, key=lambda row: row["end_ts_ms"])["codes"] if known else []


_ROWS: dict[tuple[str, str, str], dict[int, list[dict[str, Any]]]] = {}


def _rows(storage: Storage, table: str, day: str) -> dict[int, list[dict[str, Any]]]:
    key = (storage.url, table, day)
    if key not in _ROWS:
        by_live: dict[int, list[dict[str, Any]]] = {}
        for row in storage.read(table, day).to_pylist():
            by_live.setdefault(row["live_id"], []).append(row)
        _ROWS[key] = by_live
    return _ROWS[key]


def test_examples_carry_what_was_on_screen_at_the_impression_and_at_each_click(coded: Settings) -> None:
    both = replace(coded, examples=replace(CODED, codes=("segment_codes", "item_codes")))
    figures = run_job(examples, both)
    assert figures["days_written"] == list(DAYS) and 0.5 < figures["on_screen"]["segment_codes"] < 1
    storage = coded.open().storage
    clicks = _clicks(storage)
    of, length = columns(both, DAYS[2]), CODED.history_length
    assert of["segment_codes"].shape[1] == 2 and of["item_codes"].shape[1] == 1
    seen = 0
    for row in range(0, len(of["user_id"]), 17):
        user, ts = int(of["user_id"][row]), int(of["ts_ms"][row])
        for table, levels in (("segment_codes", 2), ("item_codes", 1)):
            expected = newest(storage, int(of["live_id"][row]), ts, table) or [-1] * levels
            assert of[table][row].tolist() == expected
            history = of[f"history_{table}"][row].reshape(length, levels)
            for item in range(length):
                clicked = [
                    at for at in clicks.get(user, {}) if abs(ts - at - 1000 * of["history_age_s"][row][item]) < 50
                ]
                if of["history_author_ids"][row][item] == -1:
                    assert (history[item] == -1).all()
                elif len(clicked) == 1:
                    wanted = newest(storage, clicks[user][clicked[0]], clicked[0], table) or [-1] * levels
                    assert history[item].tolist() == wanted
                    seen += 1
    assert seen > 50


def _clicks(storage: Storage) -> dict[int, dict[int, int]]:
    found: dict[int, dict[int, int]] = {}
    for day in DAYS:
        for row in storage.read("impressions", day, ["user_id", "live_id", "ts_ms", "click"]).to_pylist():
            if row["click"]:
                found.setdefault(row["user_id"], {})[row["ts_ms"]] = row["live_id"]
    return found


@pytest.mark.parametrize("shards", [1, 4])
def test_without_codes_nothing_differs_and_shards_change_nothing(coded: Settings, shards: int) -> None:
    storage, before = coded.open().storage, columns(coded, DAYS[1])
    stamps = [storage.fingerprint("examples", day) for day in DAYS]
    plain = replace(coded, examples=ExamplesConfig(history_length=6))
    assert run_job(examples, plain)["days_written"] == [], "the version before made the same"
    run_job(examples, replace(coded, examples=replace(CODED, shards=shards, chunk_rows=300)))
    after = columns(coded, DAYS[1])
    order = np.argsort(before["impression_id"]), np.argsort(after["impression_id"])
    assert set(after) - set(before) == {"segment_codes", "history_segment_codes"}
    for name, values in before.items():
        assert np.array_equal(values[order[0]], after[name][order[1]]), name
    if shards > 1:
        made = {name: of[order[1]] for name, of in after.items()}
        run_job(examples, coded)
        whole = columns(coded, DAYS[1])
        by_id = np.argsort(whole["impression_id"])
        assert all(np.array_equal(whole[name][by_id], of) for name, of in made.items())
    run_job(examples, plain)
    assert [storage.fingerprint("examples", day) for day in DAYS] == stamps


def test_no_segment_that_ends_later_has_a_say(coded: Settings) -> None:
    """Other codes of every segment that ends after a moment change nothing before it."""
    run_job(examples, coded)
    storage, before = coded.open().storage, columns(coded, DAYS[1])
    moment = int(np.median(before["ts_ms"]))
    for day in DAYS:
        rows = storage.read("segment_codes", day).to_pylist()
        for row in rows:
            if row["end_ts_ms"] > moment:
                row["codes"] = [(code + 1) % size for code, size in zip(row["codes"], CLUSTERS, strict=True)]
        write_codes(storage, day, rows)
    assert run_job(examples, coded)["days_written"] == [*DAYS[1:]]
    after, earlier = columns(coded, DAYS[1]), before["ts_ms"] <= moment
    for name in ("segment_codes", "history_segment_codes"):
        assert np.array_equal(before[name][earlier], after[name][earlier])
        assert not np.array_equal(before[name][~earlier], after[name][~earlier])


def test_days_are_made_again_when_the_codes_that_they_read_change(coded: Settings) -> None:
    run_job(examples, coded)
    assert run_job(examples, coded)["days_written"] == []
    storage = coded.open().storage
    rows = storage.read("segment_codes", DAYS[1]).to_pylist()
    write_codes(storage, DAYS[1], [row | {"codes": [0, 0]} for row in rows])
    assert run_job(examples, coded)["days_written"] == [*DAYS[1:]]
    assert storage.commit_of("examples", DAYS[2]).made_from["segment_codes/codebook"] == "v1"  # type: ignore[union-attr]
    late = replace(coded, examples=replace(CODED, segment_delay_s=20.0))
    assert run_job(examples, late)["days_written"] == [*DAYS]


def test_a_newest_day_without_a_row_is_passed_over(tmp_path: Path) -> None:
    storage = Storage.open(str(tmp_path))
    write_codes(storage, DAYS[1], [])
    with pytest.raises(ContractError, match="wanted the codes of segments, got days without a row; run the jobs embed"):
        Screen(storage, "segment_codes")
    write_codes(storage, DAYS[0], [code_row(1, 0, START, [3, 1], "v5")])
    assert (Screen(storage, "segment_codes").codebook, Screen(storage, "segment_codes").num_codes) == ("v5", 2)


def test_codes_that_cannot_be_read_are_told(coded: Settings) -> None:
    storage = coded.open().storage
    rows = storage.read("segment_codes", DAYS[0]).to_pylist()
    write_codes(storage, DAYS[0], [row | {"codebook": "v0"} for row in rows[:-1]] + rows[-1:])
    with pytest.raises(ContractError, match="day 2026-01-01: wanted codes of the codebook v1, .* got some of v0"):
        run_job(examples, coded)
    write_codes(storage, DAYS[0], [*rows[:-1], rows[-1] | {"codes": [1]}])
    with pytest.raises(ContractError, match=r"wanted 2 codes in each row, got \[1, 2\]; run the job codes again"):
        run_job(examples, coded)
    write_codes(storage, DAYS[0], rows)
    storage.filesystem.delete_dir(storage.folder("segment_codes", DAYS[1]))
    with pytest.raises(ContractError, match="wanted codes of the segments of 2026-01-02, a day of impressions, got"):
        run_job(examples, coded)
    # Codes that began later: days before the first one saw nothing.
    storage.filesystem.delete_dir(storage.folder("segment_codes", DAYS[0]))
    run_job(examples, coded)
    assert (columns(coded, DAYS[0])["segment_codes"] == -1).all() and (
        columns(coded, DAYS[2])["segment_codes"] >= 0
    ).any()
    storage.filesystem.delete_dir(storage.folder("segment_codes", DAYS[2]))
    with pytest.raises(ContractError, match="wanted the codes of segments, as examples.codes names it, got no day"):
        run_job(examples, coded)


def test_window_examples_carry_the_codes_of_their_impressions(coded: Settings) -> None:
    run_job(windows, coded)
    run_job(examples, coded)
    window_examples.run(coded.examples, coded.open())
    told, shown = columns(coded, DAYS[1], "window_examples"), columns(coded, DAYS[1])
    place = {int(number): row for row, number in enumerate(shown["impression_id"])}
    ours = np.isin(told["impression_id"], shown["impression_id"])
    rows = [place[int(number)] for number in told["impression_id"][ours]]
    for name in ("segment_codes", "history_segment_codes"):
        assert np.array_equal(told[name][ours], shown[name][rows])


def test_only_tables_of_codes_may_be_named() -> None:
    with pytest.raises(ValueError, match="codes: wanted some of segment_codes, item_codes, each once"):
        ExamplesConfig(codes=("tags",))
    with pytest.raises(ValueError, match="segment_delay_s: wanted 0 or more"):
        ExamplesConfig(segment_delay_s=-1.0)
