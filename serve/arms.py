"""The rankers of a replica: that of CURRENT, and those of the arms beside it, for A/B tests and shadow scoring."""

from __future__ import annotations

import logging
import random
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from models.artifacts import arms as published
from models.artifacts.arms import MAIN, Arm, Arms
from models.artifacts.store import ArtifactStore
from serve.args import WatchConfig
from serve.observe import Mark, Meter, unmarked
from serve.schema import ArmResponse, HealthResponse, RankRequest, RankResponse
from serve.snapshot import Snapshot
from serve.user_sequence import UserSequence
from serve.watcher import SnapshotWatcher

log = logging.getLogger(__name__)
MakeRanking = Callable[[SnapshotWatcher[Snapshot]], UserSequence]
MakeWatcher = Callable[[Callable[[], str | None]], SnapshotWatcher[Snapshot]]
"""A watcher of whatever version the function that it is given says."""


class UnknownArmError(ValueError):
    """A request names an arm that there is not, or whose bank is not loaded."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Running:
    arm: Arm
    watcher: SnapshotWatcher[Snapshot]
    ranking: UserSequence


class ArmRankings:
    """Answers every request by the arm that its user, or the request itself, chooses."""

    def __init__(
        self,
        store: ArtifactStore,
        main: UserSequence,
        watcher: MakeWatcher,
        ranking: MakeRanking,
        config: WatchConfig,
        meter: Meter,
    ) -> None:
        """Args: `main` answers for CURRENT; `watcher` and `ranking` make what an arm beside it needs."""
        self._store, self._main, self._config, self._meter = store, main, config, meter
        self._make_watcher, self._make_ranking = watcher, ranking
        self._in_use: tuple[Arms, dict[str, _Running]] = Arms(), {}
        self._stopped, self._shadowing = threading.Event(), threading.Lock()
        self._shadows = ThreadPoolExecutor(1, thread_name_prefix="shadow")
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Loads the arms that are there, then follows them in a thread."""
        self.poll()
        self._thread = threading.Thread(target=self._follow, name="arms", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Ends the threads. What is loaded stays usable."""
        self._stopped.set()
        self._shadows.shutdown(cancel_futures=True)
        for running in self._in_use[1].values():
            running.watcher.stop()

    def _follow(self) -> None:
        while not self._stopped.wait(self._config.poll_s):
            self.poll()

    def poll(self) -> None:
        """Looks once which arms there are. What cannot be read is told in the log, and the arms stay as they were."""
        try:
            arms = published.read(self._store)
        except (OSError, ValueError) as error:
            log.error("the arms stay as they were: %s", error)
            return
        if arms == self._in_use[0]:
            return
        before, running = self._in_use[1], dict[str, _Running]()
        for name, arm in arms.by_name.items():
            same = before.get(name)
            running[name] = self._begun(arm) if same is None or same.arm.bank != arm.bank else _with(same, arm)
        self._in_use = arms, running  # in one step: a request reads it once
        for name, old in before.items():
            if name not in running or running[name].watcher is not old.watcher:
                old.watcher.stop()
        log.info("arms beside %s: %s", MAIN, ", ".join(running) or "none")

    def _begun(self, arm: Arm) -> _Running:
        watcher = self._make_watcher(lambda: arm.bank)
        watcher.start()
        return _Running(arm=arm, watcher=watcher, ranking=self._make_ranking(watcher))

    @staticmethod
    def _arm_of(request: RankRequest, arms: Arms, running: Mapping[str, _Running]) -> str:
        """The arm that answers. Raises UnknownArmError for one that is named and cannot.

        An arm of a user whose bank is not loaded leaves its users to CURRENT, and its watcher says why.
        """
        if request.model is not None:
            if request.model != MAIN and not (request.model in running and running[request.model].watcher.loaded):
                known = [MAIN, *(name for name, each in running.items() if each.watcher.loaded)]
                raise UnknownArmError(f"model: wanted one of {', '.join(known)}, got {request.model}; see GET /models")
            return request.model
        name = arms.of_user(request.user_id) if running else MAIN
        return name if name in running and running[name].watcher.loaded else MAIN

    def rank(self, request: RankRequest) -> RankResponse:
        """See UserSequence.rank."""
        return self.rank_many([request])[0]

    def rank_many(self, requests: Sequence[RankRequest], mark: Mark = unmarked) -> list[RankResponse]:
        """An answer to each request, those of one arm from one version. Raises as UserSequence.rank does."""
        arms, running = self._in_use
        if not running and all(request.model in (None, MAIN) for request in requests):
            return [_named(answer, MAIN) for answer in self._main.rank_many(requests, mark)]
        chosen = [self._arm_of(request, arms, running) for request in requests]
        answers: dict[int, RankResponse] = {}
        for name in dict.fromkeys(chosen):
            places = [place for place, arm in enumerate(chosen) if arm == name]
            ranking = self._main if name == MAIN else running[name].ranking
            answered = ranking.rank_many([requests[place] for place in places], mark)
            answers |= {place: _named(answer, name) for place, answer in zip(places, answered, strict=True)}
        self._shadow(requests[0], answers[0])
        return [answers[place] for place in range(len(requests))]

    def _shadow(self, request: RankRequest, answer: RankResponse) -> None:
        """Has shadows score a share of what was answered, one request at a time: what comes meanwhile goes without."""
        for name, running in self._in_use[1].items():
            if running.arm.shadow and running.watcher.loaded and random.random() < running.arm.share:
                if self._shadowing.acquire(blocking=False):
                    self._shadows.submit(self._compare, name, running, request, answer)

    def _compare(self, name: str, running: _Running, request: RankRequest, answer: RankResponse) -> None:
        try:
            other = running.ranking.rank(request)
            tasks = _probabilities(answer), _probabilities(other)
            for task in tasks[0].keys() & tasks[1].keys():
                moved = float(np.abs(tasks[0][task] - tasks[1][task]).mean())
                self._meter.observe("shadow_difference", moved, arm=name, task=task)
            same = answer.candidates[0].author_id == other.candidates[0].author_id
            self._meter.count("shadow_first", arm=name, same=str(same).lower())
        except Exception as error:  # noqa: BLE001 - a shadow must not disturb those who are answered
            self._meter.count("shadow_failures", arm=name)
            log.error("shadow %s: %s: %s", name, type(error).__name__, error)
        finally:
            self._shadowing.release()

    def models(self) -> list[ArmResponse]:
        """What answers here, CURRENT first."""
        main = self._main.health()
        arms, every = self._in_use
        share = 1.0 - sum(arm.share for arm in arms.by_name.values() if not arm.shadow)
        found = [_described(MAIN, main, max(0.0, round(share, 9)), False, main.reason)]
        for name, running in every.items():
            health, arm = running.ranking.health(), running.arm
            found.append(_described(name, health, arm.share, arm.shadow, running.watcher.last_failure))
        return found

    def history_of(self, request: RankRequest) -> list[int]:
        """See UserSequence.history_of: all arms have the same rule."""
        return self._main.history_of(request)

    def health(self) -> HealthResponse:
        """See UserSequence.health: that of CURRENT, without which nothing is ready."""
        return self._main.health()


def _with(running: _Running, arm: Arm) -> _Running:
    return _Running(arm=arm, watcher=running.watcher, ranking=running.ranking)


def _named(answer: RankResponse, arm: str) -> RankResponse:
    answer.model = arm
    return answer


def _probabilities(answer: RankResponse) -> Mapping[str, np.ndarray[tuple[int], np.dtype[np.float64]]]:
    """By task: of the candidates in the order of their ids."""
    rows = sorted(answer.candidates, key=lambda row: row.author_id)
    tasks = [name for name in type(rows[0]).__dataclass_fields__ if isinstance(getattr(rows[0], name), float)]
    return {task: np.array([getattr(row, task) for row in rows]) for task in tasks if task != "score"}


def _described(name: str, health: HealthResponse, share: float, shadow: bool, why_not: str | None) -> ArmResponse:
    return ArmResponse(
        name=name,
        ready=health.ready,
        share=share,
        shadow=shadow,
        bank_version=health.bank_version,
        bank_delta=health.bank_delta,
        model_version=health.model_version,
        reason=None if health.ready else why_not,
    )
