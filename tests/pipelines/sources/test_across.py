"""What `validate` says between tables: each warning by itself, on a small platform that gives no reason for any."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from models.sarm.live_tokenizer.tokenizer import STATE_FILE
from pipelines.samples import examples
from pipelines.semantics import base_tokenizer, vocabulary
from pipelines.semantics.base_tokenizer import BaseTokenizerConfig
from pipelines.semantics.vocabulary import VocabularyConfig
from pipelines.settings import Settings
from pipelines.sources import across, validate
from pipelines.sources.rows import DAY_MS, anchor_row, author_row, to_table
from pipelines.tables.contract import PROFILE, TASKS_COLUMNS
from pipelines.tables.storage import Storage, StorageConfig
from tests.pipelines.jobs import run_job

BEFORE, DAYS = "2026-01-31", ("2026-02-01", "2026-02-02", "2026-02-03")
FIRST_MS = 1_769_904_000_000
USERS, AUTHORS = 4, 5
Change = Callable[[dict[str, Any]], dict[str, Any] | None]


def _impressions(day: int) -> list[dict[str, Any]]:
    """Every user meets every author each day; all labels have both classes."""
    rows = []
    for number in range(USERS * AUTHORS):
        user, author = divmod(number, AUTHORS)
        ids = {"impression_id": 100 * day + number, "user_id": user, "author_id": author, "live_id": author}
        labels = {task: int((number + shift) % 2 == 0) for shift, task in enumerate(TASKS_COLUMNS)}
        rows.append({**ids, "ts_ms": FIRST_MS + day * DAY_MS + 1000 * number, **labels, "watch_time_s": 1.0})
    return rows


@pytest.fixture
def platform(tmp_path: Any) -> Settings:
    """Tables in order: nothing is said of them."""
    storage = Storage.open(str(tmp_path / "store"))
    anchors = [anchor_row(a, {"theme": [f"late night talk {a}"]}, "test") for a in range(AUTHORS)]
    people = [{"user_id": u, **dict.fromkeys(PROFILE, -1)} for u in range(USERS)]
    storage.write(
        "authors", BEFORE, [to_table("authors", [author_row(a, "", None, [], BEFORE) for a in range(AUTHORS)])]
    )
    storage.write("anchors", BEFORE, [to_table("anchors", anchors)])
    storage.write("users", BEFORE, [to_table("users", people)])
    for number, day in enumerate(DAYS):
        storage.write("impressions", day, [to_table("impressions", _impressions(number))])
    return Settings(
        run_dir=str(tmp_path / "run"),
        storage=StorageConfig(root=str(tmp_path / "store")),
        base_tokenizer=BaseTokenizerConfig(size=256),
        vocabulary=VocabularyConfig(base_tokenizer=str(tmp_path / "run" / "tokenizer.json"), min_frequency=2),
    )


def _change(settings: Settings, name: str, change: Change) -> None:
    """Applies a change to every row of a table; rows that become None go."""
    storage = Storage.open(settings.storage.root)
    for day in storage.days(name):
        changed = [change(row) for row in storage.read(name, day).to_pylist()]
        storage.write(name, day, [to_table(name, [row for row in changed if row is not None])])


def _warnings(settings: Settings) -> list[str]:
    found: list[str] = run_job(validate, settings)["validate/warnings"]
    return found


def test_tables_in_order_give_no_warning(platform: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    assert _warnings(platform) == []
    for job in (base_tokenizer, vocabulary, examples):
        run_job(job, platform)
    assert _warnings(platform) == [] and "warning" not in capsys.readouterr().out


def test_users_nobody_knows_are_counted(platform: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    _change(platform, "users", lambda row: row if row["user_id"] != 2 else None)
    (warning,) = _warnings(platform)
    assert "15 of 60 (25.0 %) name 1 users that the table users does not hold, for example 2; add them" in warning
    assert f"warning: {warning}" in capsys.readouterr().out.splitlines(), "each one is a line of its own"


def test_authors_nobody_knows_are_counted(platform: Settings) -> None:
    _change(platform, "authors", lambda row: row if row["author_id"] < 3 else None)
    (warning,) = _warnings(platform)
    assert "24 of 60 (40.0 %) name 2 authors that the table authors does not hold, for example 3" in warning


def test_impressions_before_the_authors_first_anchor_are_counted(platform: Settings) -> None:
    storage = Storage.open(platform.storage.root)
    late = storage.read("anchors", BEFORE).slice(0, 1)
    _change(platform, "anchors", lambda row: row if row["author_id"] else None)
    storage.write("anchors", DAYS[1], [late])  # known before the third day alone
    (warning,) = _warnings(platform)
    assert "8 of 60 (13.3 %) impressions are of an author without an anchor of a day before" in warning
    storage.write("anchors", BEFORE, [])
    assert "56 of 60" in _warnings(platform)[0]
    storage.write("anchors", DAYS[1], [])
    assert "60 of 60" in _warnings(platform)[0]


@pytest.mark.parametrize("value", [0, 1])
def test_a_label_of_one_class_is_named(platform: Settings, value: int) -> None:
    _change(platform, "impressions", lambda row: row | {"gift": value})
    (warning,) = _warnings(platform)
    assert f"the label gift is {value} in all 60 rows" in warning


def test_a_single_day_is_named(platform: Settings) -> None:
    storage = Storage.open(platform.storage.root)
    for day in DAYS[1:]:
        storage.write("impressions", day, [])
    (warning,) = _warnings(platform)
    assert f"one day only, {DAYS[0]}" in warning and "at least two" in warning


@pytest.mark.parametrize("changes", [{"history_days": 0}, {"delay_s": 10 * DAY_MS / 1000}])
def test_histories_that_lose_earlier_clicks_are_counted(
    platform: Settings, caplog: pytest.LogCaptureFixture, changes: dict[str, Any]
) -> None:
    run_job(examples, replace(platform, examples=replace(platform.examples, **changes)))
    (warning,) = _warnings(platform)
    assert warning.startswith("table examples: empty histories: ") and "examples.history_days" in warning
    storage = Storage.open(platform.storage.root)
    assert f"{_lost(storage)} of 60 (" in warning and _lost(storage) > 0
    assert warning.removeprefix("table examples: ") in caplog.text, "the job examples says the same"


def _lost(storage: Storage) -> int:
    """Examples without a history whose user has an earlier click, one by one."""
    clicks = [row for day in DAYS for row in storage.read("impressions", day).to_pylist() if row["click"]]
    return sum(
        set(row["history_author_ids"]) == {-1}
        and any(click["user_id"] == row["user_id"] and click["ts_ms"] < row["ts_ms"] for click in clicks)
        for day in DAYS
        for row in storage.read("examples", day).to_pylist()
    )


def test_no_click_at_all_leaves_every_history_empty(platform: Settings, caplog: pytest.LogCaptureFixture) -> None:
    _change(platform, "impressions", lambda row: row | {"click": 0})
    run_job(examples, platform)
    assert "empty histories: all 60, as no user had clicked before" in caplog.text
    labels, histories = _warnings(platform)
    assert "the label click is 0 in all 60 rows" in labels and "empty histories: all 60" in histories


def test_what_the_tokenizer_does_is_said_again(platform: Settings, caplog: pytest.LogCaptureFixture) -> None:
    run_job(base_tokenizer, platform)
    odd = replace(platform, vocabulary=replace(platform.vocabulary, min_frequency=1000, max_tokens=8))
    run_job(vocabulary, odd)
    merges, cut = _warnings(platform)
    assert merges.startswith("artifact tokenizer: no merges: ")
    assert "artifact tokenizer: anchors cut: 5 of 5 (100.0 %) are longer than vocabulary.max_tokens = 8" in cut
    assert all(warning.removeprefix("artifact tokenizer: ") in caplog.text for warning in (merges, cut))


def test_a_tokenizer_that_cannot_be_read_is_a_warning(platform: Settings) -> None:
    run_job(base_tokenizer, platform)
    run_job(vocabulary, platform)
    for state in across.Artifacts(Storage.open(platform.storage.root)).fetch("tokenizer").parent.rglob(STATE_FILE):
        state.write_text('{"format": "old"}')
    (warning,) = _warnings(platform)
    assert "the job vocabulary makes it again" in warning


def test_a_few_strangers_among_many_rows_are_no_warning(platform: Settings) -> None:
    storage = Storage.open(platform.storage.root)
    table = storage.read("impressions", DAYS[0]).to_pylist()
    more = [row | {"impression_id": 1000 + n + 100 * row["impression_id"]} for n in range(10) for row in table]
    stranger = more[0] | {"impression_id": 999_999, "user_id": 77}
    storage.write("impressions", DAYS[0], [to_table("impressions", [*more, stranger])])
    assert _warnings(platform) == []


def test_warnings_wait_until_there_are_no_errors(platform: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    _change(platform, "impressions", lambda row: row | {"gift": 0})
    storage = Storage.open(platform.storage.root)
    next(Path(storage.folder("users", storage.days("users")[0])).glob("*.parquet")).write_bytes(b"")
    with pytest.raises(ValueError, match="wanted a Parquet file"):
        run_job(validate, platform)
    assert "warning" not in capsys.readouterr().out
