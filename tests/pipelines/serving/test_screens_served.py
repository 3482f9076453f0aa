"""What comes on screen after a bank was made reaches its ranker without a restart, and answers are the offline ones."""

import logging
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from models.artifacts.store import ArtifactStore
from models.online.embedded import EmbeddedStore
from models.online.lives import LiveUpdate
from pipelines.ranking import screens
from pipelines.ranking.screens import ScreensConfig
from pipelines.samples import examples
from pipelines.samples.event_reader import day_start_ms
from pipelines.serving.serve import serving
from pipelines.tables.artifacts import Artifacts
from pipelines.tables.contract import ContractError
from serve.args import WatchConfig
from serve.live_screens import LiveScreens
from serve.online import Online
from serve.schema import RankResponse
from serve.user_sequence import UserSequence
from tests.models.online.event_streams import Event, batch_of
from tests.pipelines.jobs import run_job
from tests.pipelines.ranking.coded import CLUSTERS, publish_codebook
from tests.pipelines.samples.screens import code_row, write_codes
from tests.pipelines.serving.coded_platform import (
    MOMENT_MS,
    NEWCOMER,
    Coded,
    asked,
    newest_lives,
    scores,
    with_clicks,
)
from tests.serve.conftest import watcher_of
from tests.serve.test_app import eventually, settings_for

DAY = "2026-01-04"
MINUTE_MS = 60_000
LAST_MS = MOMENT_MS + 40 * MINUTE_MS
"""End of the newest segment."""


@dataclass(frozen=True, eq=False)
class Live:
    """A copy of the platform in which lives go on after the bank was made."""

    coded: Coded
    screens: LiveScreens

    def sequence(self, **more: Any) -> UserSequence:
        return UserSequence(watcher_of(self.coded.root), beside=self.screens.beside, **more)

    def publish(self, **config: Any) -> dict[str, Any]:
        return run_job(screens, replace(self.coded.settings, screens=ScreensConfig(**config)))

    def at(self, ts_ms: int) -> Coded:
        """As of a moment: which live of an author was the last one known."""
        return replace(self.coded, lives=newest_lives(self.coded.storage, ts_ms))


@pytest.fixture
def live(coded: Coded, tmp_path: Path) -> Live:
    """New lives of half of the authors, and the newcomer's that goes on: a segment every 30 s for 40 minutes."""
    shutil.copytree(coded.root, tmp_path / "tiny")
    settings = replace(coded.settings, storage=replace(coded.settings.storage, root=str(tmp_path / "tiny")))
    storage = settings.open().storage
    authors = coded.snapshot.bank.catalog.author_ids.tolist()[::2]
    lives = {10**8 + number: author for number, author in enumerate(authors)} | {NEWCOMER * 10: NEWCOMER}
    for table, clusters in CLUSTERS.items():
        rng = np.random.default_rng(len(table))
        rows = [
            code_row(of, n, LAST_MS - (79 - n) * 30_000, rng.integers(0, clusters).tolist()) | {"author_id": author}
            for of, author in lives.items()
            for n in range(80 if of % 3 else 40)  # some end halfway
        ]
        write_codes(storage, DAY, rows, table)
    # It has no threads, and knows what the ranker reads.
    found = LiveScreens(ArtifactStore.open(str(tmp_path / "tiny")), WatchConfig())
    found.beside(coded.snapshot.screens)
    return Live(replace(coded, settings=settings, storage=storage), found)


def test_candidates_have_what_came_on_screen_since_the_bank(live: Live) -> None:
    sequence, authors, user = live.sequence(), live.coded.authors, int(live.coded.clicks.user_ids[5])
    moments = [LAST_MS + 20_000, LAST_MS + 19_999, MOMENT_MS + 20 * MINUTE_MS, MOMENT_MS + 5 * MINUTE_MS + 7]
    before = sequence.rank(asked(user, authors, moments[0]))
    assert before.screen_age_s == (moments[0] - live.coded.snapshot.screens["item_codes"].newest_ms) / 1000
    told = live.publish()
    assert {table: (of["how"], of["until_ts_ms"]) for table, of in told.items()} == {
        table: ("published", LAST_MS + 20_000) for table in CLUSTERS
    }
    assert scores(sequence.rank(asked(user, authors, moments[0])), authors).tolist() == scores(before, authors).tolist()
    assert live.screens.poll()
    for ts_ms in moments:
        answer = sequence.rank(asked(user, authors, ts_ms))
        wanted = live.at(ts_ms).offline(user, authors, ts_ms)
        np.testing.assert_allclose(scores(answer, authors), wanted, atol=1e-5)
        assert answer.screen_age_s == max(0.0, (ts_ms - LAST_MS) / 1000)
    assert (np.abs(scores(before, authors) - live.at(moments[0]).offline(user, authors, moments[0])) > 1e-4).any(
        axis=1
    ).mean() > 0.4


