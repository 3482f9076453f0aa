"""Viewers of the laws `platform`: who they are, when they join, what they like and how that moves.

A viewer's liking of an attribute value is what nearly everyone feels, what the viewer's group feels, and an own part.
"""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipelines.world.config import WorldConfig
from pipelines.world.lexicon import CATEGORIES
from pipelines.world.platform.phrases import Attributes
from pipelines.world.tastes import FACTORS, PROFILE_SIZES

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]

_SHARED_TASTE = 0.6  # what nearly everyone likes, beside config.group_taste and config.personal_taste
_CATEGORY_SHARE = 0.3  # of the variance of a group's taste for things and styles
_GROUP_DRIFT = 0.3  # a group's step in a day, as a share of a viewer's
_BIASES = {"click": 0.5, "follow": 1.4, "gift": 1.8}  # standard deviations of how readily viewers do it


@dataclass(frozen=True, kw_only=True)
class Viewers:
    """All viewers of the world, by position in order of arrival; arrays are [U] or [U, ...]."""

    user_id: Ints
    profile: dict[str, NDArray[np.int16]]
    first_day: Ints
    """Day index of arrival."""
    activity: NDArray[np.float64]
    """Relative number of sessions; long-tailed."""
    readiness: dict[str, Floats]
    """How readily a viewer clicks, follows and gives, added to the logit of the task."""
    taste: Floats
    """Liking of each attribute value on the day, [U, V], standard normal; zero with the taste off."""
    factors: Floats
    """Hidden factors against authors', [U, F]."""

    def table(self, joined: NDArray[np.bool_]) -> pa.Table:
        """Rows of the `users` table for those marked, ascending ids."""
        order = np.argsort(self.user_id)
        order = order[joined[order]]
        return pa.table({"user_id": self.user_id[order]} | {k: v[order] for k, v in self.profile.items()})


def make_viewers(config: WorldConfig, values: Attributes, seed: int, day: int) -> Viewers:
    """All viewers, later arrivals included, with their tastes on a day."""
    rng = np.random.default_rng([seed, 14])
    newcomers = round(config.new_user_share * config.num_users)
    first_day = np.repeat(np.arange(config.num_days), [config.num_users] + [newcomers] * (config.num_days - 1))
    count = len(first_day)
    group = rng.choice(config.num_groups, size=count, p=rng.dirichlet(np.full(config.num_groups, 8.0)))
    profile = {}
    for name, size in PROFILE_SIZES.items():
        typical = rng.integers(size, size=config.num_groups)[group]
        noise = rng.random(count) < (1.0 if name == "device" else config.profile_noise)
        profile[name] = np.where(noise, rng.integers(size, size=count), typical).astype(np.int16)
    return Viewers(
        user_id=(rng.permutation(10 * count)[:count] + 1).astype(np.int64),
        profile=profile,
        first_day=first_day,
        activity=rng.lognormal(0.0, 0.8, size=count),
        readiness={task: rng.standard_normal(count, np.float32) * np.float32(sd) for task, sd in _BIASES.items()},
        factors=rng.standard_normal((count, FACTORS), np.float32) / np.float32(FACTORS**0.5),
        taste=_tastes(config, values, group, seed, day),
    )


def _tastes(config: WorldConfig, values: Attributes, group: Ints, seed: int, day: int) -> Floats:
    """[U, V] on a day: equal days give equal tastes, whatever was asked before."""
    parts = (_SHARED_TASTE, config.group_taste, config.personal_taste)
    scale = float(np.linalg.norm(parts))
    shared = np.random.default_rng([seed, 15]).standard_normal(len(values), np.float32)
    groups = _walk((config.num_groups, len(values)), _GROUP_DRIFT * config.taste_drift, [seed, 16], day)
    groups = _alike_in_category(groups, values, np.random.default_rng([seed, 17]))
    taste = _walk((len(group), len(values)), config.taste_drift, [seed, 18], day)
    taste *= np.float32(config.personal_taste / scale)
    taste += (groups * np.float32(config.group_taste / scale))[group]
    taste += shared * np.float32(_SHARED_TASTE / scale)
    taste *= np.float32(config.content_matters)
    return taste


def _walk(shape: tuple[int, int], step: float, key: list[int], day: int) -> Floats:
    """A random walk of standard normals after `day` steps, drawn back so that they stay standard normal."""
    position = np.random.default_rng([*key, 0]).standard_normal(shape, np.float32)
    if step:
        for index in range(1, day + 1):
            position *= np.float32((1 - step**2) ** 0.5)
            position += np.float32(step) * np.random.default_rng([*key, index]).standard_normal(shape, np.float32)
    return position


def _alike_in_category(groups: Floats, values: Attributes, rng: np.random.Generator) -> Floats:
    """A group likes the things and styles of one category alike, in part."""
    liking = rng.standard_normal((len(groups), len(CATEGORIES)), np.float32)
    for of in (values.things, values.styles):
        columns, category = of.ravel(), np.repeat(np.arange(len(of)), of.shape[1])
        groups[:, columns] *= np.float32((1 - _CATEGORY_SHARE) ** 0.5)
        groups[:, columns] += np.float32(_CATEGORY_SHARE**0.5) * liking[:, category]
    return groups
