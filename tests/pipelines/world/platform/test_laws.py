"""A made world of these laws: one room at a time, lasting follows, resumable days, labels from known chances."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from pipelines.settings import Settings
from pipelines.tables import newest, values
from pipelines.tables.contract import TASKS_COLUMNS
from pipelines.tables.storage import Storage, StorageConfig
from pipelines.world import world
from pipelines.world.config import WorldConfig
from pipelines.world.platform.laws import Platform
from tests.pipelines.jobs import run_job

CONFIG = WorldConfig(
    laws="platform", num_days=5, warmup_days=1, num_authors=300, num_users=300, new_user_share=0.05, on_air_share=0.5,
    impressions_per_day=8000, num_points=48, recorded_segments=1, frame_size=16, teacher=True,
)  # fmt: skip
DAYS = ["2026-01-02", "2026-01-03", "2026-01-04", "2026-01-05"]
TABLES = ("authors", "users", "segments", "events", "impressions", "oracle_anchors", "oracle_impressions", "anchors")


def make(root: Path, **changes: Any) -> Storage:
    settings = Settings(seed=1, storage=StorageConfig(root=str(root)), world=replace(CONFIG, **changes))
    run_job(world, settings)
    return Storage.open(str(root), oracle=True)


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Storage:
    return make(tmp_path_factory.mktemp("platform"))


@pytest.fixture(scope="module")
def seen(storage: Storage) -> pd.DataFrame:
    """All impressions with their chances, in time order."""
    truth = storage.read_days("oracle_impressions", DAYS).to_pandas().drop(columns="impression_id").add_prefix("p_")
    rows = storage.read_days("impressions", DAYS).to_pandas()
    return pd.concat([rows, truth], axis=1)


def fingerprints(storage: Storage) -> dict[tuple[str, str], str]:
    return {(name, day): storage.fingerprint(name, day) for name in TABLES for day in storage.days(name)}


def test_every_table_keeps_the_contract(storage: Storage):
    for name in TABLES:
        for day in storage.days(name):
            values.validate(storage.read(name, day), name, day)
    assert storage.days("impressions") == storage.days("users") == DAYS
    for day in DAYS:
        rows = [storage.read(name, day)["impression_id"].to_pylist() for name in ("impressions", "oracle_impressions")]
        assert rows[0] == rows[1] == sorted(rows[0])


def test_users_join_every_day_and_are_seen_at_once(storage: Storage, seen: pd.DataFrame):
    assert [storage.read("users", day).num_rows for day in DAYS] == [315, 15, 15, 15]
    for day in DAYS:
        known = set(newest.read(storage, "users", until=day)["user_id"].to_pylist())
        here = set(storage.read("impressions", day)["user_id"].to_pylist())
        assert here <= known
        joined = set(storage.read("users", day)["user_id"].to_pylist())
        assert day == DAYS[0] or len(joined & here) >= 14


def test_nobody_sees_another_live_before_leaving_the_room(seen: pd.DataFrame):
    rows = seen.sort_values(["user_id", "ts_ms"])
    leaves = rows["ts_ms"] + 1000 * rows["watch_time_s"].astype(float)
    following = rows.groupby("user_id")["ts_ms"].shift(-1)
    assert (following.dropna() > leaves[following.notna()]).all()
    assert (rows.groupby("user_id")["ts_ms"].diff().dropna() >= 2000).all()


def test_rooms_are_open_as_long_as_anyone_is_in_them(seen: pd.DataFrame):
    laws = Platform(CONFIG, seed=1)
    plans = {p.live_id: p for day in range(5) for p in laws.plan(day)}
    start = np.array([plans[i].start_ts_ms for i in seen["live_id"]])
    length = 30_000 * np.array([plans[i].num_segments for i in seen["live_id"]])
    assert (start <= seen["ts_ms"]).all()
    assert (seen["ts_ms"] + 1000 * seen["watch_time_s"] < start + length).all()
    assert [plans[i].author_id for i in seen["live_id"]] == seen["author_id"].tolist()


@pytest.mark.parametrize("task", TASKS_COLUMNS)
def test_labels_are_drawn_from_the_oracles_chances(seen: pd.DataFrame, task: str):
    p, label = seen[f"p_{task}"].to_numpy(np.float64), seen[task].to_numpy(np.float64)
    for group in (p <= np.median(p), p > np.median(p), p > np.quantile(p, 0.99)):
        error = np.sqrt((p[group] * (1 - p[group])).sum()) / group.sum()
        assert abs(label[group].mean() - p[group].mean()) < 4 * error + 1e-9


def test_other_labels_need_a_click_and_a_long_view_is_a_minute(seen: pd.DataFrame):
    for task in ("follow", "long_view", "gift"):
        assert (seen[task] <= seen["click"]).all() and seen[task].sum() > 0
    assert ((seen["watch_time_s"] >= 60) == (seen["long_view"] == 1)).all()
    assert ((seen["watch_time_s"] > 0) == (seen["click"] == 1)).all()


def test_nobody_follows_twice_and_the_oracle_knows(seen: pd.DataFrame):
    pairs = seen.groupby(["user_id", "author_id"])["follow"]
    assert pairs.sum().max() == 1
    later = pairs.cumsum() - seen["follow"] > 0
    assert later.sum() > 100 and (seen["p_follow"][later] == 0).all()


def test_who_follows_is_shown_the_author_more_and_likes_him_better(seen: pd.DataFrame):
    """Pairs that met on the first watched day: those that followed meet far more often on the days after."""
    day = (seen["ts_ms"] - seen["ts_ms"].min()) // 86_400_000
    first = seen[day == 0].groupby(["user_id", "author_id"]).agg(follow=("follow", "max"), p=("p_click", "mean"))
    after = seen[day > 0].groupby(["user_id", "author_id"]).size()
    meets = first.assign(after=after).fillna({"after": 0})
    liked = meets[meets["p"] > meets["p"][meets["follow"] == 1].quantile(0.25)]
    assert liked["after"][liked["follow"] == 1].mean() > 1.3 * liked["after"][liked["follow"] == 0].mean()
    clicked = seen.merge(first["follow"].rename("before"), on=["user_id", "author_id"])
    assert clicked["p_click"][clicked["before"] == 1].mean() > 1.3 * clicked["p_click"][clicked["before"] == 0].mean()


def test_gifts_are_given_while_in_the_room_and_mostly_at_once(storage: Storage):
    events = storage.read_days("events", DAYS).to_pandas()
    kinds = {kind: rows.sort_values("ts_ms") for kind, rows in events.groupby("kind")}
    gifts = pd.merge_asof(
        kinds["gift"], kinds["click"][["user_id", "live_id", "ts_ms"]].assign(entered=kinds["click"]["ts_ms"]),
        on="ts_ms", by=["user_id", "live_id"],
    )  # fmt: skip
    gifts = pd.merge_asof(
        gifts, kinds["exit"][["user_id", "live_id", "ts_ms"]].assign(left=kinds["exit"]["ts_ms"]),
        on="ts_ms", by=["user_id", "live_id"], direction="forward",
    )  # fmt: skip
    assert len(gifts) > 20 and gifts["entered"].notna().all() and gifts["left"].notna().all()
    assert (gifts["ts_ms"] - gifts["entered"] <= 10_000).mean() > 0.6


def test_a_run_in_parts_gives_the_rows_of_one_run(storage: Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    whole = Platform.watch

    def dies(self: Platform, storage: Storage, name: str, day: int, *rest: Any) -> None:
        if day == 3:
            raise RuntimeError("killed")
        whole(self, storage, name, day, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(Platform, "watch", dies)
        with pytest.raises(RuntimeError, match="killed"):
            make(tmp_path)
    assert fingerprints(make(tmp_path)) == fingerprints(storage)


def test_a_day_depends_on_the_follows_of_the_days_before(tmp_path: Path):
    """The same day after nobody followed on the day before is another day: lists are state, not an attribute."""
    sizes = {"num_days": 2, "warmup_days": 0, "impressions_per_day": 4000}
    storage = make(tmp_path, **sizes)
    laws, config = Platform(replace(CONFIG, **sizes), seed=1), replace(CONFIG, **sizes)
    assert config.num_days == 2
    before = storage.fingerprint("impressions", "2026-01-02")
    rows = storage.read("impressions", "2026-01-01")
    assert sum(rows["follow"].to_pylist()) > 0
    none = np.zeros(rows.num_rows, np.uint8)
    storage.write(
        "impressions", "2026-01-01", [rows.set_column(rows.schema.get_field_index("follow"), "follow", [none])]
    )
    laws.watch(storage, "2026-01-02", 1, laws.plan(1), {})
    assert storage.fingerprint("impressions", "2026-01-02") != before


def test_few_authors_get_most_exposures_and_the_tail_is_shown(tmp_path: Path):
    """At the size of the studies: in small worlds a visit shows most of what is on air."""
    laws = Platform(WorldConfig(laws="platform", impressions_per_day=20_000), seed=1)
    storage = Storage.open(str(tmp_path), oracle=True)
    plans = laws.plan(0)
    laws.watch(storage, "2026-01-01", 0, plans, {})
    seen = storage.read("impressions", "2026-01-01").to_pandas()
    counts = seen["author_id"].value_counts()
    assert 0.2 < counts.head(20).sum() / len(seen) < 0.5
    assert len(counts) > 0.7 * len(plans)
    assert 0.25 < seen["click"].mean() < 0.32
    assert 0.05 < seen["long_view"].mean() < 0.10
    assert 0 < seen["follow"].mean() < 0.015


def test_content_does_not_matter_in_the_negative_control(tmp_path: Path):
    """Without taste for content two worlds that differ in content alone have the same first impressions."""
    laws = [Platform(replace(CONFIG, semantic_taste=False, warmup_days=0), seed=1) for _ in range(2)]
    plans = laws[0].plan(0)
    blank = [replace(p, theme=0, topics=(0,), points=(0,), audiences=(0,), format=0, scene=0) for p in plans]
    chances = []
    for root, law, lives in zip(("one", "other"), laws, (plans, blank), strict=True):
        storage = Storage.open(str(tmp_path / root), oracle=True)
        law.watch(storage, "2026-01-01", 0, lives, {})
        chances.append(storage.read("oracle_impressions", "2026-01-01"))
    assert chances[0].equals(chances[1])


def test_a_day_without_lives_has_no_exposures(tmp_path: Path):
    storage = Storage.open(str(tmp_path))
    Platform(replace(CONFIG, warmup_days=0), seed=1).watch(storage, "2026-01-01", 0, [], {})
    assert storage.read("impressions", "2026-01-01").num_rows == 0