def test_lives_that_are_asked_for_have_their_own_screens(live: Live, store: EmbeddedStore) -> None:
    live.publish()
    live.screens.poll()
    ts_ms, user = MOMENT_MS + 30 * MINUTE_MS, int(live.coded.clicks.user_ids[3])
    now = live.at(ts_ms)
    authors = [author for author, of in now.lives.items() if of >= 10**8][:12]
    lives = {author: now.lives[author] if number % 3 else 10**7 + number for number, author in enumerate(authors)}
    for author, of in lives.items():
        store.tell([LiveUpdate(live_id=of, author_id=author, start_ms=MOMENT_MS)], ts_ms)
    request = asked(user, [1], ts_ms, candidates=None, lives=list(lives.values()))
    answer = live.sequence(online=Online(store)).rank(request)
    np.testing.assert_allclose(scores(answer, authors), now.offline(user, authors, ts_ms, lives=lives), atol=1e-5)


def test_clicks_that_are_told_since_saw_what_was_on_screen_at_their_moment(live: Live, store: EmbeddedStore) -> None:
    rng, users, authors = np.random.default_rng(4), live.coded.clicks.user_ids[:10].tolist(), live.coded.authors
    events, rows = [], []
    for user in users:
        for number, author in enumerate(rng.choice(authors, 4, replace=False).tolist()):
            ts_ms = MOMENT_MS + int(rng.integers(1, 30 * MINUTE_MS))
            now, before = (as_of.lives.get(author, 7) for as_of in (live.at(ts_ms), live.coded))
            of = (now, now, 8, before)[number]  # 8 has only begun: no segment of it is known
            events += [Event(user, author, of, ts_ms, kind) for kind in ("exposure", "click")]
            events.append(Event(user, author, of, ts_ms + 45_000, "exit", 45.0))
            rows.append({"impression_id": 10**9 + len(rows), "user_id": user, "author_id": author, "live_id": of})
            rows[-1] |= {"ts_ms": ts_ms, "watch_time_s": np.float32(45.0)}
    store.apply(batch_of(events), LAST_MS)
    live.publish()
    live.screens.poll()
    sequence, clicks, ts_ms = live.sequence(online=Online(store)), with_clicks(live.coded, rows), LAST_MS + MINUTE_MS
    alone, differ = UserSequence(watcher_of(live.coded.root), online=Online(store)), []
    for user in users:
        got = scores(sequence.rank(asked(user, authors, ts_ms)), authors)
        wanted = live.at(ts_ms).offline(user, authors, ts_ms, clicks=clicks)
        np.testing.assert_allclose(got, wanted, atol=1e-5)
        differ.append(np.abs(got - scores(alone.rank(asked(user, authors, ts_ms)), authors)).max())
    assert max(differ) > 1e-3


def test_a_screen_of_another_codebook_is_left_alone(live: Live, caplog: pytest.LogCaptureFixture) -> None:
    sequence, authors = live.sequence(), live.coded.authors
    request = asked(1, authors, LAST_MS)
    sequence.rank(request)
    live.publish(until_ts_ms=LAST_MS - 5 * MINUTE_MS)
    live.screens.poll()
    before = sequence.rank(request)
    assert before.screen_age_s == 330.0
    for table in CLUSTERS:
        publish_codebook(live.coded.settings, table, "v2")
        for day in live.coded.storage.days(table):
            rows = live.coded.storage.read(table, day).to_pylist()
            write_codes(live.coded.storage, day, [row | {"codebook": "v2"} for row in rows], table)
    live.publish()
    live.screens.poll()
    with caplog.at_level(logging.WARNING, "serve.live_screens"):
        after = [sequence.rank(request) for _ in range(3)]
    assert all((of.candidates, of.screen_age_s) == (before.candidates, before.screen_age_s) for of in after)
    assert len(caplog.records) == len(CLUSTERS)
    assert "is of codebook v2 with a delay of 20000 ms, the ranker in use reads v1 with 20000 ms" in caplog.text


def test_what_is_known_sooner_than_the_ranker_has_learnt_is_left_alone(live: Live) -> None:
    early = replace(live.coded.settings, examples=replace(live.coded.settings.examples, segment_delay_s=0.0))
    run_job(examples, early)
    live.publish()
    assert live.screens.poll()
    of_bank = live.coded.snapshot.screens
    assert all(len(of) == 1 for of in live.screens.beside(of_bank).values())


