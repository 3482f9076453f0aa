"""Exposures and labels of a day: drawn among the lives on air, from the oracle's probabilities."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from pipelines.tables import values
from pipelines.tables.contract import TASKS_COLUMNS
from pipelines.tables.storage import Storage
from pipelines.world import behaviour
from pipelines.world.authors import DAY_MS, day_start_ms, make_authors, plan_day
from pipelines.world.config import WorldConfig
from pipelines.world.lexicon import lexicon
from pipelines.world.lives import LivePlan

WORDS = lexicon(48)
CONFIG = WorldConfig(num_authors=200, num_users=300, num_days=2, impressions_per_day=20_000, num_points=48)
AUTHORS = make_authors(CONFIG, WORDS, seed=1)
DAY = "2026-01-01"
Columns = dict[str, NDArray[Any]]


def day_of(
    root: Path, config: WorldConfig = CONFIG, plans: list[LivePlan] | None = None, seed: int = 1
) -> tuple[Storage, Columns, Columns]:
    """Writes one day and reads it back: storage, impressions, probabilities."""
    storage = Storage.open(str(root), oracle=True)
    lives = plan_day(AUTHORS, 0, config, seed=1) if plans is None else plans
    behaviour.write_day(storage, DAY, 0, AUTHORS, lives, WORDS, config, seed, {})
    tables = [storage.read(name, DAY) for name in ("impressions", "oracle_impressions")]
    impressions, truth = ({name: t[name].to_numpy() for name in t.column_names} for t in tables)
    return storage, impressions, truth


@pytest.fixture(scope="module")
def day(tmp_path_factory: pytest.TempPathFactory) -> tuple[Storage, Columns, Columns]:
    return day_of(tmp_path_factory.mktemp("day"))


def test_the_tables_keep_the_contract(day: tuple[Storage, Columns, Columns]):
    sizes = {}
    for name in ("users", "impressions", "events", "oracle_impressions"):
        table = day[0].read(name, DAY)
        assert values.validate(table, name, DAY).equals(table), name
        sizes[name] = table.num_rows
    assert sizes["users"] == CONFIG.num_users
    assert sizes["impressions"] == sizes["oracle_impressions"] < sizes["events"]
    assert 0.8 * CONFIG.impressions_per_day < sizes["impressions"] < CONFIG.impressions_per_day, "ended lives drop out"


def test_exposures_are_of_lives_on_air_at_that_moment(day: tuple[Storage, Columns, Columns]):
    _, seen, _ = day
    plans = {p.live_id: p for p in plan_day(AUTHORS, 0, CONFIG, seed=1)}
    start = np.array([plans[i].start_ts_ms for i in seen["live_id"].tolist()])
    length = 30_000 * np.array([plans[i].num_segments for i in seen["live_id"].tolist()])
    assert (start <= seen["ts_ms"]).all() and (seen["ts_ms"] < start + length).all()
    assert [plans[i].author_id for i in seen["live_id"].tolist()] == seen["author_id"].tolist()
    midnight = day_start_ms(CONFIG.first_day, 0)
    assert midnight <= seen["ts_ms"].min() and seen["ts_ms"].max() < midnight + DAY_MS
    assert (np.diff(seen["ts_ms"]) >= 0).all() and (np.diff(seen["impression_id"]) > 0).all()


def test_a_session_shows_distinct_lives(tmp_path: Path):
    """One user with one session a day: all of the user's exposures are one session."""
    config = replace(CONFIG, num_users=4000, impressions_per_day=1000)
    _, seen, _ = day_of(tmp_path, config)
    gap = np.diff(np.sort(seen["ts_ms"]))
    assert len(gap) > 300
    users, sessions = np.unique(seen["user_id"], return_counts=True)
    singles = 0
    for user in users[sessions > 1]:
        mine = seen["user_id"] == user
        times = np.sort(seen["ts_ms"][mine])
        if np.diff(times).max() < 40_000 and len(times) <= config.session_length:
            singles += 1
            assert len(set(seen["live_id"][mine].tolist())) == mine.sum()
            assert np.diff(times).min() >= 3_000
    assert singles > 30


@pytest.mark.parametrize("task", TASKS_COLUMNS)
def test_labels_are_drawn_from_the_oracles_probabilities(day: tuple[Storage, Columns, Columns], task: str):
    _, seen, truth = day
    assert (seen["impression_id"] == truth["impression_id"]).all()
    p, label = truth[task].astype(np.float64), seen[task].astype(np.float64)
    assert ((0 < p) & (p < 1)).all()
    edges = np.quantile(p, [0, 0.25, 0.5, 0.75, 1])
    groups = [np.ones(len(p), bool), *((low <= p) & (p <= high) for low, high in zip(edges, edges[1:], strict=False))]
    for group in groups:
        error = np.sqrt((p[group] * (1 - p[group])).sum()) / group.sum()
        assert abs(label[group].mean() - p[group].mean()) < 4 * error
    assert label[p >= edges[3]].mean() > 2 * label[p <= edges[1]].mean(), "probabilities say nothing"


