"""Programmes: an author's cycle of acts, and the law by which a live goes from one to the next.

A live is a Markov chain over states: an act, and for how many segments it has been on. Both can be seen on the screen,
so whoever knows the law needs nothing else of the past. Letters: K acts, Q states, S segments of a live.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, slots=True)
class Act:
    """What is on screen for some segments in a row."""

    theme: int
    """Phrase in the book; it is said."""
    scene: int
    """Only in the pixels."""
    intensity: int
    """-1 calm, 0 lively, 1 at its peak: how many watch, like and give."""
    segments: int
    """How long it lasts."""


@dataclass(frozen=True, kw_only=True)
class Programme:
    """The acts of an author in the order of their cycle, and the chance of each after each."""

    acts: tuple[Act, ...]
    law: tuple[tuple[float, ...], ...]
    """[K, K]; rows sum to 1, and no act follows itself."""

    @cached_property
    def act(self) -> Ints:
        """The act of each state, [Q]; the states of an act stand together, by time."""
        return np.repeat(np.arange(len(self.acts)), [a.segments for a in self.acts])

    @cached_property
    def first(self) -> Ints:
        """The state in which each act begins, [K]."""
        lengths = np.array([a.segments for a in self.acts])
        first: Ints = np.cumsum(lengths) - lengths
        return first

    @cached_property
    def step(self) -> Floats:
        """Chance of each state one segment after each, [Q, Q]."""
        count = len(self.act)
        step = np.zeros((count, count))
        ends = np.append(self.first[1:], count) - 1
        goes_on = np.setdiff1d(np.arange(count), ends)
        step[goes_on, goes_on + 1] = 1.0
        step[np.ix_(ends, self.first)] = self.law
        return step

    @cached_property
    def opening(self) -> Floats:
        """Chance of each state in the first segment of a live, [Q]: any act begins."""
        opening = np.zeros(len(self.act))
        opening[self.first] = 1 / len(self.acts)
        return opening

    @cached_property
    def usual(self) -> Floats:
        """Share of each state in the long run, [Q]: what is known of a moment of which only the author is known."""
        count = len(self.act)
        balance = np.vstack([self.step.T - np.eye(count), np.ones(count)])
        usual: Floats = np.linalg.lstsq(balance, np.append(np.zeros(count), 1.0), rcond=None)[0]
        return usual

    @cached_property
    def best_next(self) -> Ints:
        """The likeliest act one segment after each state, [Q]."""
        by_act = np.zeros((len(self.act), len(self.acts)))
        np.add.at(by_act.T, self.act, self.step.T)  # sums the states of each act
        likeliest: Ints = by_act.argmax(axis=1)
        return likeliest

    def run(self, num_segments: int, rng: np.random.Generator) -> tuple[int, ...]:
        """The act of each segment of a live, drawn."""
        acts: list[int] = []
        act = int(rng.integers(len(self.acts)))
        while len(acts) < num_segments:
            acts += [act] * self.acts[act].segments
            act = int(rng.choice(len(self.acts), p=self.law[act]))
        return tuple(acts[:num_segments])

    def states(self, acts: Sequence[int]) -> Ints:
        """The state in each segment of such a run, [S]."""
        run = np.asarray(acts, np.int64)
        begins = np.append(True, run[1:] != run[:-1]) if len(run) else np.zeros(0, bool)
        since = np.maximum.accumulate(np.where(begins, np.arange(len(run)), 0))
        states: Ints = self.first[run] + np.arange(len(run)) - since
        return states


@dataclass(frozen=True, kw_only=True)
class Course:
    """What one live shows, segment by segment."""

    programme: Programme
    acts: tuple[int, ...]
    """By segment, [S]."""
    themes: tuple[int, ...]
    """By act, in the wording of the live, [K]."""

    @cached_property
    def states(self) -> Ints:
        """State of the programme in each segment, [S]."""
        return self.programme.states(self.acts)

    def act_at(self, segment: int) -> Act:
        """The act on screen in a segment."""
        return self.programme.acts[self.acts[segment]]

    @property
    def main(self) -> int:
        """The act that is on screen for most of the live, the earlier one of the cycle where two are."""
        return int(np.bincount(self.acts).argmax())


@lru_cache(maxsize=4096)
def outlook(programme: Programme, horizon: int) -> tuple[Floats, Floats]:
    """What may be on screen in the `horizon` segments that follow each state.

    Returns `share` [P, K], how much of that time each act has in each of P different outcomes, and `chance` [Q, P].
    """
    count = len(programme.acts)
    ahead: list[dict[tuple[int, ...], float]] = [{(0,) * count: 1.0} for _ in programme.act]
    for _ in range(horizon):
        ahead = [_one_more(programme, row, ahead) for row in programme.step]
    outcomes = sorted({outcome for each in ahead for outcome in each})
    chance = np.array([[each.get(outcome, 0.0) for outcome in outcomes] for each in ahead])
    return np.array(outcomes, np.float64).reshape(-1, count) / max(horizon, 1), chance


def _one_more(
    programme: Programme, row: Floats, ahead: list[dict[tuple[int, ...], float]]
) -> dict[tuple[int, ...], float]:
    """Segments of each act among the following ones, with one segment more: the first of them is drawn from `row`."""
    result: dict[tuple[int, ...], float] = {}
    for state in np.flatnonzero(row).tolist():
        act = int(programme.act[state])
        for outcome, chance in ahead[state].items():
            longer = (*outcome[:act], outcome[act] + 1, *outcome[act + 1 :])
            result[longer] = result.get(longer, 0.0) + float(row[state]) * chance
    return result
