"""The door: `build` turns the plain classes into Ray Serve deployments. The only file of serve/ that knows Ray.

    serve run serve.app:build root=runs/demo/store

A ranking request makes one hop, from the proxy into a replica that holds the bank's mapping itself; questions about
authors make a second one, to the author cache.
"""

import gc
import logging
import os
import time
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import Any, Generic, TypeVar, cast

import numpy as np
import numpy.typing as npt
import ray
import torch
from fastapi import FastAPI
from ray.exceptions import RayError, RayTaskError
from ray.serve import Application, deployment, ingress
from ray.serve.exceptions import RayServeException
from ray.serve.handle import DeploymentHandle
from ray.serve.metrics import Gauge

from models.artifacts.bank import Histories
from models.artifacts.store import ArtifactStore
from models.online.config import StoreConfig
from models.online.opening import open_store
from models.online.store import OnlineStore
from serve.admission import Line, ReplicaFront
from serve.api import create_api
from serve.args import ServeArgs, fusion_weights
from serve.arms import ArmRankings
from serve.auth import Tokens
from serve.author_cache import AuthorCache
from serve.cards import CardShelf
from serve.comparing import Comparing
from serve.events import EventSink
from serve.explain import Reason
from serve.likeness import EXACT_BELOW
from serve.live_screens import LiveScreens
from serve.live_search import KIND, LiveSearch, SearchLoader
from serve.loading import Between, at_once, compared, compared_here, compared_vectors
from serve.meters import RayMeter
from serve.online import Online
from serve.prepare import Preparation
from serve.retrieval import Retrieval
from serve.schema import AuthorResponse, BankResponse, SimilarResponse
from serve.snapshot import Bank, Gathered, Snapshot
from serve.user_sequence import RankConfig, UserSequence
from serve.watcher import LoadedT, NotReadyError, SnapshotWatcher

log = logging.getLogger(__name__)
AnswerT = TypeVar("AnswerT")
_WRITERS = 8
"""Requests with events that wait for the store's disk together."""

_NEVER_REACHED = 100_000
"""Requests in one replica at which Serve would keep others waiting, in slots that a slow body holds: serve/admission.py
turns away long before."""
_QUESTIONS_AT_ONCE, _QUESTIONS_QUEUED = 16, 64
"""Of each replica of the author cache; those beyond are answered 503."""


class AuthorCacheReplica(AuthorCache):
    """The author cache with its own watcher."""

    def __init__(self, args: ServeArgs) -> None:
        _set_up_process()
        store = ArtifactStore.open(args.root, args.cache_dir)
        self._watcher_of_bank: SnapshotWatcher[Bank] = SnapshotWatcher(store, partial(load_bank, args), args.watch)
        self._watcher_of_bank.start()
        self._health = Health(self._watcher_of_bank, lambda bank: bank)
        super().__init__(self._watcher_of_bank)

    def check_health(self) -> None:
        """Called by Serve every few seconds."""
        self._health.check()