def test_other_labels_need_a_click_and_a_long_view_is_a_minute(day: tuple[Storage, Columns, Columns]):
    _, seen, truth = day
    for task in ("follow", "long_view", "gift"):
        assert (seen[task] <= seen["click"]).all() and 0 < seen[task].sum() < seen["click"].sum()
        assert (truth[task] <= truth["click"]).all()
    assert ((seen["watch_time_s"] >= 60) == (seen["long_view"] == 1)).all()
    assert ((seen["watch_time_s"] > 0) == (seen["click"] == 1)).all()


def test_events_tell_the_same_story_as_the_labels(day: tuple[Storage, Columns, Columns]):
    storage, seen, _ = day
    events = storage.read("events", DAY).to_pandas()
    for kind, column in (("click", "click"), ("exit", "click"), ("follow", "follow"), ("gift", "gift")):
        assert (events["kind"] == kind).sum() == seen[column].sum()
    assert (events["kind"] == "exposure").sum() == len(seen["ts_ms"])
    exits = np.sort(events["value"][events["kind"] == "exit"])
    np.testing.assert_array_equal(exits, np.sort(seen["watch_time_s"][seen["click"] == 1]))
    both = events[events["kind"].isin(["click", "exit"])].groupby(["user_id", "live_id"])["ts_ms"]
    watched = (both.max() - both.min())[both.size() == 2]
    clicked = {(u, v): w for u, v, w, c in zip(*(seen[k] for k in ("user_id", "live_id", "watch_time_s", "click")),
                                               strict=True) if c}  # fmt: skip
    assert all(abs(1000 * clicked[key] - ms) <= 1 for key, ms in watched.items())


def test_equal_seeds_give_equal_days(day: tuple[Storage, Columns, Columns], tmp_path: Path):
    again, _, _ = day_of(tmp_path / "same")
    other, _, _ = day_of(tmp_path / "other", seed=2)
    for name in ("users", "impressions", "events", "oracle_impressions"):
        assert again.fingerprint(name, DAY) == day[0].fingerprint(name, DAY) != other.fingerprint(name, DAY)


def test_popular_lives_are_shown_more(tmp_path: Path):
    """Of lives that are on air all day long, the more popular half gets most exposures."""
    always: dict[str, Any] = {"start_ts_ms": day_start_ms(CONFIG.first_day, 0), "num_segments": 2880}
    lives = [replace(p, **always) for p in plan_day(AUTHORS, 0, CONFIG, seed=1)]
    _, seen, _ = day_of(tmp_path, replace(CONFIG, impressions_per_day=5000), lives)
    popularity = {a.author_id: a.popularity for a in AUTHORS}
    ranked = sorted(lives, key=lambda p: -popularity[p.author_id])
    assert np.isin(seen["live_id"], [p.live_id for p in ranked[: len(ranked) // 2]]).mean() > 0.6


@pytest.mark.parametrize("semantic", [True, False])
def test_content_moves_the_probabilities_only_where_it_is_liked(tmp_path: Path, semantic: bool):
    """The same lives with all their content replaced: without semantic taste nothing changes, author taste stays."""
    config = replace(CONFIG, semantic_taste=semantic, impressions_per_day=2000)
    lives = plan_day(AUTHORS, 0, config, seed=1)
    blank: dict[str, Any] = {
        "theme": 3,
        "highlights": (),
        "topics": (1,),
        "points": (2,),
        "audiences": (4,),
        "format": 5,
        "scene": 6,
    }
    _, seen, truth = day_of(tmp_path / "one", config, lives)
    _, other, changed = day_of(tmp_path / "other", config, [replace(p, **blank) for p in lives])
    same = len(truth["click"]) == len(changed["click"]) and all(
        (truth[task] == changed[task]).all() for task in TASKS_COLUMNS
    )
    assert same != semantic
    if not semantic:
        assert (seen["live_id"] == other["live_id"]).all()
        authors, shown = np.unique(seen["author_id"], return_counts=True)
        one = seen["author_id"] == authors[shown.argmax()]
        assert truth["click"][one].std() > 0.01, "users do not differ in their taste for one author"


def test_a_day_without_lives_has_no_exposures(tmp_path: Path):
    storage, seen, _ = day_of(tmp_path, plans=[])
    assert len(seen["ts_ms"]) == 0
    assert storage.commit_of("events", DAY) is not None
