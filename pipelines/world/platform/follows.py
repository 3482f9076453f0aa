"""Who follows whom: what the platform remembers from day to day.

A follow list is a sorted array of numbers `viewer * authors + author`, so memory grows with follows and not with pairs.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipelines.tables.storage import Storage
from pipelines.world.authors import Author, day_name
from pipelines.world.config import WorldConfig
from pipelines.world.lives import LivePlan
from pipelines.world.platform.content import author_factors, content_rows
from pipelines.world.platform.phrases import PhraseBook
from pipelines.world.platform.viewers import Viewers

Ints = NDArray[np.int64]
_CANDIDATES = 40  # authors that a viewer had met before the first day
_MET_BY_FAME = 0.6  # power of the popularity at which they were met
_MEAN_FOLLOWS = 5.0
_LIKED = 2.0  # how much liking decides whom of them the viewer follows


@dataclass(frozen=True, kw_only=True)
class Follows:
    """Pairs of viewer and author, by position."""

    keys: Ints
    num_authors: int

    def has(self, viewer: Ints, author: Ints) -> NDArray[np.bool_]:
        """Which pairs are followed, for positions of equal length."""
        if not len(self.keys):
            return np.zeros(len(viewer), bool)
        keys = viewer * self.num_authors + author
        at = np.minimum(np.searchsorted(self.keys, keys), len(self.keys) - 1)
        found: NDArray[np.bool_] = self.keys[at] == keys
        return found

    def of(self, viewer: Ints) -> tuple[Ints, Ints]:
        """All followed authors of the viewers: row in `viewer`, author."""
        first = np.searchsorted(self.keys, viewer * self.num_authors)
        count = np.searchsorted(self.keys, (viewer + 1) * self.num_authors) - first
        row = np.repeat(np.arange(len(viewer)), count)
        within = np.arange(len(row)) - np.repeat(np.cumsum(count) - count, count)
        return row, self.keys[first[row] + within] % self.num_authors

    def and_also(self, viewer: Ints, author: Ints) -> "Follows":
        """The list with more pairs."""
        return Follows(keys=np.union1d(self.keys, viewer * self.num_authors + author), num_authors=self.num_authors)


def before_first_day(
    viewers: Viewers, everyone: list[Author], book: PhraseBook, config: WorldConfig, seed: int
) -> Follows:
    """What viewers of the first day follow already: authors they had met, by popularity, and liked."""
    rng = np.random.default_rng([seed, 19])
    old = [a for a in everyone if a.first_day == 0]
    people = np.flatnonzero(viewers.first_day == 0)
    fame = np.array([a.popularity for a in old]) ** _MET_BY_FAME
    met = rng.choice(len(old), size=(len(people), _CANDIDATES), p=fame / fame.sum())
    factors = author_factors(np.array([a.author_id for a in old], np.int64), seed)
    rows = content_rows([_usual(a) for a in old], book)
    score = rng.gumbel(size=met.shape)
    for column, author in enumerate(met.T):
        liking = np.einsum("nv,nv->n", viewers.taste[people], rows[author])
        liking += np.einsum("nf,nf->n", viewers.factors[people], factors[author]) * np.float32(config.author_taste)
        score[:, column] += _LIKED * liking
    count = np.minimum(rng.lognormal(np.log(_MEAN_FOLLOWS) - 0.5, 1.0, size=len(people)), _CANDIDATES).astype(np.int64)
    chosen = np.argsort(np.argsort(-score, axis=1), axis=1) < count[:, None]
    none = Follows(keys=np.zeros(0, np.int64), num_authors=len(everyone))
    return none.and_also(np.repeat(people, chosen.sum(axis=1)), met[chosen])


def _usual(author: Author) -> LivePlan:
    """A live of nothing but the first of all that the author does, as before the first day."""
    return LivePlan(
        author_id=author.author_id, live_id=0, start_ts_ms=0, num_segments=1, theme=author.themes[0], highlights=(),
        topics=author.topics[:1], points=author.points[:1], audiences=author.audiences[:1],
        format=author.format, scene=author.scene, popularity=0.0,
    )  # fmt: skip


def as_of(
    storage: Storage, day: int, first: Follows, viewers: Viewers, everyone: list[Author], config: WorldConfig
) -> Follows:
    """The list at the start of a day, from the impressions of the days before: a run that died goes on with it."""
    viewer_ids, author_ids = viewers.user_id, np.array([a.author_id for a in everyone], np.int64)
    by_viewer, by_author = np.argsort(viewer_ids), np.argsort(author_ids)
    follows = first
    for past in range(config.warmup_days, day):
        rows = storage.read("impressions", day_name(config.first_day, past), ["user_id", "author_id", "follow"])
        made = rows["follow"].to_numpy() > 0
        viewer = by_viewer[np.searchsorted(viewer_ids, rows["user_id"].to_numpy()[made], sorter=by_viewer)]
        author = by_author[np.searchsorted(author_ids, rows["author_id"].to_numpy()[made], sorter=by_author)]
        follows = follows.and_also(viewer, author)
    return follows
