"""Sessions, exposures and labels of one simulated day.

A logging policy picks among the lives on air at that moment; labels are drawn from known probabilities, which go to
the oracle's table alone.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipelines.tables import newest
from pipelines.tables.storage import Storage
from pipelines.world import tastes
from pipelines.world.authors import DAY_MS, Author, day_start_ms
from pipelines.world.config import WorldConfig
from pipelines.world.lexicon import Lexicon
from pipelines.world.lives import LivePlan
from pipelines.world.tastes import Stage, Users

Ints = NDArray[np.int64]
Floats = NDArray[np.float32]

SESSIONS_PER_CHUNK = 2000
CONTENT, QUALITY = 1.0, 0.45  # weights of content and of the author's quality in the click logit
_CLICK, _LONG_VIEW, _FOLLOW, _GIFT = -1.8, -0.5, -2.6, -3.2  # intercepts
_LONG_VIEW_S = 60.0


@dataclass(frozen=True, kw_only=True)
class Exposures:
    """Exposures in time order; arrays are [n]."""

    user: Ints
    live: Ints
    ts_ms: Ints


def write_day(
    storage: Storage,
    name: str,
    day: int,
    everyone: list[Author],
    plans: list[LivePlan],
    words: Lexicon,
    config: WorldConfig,
    seed: int,
    made_from: dict[str, str],
) -> None:
    """Writes users (first watched day), impressions, events and the oracle's probabilities."""
    users = tastes.make_users(config, words, seed)
    if day == config.warmup_days:
        storage.write("users", name, [users.table()], made_from)
        newest.carry(storage, "users", until=name)
    stage = tastes.make_stage(plans, everyone, words, seed)
    rng = np.random.default_rng([seed, 6, day])
    shown = _expose(users, stage, day_start_ms(config.first_day, day), config, rng)
    probability = _probabilities(users, stage, shown, config)
    ids = np.arange(len(shown.ts_ms), dtype=np.int64) + (day + 1) * 10**9
    impressions = _label(users, stage, shown, probability, ids, rng)
    storage.write("impressions", name, [impressions], made_from)
    storage.write("events", name, events(impressions, 700 * impressions["watch_time_s"].to_numpy()), made_from)
    oracle = pa.table({"impression_id": ids} | {k: v.astype(np.float32) for k, v in probability.items()})
    storage.write("oracle_impressions", name, [oracle], made_from)


def _expose(users: Users, stage: Stage, start_of_day: int, config: WorldConfig, rng: np.random.Generator) -> Exposures:
    """Sessions spread over the day, each with distinct lives chosen by the logging policy."""
    count = max(1, round(config.impressions_per_day / config.session_length))
    user = rng.choice(len(users.user_id), size=count, p=users.activity)
    moment = start_of_day + (np.clip(rng.normal(0.78, 0.15, size=count), 0.02, 0.985) * DAY_MS).astype(np.int64)
    parts = []
    for first in range(0, count, SESSIONS_PER_CHUNK):
        sessions = slice(first, first + SESSIONS_PER_CHUNK)
        parts.append(_sessions(users, stage, user[sessions], moment[sessions], config, rng))
    user, live, ts_ms = (np.concatenate([p[i] for p in parts]) for i in range(3))
    order = np.argsort(ts_ms, kind="stable")
    return Exposures(user=user[order], live=live[order], ts_ms=ts_ms[order])


def _sessions(
    users: Users, stage: Stage, user: Ints, moment: Ints, config: WorldConfig, rng: np.random.Generator
) -> tuple[Ints, Ints, Ints]:
    """The policy knows popularity and guesses taste; Gumbel noise makes the top lives a draw without replacement."""
    guess = users.taste[user] @ stage.phrases.T + users.factors[user] @ stage.factors.T * config.author_taste
    score = 0.35 * guess + 0.5 * np.log(stage.popularity) + rng.gumbel(size=guess.shape)
    on_air = (stage.start_ts_ms <= moment[:, None]) & (moment[:, None] < stage.end_ts_ms)
    score[~on_air] = -np.inf
    length = min(config.session_length, score.shape[1])
    top = np.argpartition(-score, length - 1, axis=1)[:, :length]
    top_score = np.take_along_axis(score, top, axis=1)
    top = np.take_along_axis(top, np.argsort(-top_score, axis=1), axis=1)
    ts_ms = moment[:, None] + np.cumsum(rng.integers(3_000, 40_000, size=top.shape), axis=1)
    real = np.take_along_axis(on_air, top, axis=1) & (ts_ms < stage.end_ts_ms[top])
    return np.broadcast_to(user[:, None], top.shape)[real], top[real], ts_ms[real]