def test_nothing_is_loaded_that_nobody_reads(live: Live) -> None:
    live.publish()
    screens = LiveScreens(ArtifactStore.open(str(live.coded.root)), WatchConfig())
    assert not screens.poll()
    one = {"item_codes": live.coded.snapshot.screens["item_codes"]}
    assert len(screens.beside(one)["item_codes"]) == 1
    assert screens.poll() and len(screens.beside(one)["item_codes"]) == 2
    assert len(screens.beside(live.coded.snapshot.screens)["segment_codes"]) == 1


def test_a_screen_that_is_older_than_the_bank_changes_nothing(live: Live) -> None:
    sequence, authors = live.sequence(), live.coded.authors
    request = asked(1, authors, LAST_MS)
    before = sequence.rank(request)
    assert live.publish(until_ts_ms=MOMENT_MS - 3 * 3_600_000, keep_s=0.0)["item_codes"]["segments"] > 0
    assert live.screens.poll()
    assert sequence.rank(request).candidates == before.candidates


def test_a_damaged_screen_is_left_alone_until_there_is_another(live: Live) -> None:
    sequence, authors = live.sequence(), live.coded.authors
    request = asked(1, authors, LAST_MS + MINUTE_MS)
    before = sequence.rank(request)
    live.publish()
    folder = Artifacts(live.coded.storage).fetch("screen.item_codes")
    (folder / "segments.safetensors").write_bytes(b"damaged")
    live.screens.poll()
    assert live.screens.failures == 1
    assert sequence.rank(request).screen_age_s == before.screen_age_s  # of the table that knows least
    live.publish(keep_s=60.0)
    live.screens.poll()
    assert (live.screens.failures, sequence.rank(request).screen_age_s) == (1, 60.0)


def test_the_job_does_what_is_due_and_keeps_few_versions(live: Live) -> None:
    first, again = live.publish(), live.publish()
    assert [of["how"] for of in again.values()] == ["current"] * 2
    assert [of["run_id"] for of in again.values()] == [of["run_id"] for of in first.values()]
    for minute in (10, 20, 30):
        until = MOMENT_MS + minute * MINUTE_MS
        told = live.publish(until_ts_ms=until, keep_s=60.0, keep=2)["segment_codes"]
        loaded = live.screens.poll() and live.screens.beside(live.coded.snapshot.screens)["segment_codes"][1]
        assert loaded and loaded.newest_ms == until - 30_000  # what ended at the moment is known 20 s later
        assert told["segments"] == len(loaded.codes)
        # Ends within the minute, and the one before them, which a click at its beginning saw.
        recent = loaded.end_ts_ms > until - 80_000
        counts = dict(zip(*np.unique(loaded.author_ids, return_counts=True), strict=True))
        assert {counts[author] for author in loaded.author_ids[recent]} == {3}
        assert {counts[author] for author in set(loaded.author_ids) - set(loaded.author_ids[recent])} <= {1}
    assert len(Artifacts(live.coded.storage).versions("screen.segment_codes")) == 2


def test_what_the_job_cannot_do_is_told(live: Live) -> None:
    with pytest.raises(ContractError, match="wanted codes of segments on some day up to 1, got none; set screens"):
        live.publish(until_ts_ms=1)
    with pytest.raises(ContractError, match="wanted a segment that was known at .* got none; set screens.until_ts_ms"):
        live.publish(until_ts_ms=day_start_ms("2026-01-01") + 1)
    with pytest.raises(ValueError, match="wanted days and keep >= 1 and keep_s >= 0"):
        ScreensConfig(keep_s=-1.0)
    with pytest.raises(ValueError, match="until_ts_ms: wanted ms since 1970"):
        ScreensConfig(until_ts_ms=-1)
    storage = live.coded.storage
    for day in storage.days("examples"):
        storage.filesystem.delete_dir(storage.folder("examples", day))
    with pytest.raises(ContractError, match="wanted a newest day that carries codes of segment_codes or item_codes"):
        live.publish()


@pytest.mark.ray
def test_over_http_what_comes_on_screen_counts_without_a_restart(live: Live, tmp_path: Path, ray_cluster: None) -> None:
    settings = settings_for(live.coded.root)
    authors, user, ts_ms = live.coded.authors, int(live.coded.clicks.user_ids[5]), LAST_MS + MINUTE_MS
    body = {"user_id": user, "candidates": authors, "context": {"ts_ms": ts_ms}}
    with serving(settings.serve, settings.open()) as url, httpx.Client(base_url=url, timeout=60) as client:
        before = client.post("/rank", json=body).json()
        assert before["screen_age_s"] > 2400  # as old as the bank
        live.publish()
        eventually(lambda: client.post("/rank", json=body).json()["screen_age_s"] == 60.0)
        answer = RankResponse.model_validate(client.post("/rank", json=body).json())
    wanted = live.at(ts_ms).offline(user, authors, ts_ms)
    np.testing.assert_allclose(scores(answer, authors), wanted, atol=1e-5)
    assert answer.bank_version == before["bank_version"]
