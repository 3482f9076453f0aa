"""The job windows over storage: days, midnights, late events, kills, and the simulated worlds."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from pipelines.samples import windows
from pipelines.samples.windows_config import SourceConfig, WindowsConfig
from pipelines.settings import Settings
from pipelines.sources import validate
from pipelines.sources.validate import ValidateConfig
from pipelines.tables import contract, values
from pipelines.tables.contract import ContractError
from pipelines.tables.storage import Storage, StorageConfig
from pipelines.world import world
from pipelines.world.config import WorldConfig
from tests.pipelines.jobs import run_job
from tests.pipelines.samples.logs import DAY, START_MS, Event, as_table, reference, rows_between, told, visit

BEFORE, AFTER, THIRD = "2026-01-01", "2026-01-03", "2026-01-04"
DAY_S = 86_400
MIDNIGHT = DAY_S  # the end of DAY, in seconds after its beginning


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(run_dir=str(tmp_path / "run"), storage=StorageConfig(root=str(tmp_path / "store")))


def storage_of(settings: Settings) -> Storage:
    return Storage.open(settings.storage.root)


def with_windows(settings: Settings, **config: Any) -> Settings:
    return replace(settings, windows=WindowsConfig(**config))


def bring(settings: Settings, by_day: dict[str, Sequence[Event]]) -> None:
    for day, events in by_day.items():
        storage_of(settings).write("events", day, [as_table(events)])


def run(settings: Settings) -> dict[str, Any]:
    return run_job(windows, settings)


def all_rows(settings: Settings) -> pa.Table:
    storage = storage_of(settings)
    return pa.concat_tables([storage.read("windows", day) for day in storage.days("windows")])


EVENING = [
    *visit(at=100, user=4, click=1, gift=3, exit=(70, 69.0)),
    *visit(at=MIDNIGHT - 100, user=1, click=1, follow=150, exit=(200, 199.0)),  # over on the next day
    *visit(at=MIDNIGHT - 20, user=2),  # its timeout is behind midnight
    *visit(at=MIDNIGHT - 40, user=3, click=1, exit=(20, 19.0)),  # the window ends at midnight itself
]
MORNING = [*visit(at=MIDNIGHT + 20, user=5), *visit(at=MIDNIGHT + 500, user=2, click=5, exit=(9, 4.0))]


def test_visits_are_carried_over_midnight(settings: Settings) -> None:
    bring(settings, {DAY: EVENING, AFTER: MORNING})
    metrics = run(settings)
    expected = reference([*EVENING, *MORNING], WindowsConfig())
    storage, tasks = storage_of(settings), settings.windows.tasks
    assert metrics["days_written"] == [DAY, AFTER]
    assert told(storage.read("windows", DAY), tasks) == rows_between(expected, 0, MIDNIGHT)
    assert told(storage.read("windows", AFTER), tasks) == rows_between(expected, MIDNIGHT, 2 * DAY_S)
    assert told(all_rows(settings), tasks) == expected
    assert expected[3, 10, START_MS + (MIDNIGHT - 40) * 1000]["gift"] == (MIDNIGHT, 0, "exit")
    assert metrics["visits"] == 6 and metrics["events"] == len(EVENING) + len(MORNING)
    assert metrics["tasks"]["follow"]["accuracy"] == 1.0 and metrics["unmatched"] == 0


@pytest.mark.parametrize("labels", [{"labels": "sliver"}, {"labels": "fixed", "window_s": 3600.0}])
def test_so_are_those_of_the_other_labels(settings: Settings, labels: dict[str, Any]) -> None:
    settings = with_windows(settings, **labels)
    bring(settings, {DAY: EVENING, AFTER: MORNING})
    run(settings)
    assert told(all_rows(settings), settings.windows.tasks) == reference([*EVENING, *MORNING], settings.windows)


def test_a_later_run_makes_what_is_new_and_changes_nothing_told(settings: Settings) -> None:
    bring(settings, {DAY: EVENING})
    assert run(settings)["days_written"] == [DAY]
    first = storage_of(settings).read("windows", DAY)
    bring(settings, {AFTER: MORNING})
    assert run(settings)["days_written"] == [AFTER]
    assert run(settings)["days_written"] == []
    assert storage_of(settings).read("windows", DAY).equals(first)
    assert told(all_rows(settings), settings.windows.tasks) == reference([*EVENING, *MORNING], settings.windows)


def test_one_run_over_many_days_is_many_runs_over_one(settings: Settings, tmp_path: Path) -> None:
    other = replace(settings, storage=StorageConfig(root=str(tmp_path / "other")))
    bring(settings, {DAY: EVENING, AFTER: MORNING})
    run(settings)
    for day, events in {DAY: EVENING, AFTER: MORNING}.items():
        bring(other, {day: events})
        run(other)
    for day in (DAY, AFTER):
        assert storage_of(settings).fingerprint("windows", day) == storage_of(other).fingerprint("windows", day)


@pytest.mark.parametrize("config", [{"batch_rows": 1}, {"batch_rows": 5}, {"batch_rows": 3, "lateness_s": 0.0}])
def test_batches_do_not_change_a_byte(settings: Settings, tmp_path: Path, config: dict[str, Any]) -> None:
    other = with_windows(replace(settings, storage=StorageConfig(root=str(tmp_path / "other"))), **config)
    for one in (settings, other):
        bring(one, {DAY: EVENING, AFTER: MORNING})
        run(one)
    for day in (DAY, AFTER):
        assert storage_of(settings).fingerprint("windows", day) == storage_of(other).fingerprint("windows", day)


def test_files_hold_chunk_rows_and_no_batch_size_makes_a_day_stale(settings: Settings) -> None:
    settings = with_windows(settings, batch_rows=2, chunk_rows=3)
    bring(settings, {DAY: EVENING})
    rows = run(settings)["windows"]
    commit = storage_of(settings).commit_of("windows", DAY)
    assert commit is not None and commit.rows == rows and len(commit.files) == -(-rows // 3)
    assert run(with_windows(settings, batch_rows=7))["days_written"] == []
    assert run(with_windows(settings, long_view_s=30.0))["days_written"] == [DAY]


def test_days_without_events_hold_what_ended_on_them(settings: Settings) -> None:
    """DAY has an evening, AFTER no events at all, THIRD is there and empty, and then comes a day with events."""
    last = "2026-01-05"
    bring(settings, {DAY: EVENING})
    storage_of(settings).write("events", THIRD, [])
    bring(settings, {last: visit(at=3 * DAY_S + 10, user=9)})
    metrics = run(settings)
    assert AFTER in metrics["days_written"] and last in metrics["days_written"]
    late_evening = rows_between(reference(EVENING, settings.windows), MIDNIGHT, 2 * DAY_S)
    assert told(storage_of(settings).read("windows", AFTER), settings.windows.tasks) == late_evening
    assert len(late_evening) == 3
    assert run(settings)["days_written"] == []


def test_an_event_after_midnight_may_stand_with_its_exposure(settings: Settings) -> None:
    """As the simulated platform writes them: an exit of the next day stands in the day of its exposure."""
    log = visit(at=MIDNIGHT - 5, click=1, gift=700, exit=(900, 899.0))
    for source in (SourceConfig(), SourceConfig(order="arrival")):
        settings = with_windows(settings, source=source)
        bring(settings, {DAY: log, AFTER: MORNING})
        metrics = run(settings)
        assert metrics["late"] == metrics["unmatched"] == 0
        assert told(all_rows(settings), settings.windows.tasks) == reference([*log, *MORNING], settings.windows)


def test_late_events_are_counted_and_rejected_and_the_rest_goes_on(settings: Settings) -> None:
    settings = with_windows(
        settings, source=SourceConfig(order="arrival"), lateness_s=60.0, listed_late=2, batch_rows=2
    )
    gifts = [Event(10.0 + n, "gift") for n in range(4)]
    bring(settings, {DAY: [*visit(click=1, exit=(30, 29.0)), Event(100, "exposure", user=2), *gifts]})
    metrics = run(settings)
    assert metrics["late"] == 4
    rejected = storage_of(settings).read("rejections", DAY).to_pylist()
    assert {row["reason"] for row in rejected} == {"late_event"} and {row["stage"] for row in rejected} == {"windows"}
    assert {row["key"]: row["attempts"] for row in rejected} == {
        f"event gift of user 1, live 10, {START_MS + 10_000} ms": 1,
        f"event gift of user 1, live 10, {START_MS + 11_000} ms": 1,
        "events not listed": 2,
    }
    found = told(storage_of(settings).read("windows", DAY), settings.windows.tasks)
    assert found[1, 10, START_MS]["gift"] == (60, 0, "exit")
    run(with_windows(settings, source=SourceConfig(order="arrival"), lateness_s=300.0))
    assert storage_of(settings).read("rejections", DAY).num_rows == 0


@pytest.mark.parametrize("order", ["time", "arrival"])
def test_an_event_of_a_day_that_is_done_is_late(settings: Settings, order: str) -> None:
    settings = with_windows(settings, source=SourceConfig(order=order))
    bring(settings, {DAY: EVENING, AFTER: [*MORNING, Event(MIDNIGHT - 99, "gift")]})
    metrics = run(settings)
    assert metrics["late"] == 1 and storage_of(settings).read("rejections", AFTER).num_rows == 1
    expected = reference([*EVENING, *MORNING], settings.windows)
    assert told(all_rows(settings), settings.windows.tasks) == expected


def test_repeats_count_once(settings: Settings) -> None:
    log = visit(click=1, gift=3, exit=(70, 69.0))
    path = Path(settings.storage.root) / "tables" / "events" / f"day={DAY}"
    path.mkdir(parents=True)
    for number in range(2):  # a user's own files: a job would refuse to write the same key twice
        pq.write_table(as_table(log), path / f"{number}.parquet")
    metrics = run(settings)
    assert metrics["duplicates"] == len(log)
    assert told(all_rows(settings), settings.windows.tasks) == reference(log, settings.windows)


@pytest.mark.parametrize("order", ["time", "arrival"])
@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (Event(5, "wave"), "column kind: wanted one of exposure, click"),
        (Event(5, "exit", value=float("nan")), "column value: wanted finite numbers"),
        (Event(5 - 2 * DAY_S, "click"), "column ts_ms: wanted milliseconds since 1970 that lie within the day"),
    ],
)
def test_values_that_no_event_has_are_errors(settings: Settings, order: str, wrong: Event, said: str) -> None:
    path = Path(settings.storage.root) / "tables" / "events" / f"day={DAY}"
    path.mkdir(parents=True)
    pq.write_table(as_table([*visit(click=1), wrong]), path / "mine.parquet")
    with pytest.raises(ContractError, match=said):
        run(with_windows(settings, source=SourceConfig(order=order)))
    assert storage_of(settings).days("windows") == []


class Killed(BaseException):
    """A kill, at a moment that a test chooses."""


@pytest.mark.parametrize("moment", ["_commit", "put", "write_json"])
def test_a_kill_neither_loses_nor_doubles_a_row(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    """At the second day's commit, at its first file, or once its commit is there and the job has not gone on."""
    bring(settings, {DAY: EVENING, AFTER: MORNING, THIRD: visit(at=2 * DAY_S + 5)})
    expected = reference([*EVENING, *MORNING, *visit(at=2 * DAY_S + 5)], settings.windows)
    real = getattr(Storage, moment)
    calls = 0

    def dies(self: Storage, *args: Any) -> Any:
        nonlocal calls
        if moment == "_commit":
            is_it = args[0] == "windows" and args[1] == AFTER
        elif moment == "put":
            is_it = "windows/day=" + AFTER in args[0]
        else:
            is_it = f"windows/day={AFTER}/_COMMIT" in args[0]
        if moment == "write_json" and is_it:
            real(self, *args)
        if is_it:
            calls += 1
            raise Killed
        return real(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(Storage, moment, dies)
        with pytest.raises(Killed):
            run(settings)
    assert calls
    run(settings)
    assert told(all_rows(settings), settings.windows.tasks) == rows_between(expected, 0, 3 * DAY_S)


def test_a_day_that_changes_makes_only_those_stale_that_read_it(settings: Settings) -> None:
    days = [f"2026-01-0{number}" for number in range(2, 7)]
    bring(settings, {day: visit(at=n * DAY_S + 50, user=n) for n, day in enumerate(days)})
    assert run(settings)["days_written"] == days
    bring(settings, {days[0]: visit(at=51, user=77)})
    assert run(settings)["days_written"] == days[:3]


def test_an_impression_s_own_id_is_taken(settings: Settings) -> None:
    log = [*visit(click=1, exit=(5, 4.0)), *visit(at=50, user=2)]
    bring(settings, {DAY: log})
    schema = contract.spec("impressions").schema
    shown = dict.fromkeys(schema.names, 0) | {"user_id": 1, "author_id": 70, "live_id": 10, "ts_ms": START_MS}
    rows = [{**shown, "impression_id": 42}, {**shown, "impression_id": 43, "live_id": 11}]
    storage_of(settings).write("impressions", DAY, [pa.Table.from_pylist(rows, schema=schema)])
    run(settings)
    ids = {row["user_id"]: row["impression_id"] for row in all_rows(settings).to_pylist()}
    assert ids[1] == 42 and ids[2] > 2**32


@pytest.mark.parametrize("laws", ["platform", "sessions"])
def test_moment_is_the_truth_of_a_simulated_world(settings: Settings, laws: str) -> None:
    size = WorldConfig(
        laws=laws, num_days=3, num_authors=60, num_users=900, impressions_per_day=3000, recorded_segments=1
    )  # fmt: skip
    settings = replace(settings, seed=3, world=size)
    run_job(world, settings)
    metrics = run(settings)
    storage = storage_of(settings)
    rows = all_rows(settings)
    shown = storage.read_days("impressions", storage.days("impressions"), None)
    if laws == "sessions":  # a user may see a live again while still in its room: nobody knows whose events those are
        once = shown.group_by(["user_id", "live_id"]).aggregate([([], "count_all")])
        shown = shown.join(once.filter(pc.equal(once["count_all"], 1)), ["user_id", "live_id"], join_type="left semi")
    assert shown.num_rows > 2000
    for task in ("click", "follow", "gift"):
        said = rows.filter(pc.equal(rows[f"mask_{task}"], 1)).select(["impression_id", task])
        both = said.join(
            shown.select(["impression_id", task]), "impression_id", join_type="inner", right_suffix="_true"
        )
        # Whoever is in a room when the last day ends is waited for.
        assert 0.98 * shown.num_rows < both.num_rows <= shown.num_rows
        assert pc.all(pc.equal(both[task], both[f"{task}_true"])).as_py()
        assert pc.sum(both[task]).as_py() > 0
    assert metrics["tasks"]["long_view"]["found"] > 100
    assert {of["accuracy"] for of in metrics["tasks"].values()} == {1.0}
    assert metrics["late"] == metrics["duplicates"] == metrics["unmatched"] == 0
    exits = rows.filter(pc.equal(rows["reason"], "exit"))
    assert exits.num_rows > 100 and metrics["tasks"]["click"]["delay_p90_s"] < 30
    config = ValidateConfig(tables=("windows", "events"))
    assert run_job(validate, replace(settings, validate=config))["validate/rows"] > rows.num_rows


def test_five_minutes_lose_what_comes_later(settings: Settings) -> None:
    bring(settings, {DAY: visit(click=1, gift=500, exit=(900, 899.0))})
    assert run(settings)["tasks"]["gift"]["accuracy"] == 1.0
    metrics = run(with_windows(settings, labels="fixed", window_s=300.0))
    assert metrics["tasks"]["gift"] == {
        "reported": 1, "accuracy": 0.0, "happened": 1, "found": 0, "delay_mean_s": None, "delay_p90_s": None,
    }  # fmt: skip


def test_the_table_says_which_columns_are_labels(settings: Settings) -> None:
    settings = with_windows(settings, tasks=("gift", "click"))
    bring(settings, {DAY: visit(click=1, exit=(5, 4.0))})
    run(settings)
    storage = storage_of(settings)
    assert storage.labels("windows", DAY) == ["click", "gift"]
    rows = storage.read("windows", DAY)
    assert rows.schema.names[-4:] == ["click", "mask_click", "gift", "mask_gift"]
    with pytest.raises(ContractError, match=r"missing column\(s\) mask_gift"):
        storage.write("windows", AFTER, [rows.drop_columns("mask_gift")])
    two = rows.set_column(rows.schema.names.index("mask_gift"), "mask_gift", pa.array([2] * rows.num_rows, pa.uint8()))
    with pytest.raises(ContractError, match="column mask_gift: wanted 0 or 1, got 2"):
        storage.write("windows", AFTER, [two])
    with pytest.raises(ContractError, match="column window_end_ms: wanted milliseconds since 1970 that lie within"):
        values.validate(rows, "windows", AFTER)


def test_no_events_is_an_error_that_names_the_table(settings: Settings) -> None:
    with pytest.raises(ContractError, match="table events: wanted at least one day"):
        run(settings)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"labels": "momnet"}, "labels: wanted one of moment, sliver, fixed, got momnet"),
        ({"tasks": ("follow",)}, "tasks: wanted click and others of"),
        ({"tasks": ("click", "share")}, "tasks: wanted"),
        ({"window_s": 0.0}, "window_s"),
        ({"visit_timeout_s": 10.0}, r"visit_timeout_s: wanted at least click_timeout_s \(60.0\), got 10.0"),
        ({"batch_rows": 0}, "batch_rows"),
    ],
)
def test_wrong_settings_are_refused(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        WindowsConfig(**wrong)


def test_rows_are_in_the_order_of_time(settings: Settings) -> None:
    settings = with_windows(settings, batch_rows=4, chunk_rows=2)
    bring(settings, {DAY: EVENING, AFTER: MORNING})
    run(settings)
    assert (np.diff(all_rows(settings)["window_end_ms"].to_numpy()) >= 0).all()