def _probabilities(users: Users, stage: Stage, shown: Exposures, config: WorldConfig) -> dict[str, Floats]:
    """True probability of each label: P(click), and P(click) P(label | click) for the others."""
    content = tastes.content_liking(users, stage, shown.user, shown.live, shown.ts_ms) * CONTENT
    author = tastes.author_liking(users, stage, shown.user, shown.live) * np.float32(config.author_taste)
    quality = stage.quality[shown.live] * np.float32(QUALITY)
    click = _sigmoid(_CLICK + content + author + quality)
    return {
        "click": click,
        "follow": click * _sigmoid(_FOLLOW + 0.5 * content + 1.2 * author + 0.6 * quality),
        "long_view": click * _sigmoid(_LONG_VIEW + 1.0 * content + 0.4 * author + 0.8 * quality),
        "gift": click * _sigmoid(_GIFT + 0.6 * content + 1.4 * author + 0.4 * quality),
    }


def _sigmoid(logit: Floats) -> Floats:
    return (1 / (1 + np.exp(-logit))).astype(np.float32)


def _label(
    users: Users, stage: Stage, shown: Exposures, probability: dict[str, Floats], ids: Ints, rng: np.random.Generator
) -> pa.Table:
    """Labels drawn from the probabilities; the other labels need a click, and a long view is a minute or more."""
    count = len(ids)
    click = rng.random(count) < probability["click"]
    labels = {"click": click}
    for task in ("follow", "long_view", "gift"):
        labels[task] = click & (rng.random(count) < probability[task] / probability["click"])
    watch = np.where(
        labels["long_view"],
        _LONG_VIEW_S + rng.exponential(180.0, size=count),
        np.minimum(rng.exponential(20.0, size=count), _LONG_VIEW_S - 1),
    )
    return pa.table(
        {
            "impression_id": ids,
            "user_id": users.user_id[shown.user],
            "author_id": stage.author_id[shown.live],
            "live_id": stage.live_id[shown.live],
            "ts_ms": shown.ts_ms,
            **{task: label.astype(np.uint8) for task, label in labels.items()},
            "watch_time_s": np.where(click, watch, 0.0).astype(np.float32),
        }
    )


def events(impressions: pa.Table, gift_ms: NDArray[np.floating[Any]]) -> Iterator[pa.Table]:
    """The raw behaviour behind the labels: exposures, clicks, exits with the time watched, follows and gifts.

    `gift_ms` [n]: how long after entering the room a gift was given.
    """
    base = {name: impressions[name].to_numpy() for name in ("user_id", "author_id", "live_id", "ts_ms")}
    watch = impressions["watch_time_s"].to_numpy()
    everything = np.ones(len(watch), bool)
    steps = [
        ("exposure", everything, 0 * watch, 0 * watch),
        ("click", impressions["click"].to_numpy() > 0, 0 * watch, 0 * watch + 1000),
        ("follow", impressions["follow"].to_numpy() > 0, 0 * watch, 500 * watch + 1000),
        ("gift", impressions["gift"].to_numpy() > 0, 0 * watch + 1, gift_ms + 1000),
        ("exit", impressions["click"].to_numpy() > 0, watch, 1000 * watch + 1000),
    ]
    for kind, chosen, value, delay_ms in steps:
        yield pa.table(
            {name: column[chosen] for name, column in base.items() if name != "ts_ms"}
            | {
                "ts_ms": base["ts_ms"][chosen] + delay_ms[chosen].astype(np.int64),
                "kind": pa.array([kind] * int(chosen.sum()), pa.string()),
                "value": value[chosen].astype(np.float32),
            }
        )