class UserSequenceReplica:
    """The ingress: HTTP and ranking in one process."""

    def __init__(self, args: ServeArgs, authors: DeploymentHandle) -> None:
        _set_up_process()
        self._args, self._authors = args, authors
        # Where vectors or views come from elsewhere, threads wait for them.
        waits = args.lookup != "local" or args.store.backend == "redis"
        executor = ThreadPoolExecutor(args.threads, thread_name_prefix="rank") if waits else None
        self._line = ReplicaFront.line = Line(args.admission, executor, args.threads)
        self._tokens = Tokens.read(args.token_env, args.admin_token_env, args.tokens_file)
        self._artifacts = store = ArtifactStore.open(args.root, args.cache_dir)
        self._online = opened_store(args.store, sum(node["Alive"] for node in ray.nodes()))
        self._views = Online(self._online, round(args.store.max_live_s * 1000))
        self._config, self._meter = RankConfig(weights=args.weights), RayMeter()
        self._sink = None if self._online is None else EventSink(self._online)
        load = partial(load_snapshot, args, between=self._line.between)
        self._watcher: SnapshotWatcher[Snapshot] = SnapshotWatcher(store, load, args.watch, keep=1)
        self._watcher.start()
        lookup = None if args.lookup == "local" else partial(remote_lookup, authors, args.lookup_timeout_s)
        self._screens = LiveScreens(store, args.watch)
        main = UserSequence(self._watcher, self._config, lookup, self._views, self._screens.beside)
        if lookup is None:
            main.warm_up()
        self._screens.start()  # after it is known what is read
        self._arms = self._rankings(main)
        self._arms.start()
        self._searches: SnapshotWatcher[LiveSearch] = SnapshotWatcher(
            store, SearchLoader(store), args.watch, kind=KIND, keep=1
        )
        self._searches.start()
        self._retrieval = Retrieval(self._searches, self._published, self._views)
        self._health = Health(self._watcher, lambda snapshot: snapshot.bank)
        ReplicaFront.is_ready = lambda: bool(self._watcher.loaded)

    def _published(self) -> Histories | None:
        """Histories of the bank in use."""
        loaded = self._watcher.loaded
        return loaded[0].histories if loaded else None

    def _rankings(self, main: UserSequence) -> ArmRankings:
        # The author cache has the bank of CURRENT alone.
        store, watch, held = self._artifacts, self._args.watch, self._args.model_copy(update={"lookup": "local"})
        load = partial(load_snapshot, held, between=self._line.between)
        return ArmRankings(
            store,
            main,
            watcher=lambda which: SnapshotWatcher(store, load, watch, keep=1, which=which),
            ranking=lambda watcher: UserSequence(
                watcher, self._config, online=self._views, beside=self._screens.beside
            ),
            config=watch,
            meter=self._meter,
        )

    def __serve_build_asgi_app__(self) -> FastAPI:
        """Called by Serve in the replica, after the constructor."""
        told = None
        if self._sink is not None:
            told = self._sink, ThreadPoolExecutor(_WRITERS, thread_name_prefix="events")
        return create_api(
            self._arms,
            AuthorsByHandle(self._authors),
            self._line,
            self._args.admission,
            self._tokens,
            shelf=CardShelf(self._artifacts),
            arms=self._arms,
            told=told,
            retrieval=self._retrieval,
            meter=self._meter,
            telemetry=self._args.telemetry,
        )

    def check_health(self) -> None:
        """Called by Serve every few seconds."""
        self._health.check()
        self._meter.set("screen_load_failures", self._screens.failures)
        self._meter.set("index_load_failures", self._searches.failures)
        for search in self._searches.loaded:
            self._meter.set("index_until_age_s", search.age_s(time.time_ns() // 1_000_000))
        if self._sink is not None and self._sink.age_s is not None:
            self._meter.set("store_age_s", self._sink.age_s)


def load_bank(args: ServeArgs, version: str) -> Bank:
    """A version of which authors can be asked. Raises as `Preparation.load`."""
    preparation = Preparation(root=args.root, version=version, cache_dir=args.cache_dir)
    bank = preparation.load().bank
    vectors = compared_vectors(bank)
    if vectors is None:
        return bank
    if len(vectors) < EXACT_BELOW:
        return compared_here(bank)
    return compared(bank, Comparing(replace(preparation, likeness=True)))


def load_snapshot(args: ServeArgs, version: str, *, between: Between = at_once) -> Snapshot:
    """A version that can be ranked with these arguments. Raises as `Preparation.load`, and where weights do not fit."""
    with_states = args.lookup == "local"
    preparation = Preparation(root=args.root, version=version, cache_dir=args.cache_dir, with_states=with_states)
    snapshot = preparation.load(between)
    fusion_weights(args.weights, snapshot.tasks)
    return snapshot


def opened_store(config: StoreConfig, num_nodes: int) -> OnlineStore | None:
    """As `open_store`; says so where an embedded store, which is of one node, stands in a cluster of several."""
    if config.backend == "embedded" and num_nodes > 1:
        log.warning(
            "store.backend embedded is of this node alone, and the cluster has %d: replicas on others know other "
            "events, and one that moves forgets them; keep the ranker on one node, or take redis",
            num_nodes,
        )
    return open_store(config)


class Health(Generic[LoadedT]):
    """Health of a replica, and the gauges to alert on: age of the bank in use and of what it knows, loads that failed.

    The age is no matter of health itself: a late bank must not restart replicas that can answer.
    """

    def __init__(self, watcher: SnapshotWatcher[LoadedT], bank_of: Callable[[LoadedT], Bank]) -> None:
        self._watcher, self._bank_of = watcher, bank_of
        self._age_s = Gauge("bank_age_s", description="Seconds since the full bank in use was published.")
        self._delta = Gauge("bank_delta", description="Number of the newest delta in use, 0 = the full bank alone.")
        self._until_age_s = Gauge("bank_until_age_s", description="Seconds of event time since what is in use knows.")
        self._stale = Gauge("bank_stale", description="1: the bank in use may not be the newest, 0: it is.")
        self._failures = Gauge("bank_load_failures", description="Loads and looks that failed since the start.")

    def check(self) -> None:
        """Sets the gauges. Raises RuntimeError where the bank is no longer followed."""
        self._failures.set(self._watcher.failures)
        self._stale.set(float(self._watcher.is_stale))
        for loaded in self._watcher.loaded[:1]:
            bank, now_ms = self._bank_of(loaded), time.time_ns() // 1_000_000
            self._age_s.set(bank.age_s(now_ms))
            self._delta.set(bank.moment.delta)
            if (until_age_s := bank.moment.age_s(now_ms)) is not None:
                self._until_age_s.set(until_age_s)
        if not self._watcher.is_alive:
            raise RuntimeError("the thread that follows CURRENT has died")


class AuthorsByHandle:
    """The author cache in its own deployment."""

    def __init__(self, handle: DeploymentHandle) -> None:
        self._handle = handle

    async def author(self, author_id: int) -> AuthorResponse:
        """See AuthorCache.author."""
        return await _asked(self._handle.author.remote(author_id))

    async def similar(self, author_id: int, k: int) -> SimilarResponse:
        """See AuthorCache.similar."""
        return await _asked(self._handle.similar.remote(author_id, k))

    async def status(self) -> BankResponse:
        """See AuthorCache.status."""
        return await _asked(self._handle.status.remote())

    async def reasons(self, author_ids: Sequence[int], history: Sequence[int]) -> list[Reason]:
        """See AuthorCache.reasons."""
        return await _asked(self._handle.reasons.remote(author_ids, history))


async def _asked(response: Awaitable[AnswerT]) -> AnswerT:
    try:
        return await response
    except RayTaskError as error:
        # The cache's own exception, which the routes turn into an answer.
        raise error.cause from error
    except (RayError, RayServeException) as error:
        raise NotReadyError(f"the author cache does not answer now: {type(error).__name__}") from error


def _set_up_process() -> None:
    """One thread a replica, as replicas share cores; and what is imported is left out of garbage collections, as a look
    through all of it keeps requests waiting for a tenth of a second."""
    _log_with_serve()
    torch.set_num_threads(1)
    gc.collect()
    gc.freeze()


def _log_with_serve() -> None:
    """What this package logs goes where Serve's own lines go: to the replica's log file and stderr."""
    package_log, ray_log = logging.getLogger("serve"), logging.getLogger("ray.serve")
    package_log.setLevel(logging.INFO)
    package_log.handlers, package_log.propagate = ray_log.handlers, False


def remote_lookup(
    authors: DeploymentHandle, timeout_s: float, version: str, delta: int, rows: npt.NDArray[np.int64]
) -> Gathered | None:
    """States from the author cache; None where it does not hold the version, fails, or is late."""
    try:
        states = authors.states.remote(version, delta, rows).result(timeout_s=timeout_s)
    except (TimeoutError, RayError, RayServeException) as error:
        log.warning("no states of bank %s from the author cache: %s", version, type(error).__name__)
        return None
    return cast("Gathered | None", states)


def build(args: ServeArgs) -> Application:
    """The application: the author cache, and the ranker in front."""
    if "://" not in args.root:
        # Replicas have working directories of their own.
        args = args.model_copy(update={"root": os.path.abspath(args.root)})
    if args.store.path is not None:
        store = replace(args.store, path=os.path.abspath(args.store.path))
        args = args.model_copy(update={"store": store})
    # A line for each request costs more than the request's way through the router.
    quiet: dict[str, Any] = {"logging_config": {"enable_access_log": False}}
    cache = deployment(
        AuthorCacheReplica,
        name="AuthorCache",
        num_replicas=args.author_replicas,
        ray_actor_options={"num_cpus": args.author_num_cpus},
        max_ongoing_requests=_QUESTIONS_AT_ONCE,
        max_queued_requests=_QUESTIONS_QUEUED,
        **quiet,
    )
    in_front: Callable[[type[Any]], type[Any]] = ingress()
    ranker = deployment(
        in_front(UserSequenceReplica),
        name="UserSequence",
        num_replicas=args.replicas,
        ray_actor_options={"num_cpus": args.num_cpus},
        max_ongoing_requests=_NEVER_REACHED,
        max_queued_requests=-1,
        **quiet,
    )
    return ranker.bind(args, cache.bind(args))
