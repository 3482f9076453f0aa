"""A made live world: the contract, the truth, figures of the job, and that another run gives the same."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from models.as_of import newest_segments
from pipelines.tables import values
from pipelines.tables.contract import TASKS_COLUMNS, ContractError
from pipelines.tables.storage import Storage
from pipelines.world.ceilings import IN_FORCE, TODAY, ceilings
from pipelines.world.config import WorldConfig
from pipelines.world.live.config import LiveConfig
from pipelines.world.live.gaps import FUTURE, as_table, gaps
from tests.pipelines.world.live.conftest import CONFIG, SEED, laws_of, make

TABLES = (
    "authors", "users", "segments", "events", "impressions", "oracle_anchors", "oracle_impressions", "oracle_live",
    "oracle_segments",
)  # fmt: skip
DAYS = ["2026-01-01", "2026-01-02"]
Made = tuple[Storage, dict[str, Any]]


def columns(storage: Storage, name: str, day: str = DAYS[1]) -> dict[str, np.ndarray]:
    table = storage.read(name, day)
    return {column: table[column].to_numpy(zero_copy_only=False) for column in table.column_names}


def test_every_table_keeps_the_contract(live_world: Made):
    for name in TABLES:
        for day in DAYS:
            values.validate(live_world[0].read(name, day), name, day)


def test_truth_of_labels_is_closed_to_whoever_does_not_ask_for_it(live_world: Made):
    storage = Storage.open(live_world[0].root)
    for name in ("oracle_live", "oracle_segments"):
        with pytest.raises(ContractError, match=f"table {name} is the simulator's truth"):
            storage.read(name, DAYS[0])


def test_every_segment_is_recorded_and_its_truth_told(live_world: Made):
    laws, storage = laws_of(), live_world[0]
    for day, name in enumerate(DAYS):
        rows, truth = columns(storage, "segments", name), columns(storage, "oracle_segments", name)
        for key in ("author_id", "live_id", "segment"):
            np.testing.assert_array_equal(rows[key], truth[key])
        plans = laws.plan(day)
        assert truth["act"].tolist() == [act for plan in plans for act in plan.course.acts]
        first = plans[0].course.act_at(0)
        assert truth["scene"][0] == laws.words.scenes[first.scene] and truth["intensity"][0] == first.intensity
        assert truth["theme"][0] == laws.words.meaning(first.theme)
    assert live_world[1]["segments"] == sum(storage.read("segments", name).num_rows for name in DAYS)


def test_a_theme_has_one_meaning_in_all_wordings_and_languages(live_world: Made):
    truth = columns(live_world[0], "oracle_segments")
    by_act: dict[tuple[int, int], set[str]] = {}
    for author, act, theme in zip(truth["author_id"], truth["act"], truth["theme"], strict=True):
        by_act.setdefault((author, act), set()).add(theme)
    assert all(len(themes) == 1 for themes in by_act.values())


def test_impressions_are_of_lives_on_air_and_know_their_following_segments(live_world: Made):
    """The newest segment of the point-in-time rule is the one before the one on screen; four follow that one."""
    seen, rows = columns(live_world[0], "impressions"), columns(live_world[0], "segments")
    newest = newest_segments(rows["live_id"], rows["start_ts_ms"] + 30_000, seen["live_id"], seen["ts_ms"])[:, 0]
    has = newest >= 0
    assert has.mean() > 0.9
    first = {
        live: start
        for live, start, n in zip(rows["live_id"], rows["start_ts_ms"], rows["segment"], strict=True)
        if n == 0
    }
    current = (seen["ts_ms"] - np.array([first[live] for live in seen["live_id"]])) // 30_000
    assert (current[~has] == 0).all()
    np.testing.assert_array_equal(rows["segment"][newest[has]], current[has] - 1)
    lengths = dict(zip(*np.unique(rows["live_id"], return_counts=True), strict=True))
    assert (current + 4 < [lengths[live] for live in seen["live_id"]]).all()


@pytest.mark.parametrize("task", TASKS_COLUMNS)
def test_labels_are_drawn_from_the_oracles_chances(live_world: Made, task: str):
    for day in DAYS:
        p, label = (
            columns(live_world[0], "oracle_impressions", day)[task],
            columns(live_world[0], "impressions", day)[task],
        )
        for group in (p <= np.median(p), p > np.median(p), p > np.quantile(p, 0.98)):
            error = np.sqrt((p[group] * (1.0 - p[group])).sum()) / group.sum()
            assert abs(label[group].mean() - p[group].mean()) < 4 * error + 1e-9


def test_the_best_next_act_is_far_better_than_the_last_one(live_world: Made):
    best, repeated = (live_world[1][f"next_act_{name}_accuracy"] for name in ("best", "repeat"))
    acts = [np.array(plan.course.acts) for day in range(2) for plan in laws_of().plan(day)]
    assert repeated == pytest.approx(np.concatenate([a[1:] == a[:-1] for a in acts]).mean())
    assert best >= 1.5 * repeated and best < 0.95


def test_knowing_more_ranks_better(live_world: Made):
    figures = gaps(live_world[0])
    for task in ("click", "long_view", "gift"):
        future, present, past, author = (figures["AUC", task, k] for k in (FUTURE, "present", "past", "author"))
        assert future >= present > past > author, task
        assert (future > present) == (task != "click")
    assert figures["GAUC", "click", "present"] > figures["GAUC", "click", "author"] + 4
    assert "| GAUC, click, past |" in as_table({"one": figures})


def test_gaps_need_a_live_world(tmp_path: Path):
    with pytest.raises(ContractError, match="run the job world with world.live"):
        gaps(Storage.open(str(tmp_path)))


def test_ceilings_know_the_moment(live_world: Made):
    seen = columns(live_world[0], "impressions")
    scores = ceilings(CONFIG, SEED, live_world[0], DAYS[1], seen)
    truth = np.log(columns(live_world[0], "oracle_impressions")["click"])
    known = np.isin(seen["author_id"], columns(live_world[0], "oracle_anchors", DAYS[0])["author_id"])
    force, today = (np.corrcoef(scores[name][known], truth[known])[0, 1] for name in (IN_FORCE, TODAY))
    assert 0.3 < force < today - 0.1


def test_the_same_run_twice_gives_the_same_rows(live_world: Made, tmp_path: Path):
    assert make(str(tmp_path)) == live_world[1]
    again = Storage.open(str(tmp_path), oracle=True)
    for name in TABLES:
        for day in DAYS:
            assert again.fingerprint(name, day) == live_world[0].fingerprint(name, day), name


def test_the_control_is_another_world_with_the_same_lives(live_world: Made, tmp_path: Path):
    config = replace(CONFIG, live=LiveConfig(live_taste=False))
    make(str(tmp_path), config)
    control = Storage.open(str(tmp_path), oracle=True)
    assert control.fingerprint("oracle_segments", DAYS[0]) == live_world[0].fingerprint("oracle_segments", DAYS[0])
    truth, less = (columns(control, name) for name in ("oracle_impressions", "oracle_live"))
    for task in TASKS_COLUMNS:
        np.testing.assert_allclose(less[f"author_{task}"], truth[task], rtol=1e-4)


@pytest.mark.parametrize(("changes", "message"), [
    ({"laws": "sessions"}, "world.live: wanted the laws platform, got sessions"),
    ({"recorded_segments": 6}, "world.live: wanted all segments recorded, got 6"),
])  # fmt: skip
def test_what_does_not_go_together_is_refused(changes: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        replace(CONFIG, **changes)


@pytest.mark.parametrize(("changes", "message"), [
    ({"next_act": 1.5}, "next_act: wanted a chance"), ({"max_segments": 5}, "max_segments: wanted at least 16"),
])  # fmt: skip
def test_a_law_that_cannot_be_is_refused(changes: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        LiveConfig(**changes)


def test_without_the_section_the_world_is_as_before():
    assert WorldConfig().live is None and WorldConfig().content_matters
