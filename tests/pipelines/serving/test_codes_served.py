"""Rankers that read what was on screen are served from the bank: what is answered is what is computed offline."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import serve.user_sequence
from models.artifacts.manifest import ArtifactError, Manifest
from models.artifacts.store import ArtifactStore
from models.online.embedded import EmbeddedStore
from models.online.lives import LiveUpdate
from pipelines.ranking import evaluate, publish
from pipelines.samples.event_reader import DAY_MS
from pipelines.tables.artifacts import Artifacts
from pipelines.tables.contract import ContractError
from serve.loading import load_snapshot
from serve.online import Online
from serve.user_sequence import UserSequence
from tests.models.online.event_streams import Event, batch_of
from tests.pipelines.conftest import tiny_train, train_here
from tests.pipelines.jobs import run_job
from tests.pipelines.ranking.coded import CLUSTERS
from tests.pipelines.samples.screens import write_codes
from tests.pipelines.serving.coded_platform import MOMENT_MS, NAME, NEWCOMER, Coded, asked, scores, with_clicks
from tests.serve.conftest import watcher_of
from tests.serve.test_damaged_banks import edited, put


def test_scores_are_the_offline_ones_for_every_user_and_author(coded: Coded) -> None:
    sequence = UserSequence(watcher_of(coded.root))
    users = [*coded.clicks.user_ids.tolist(), 31_337]
    far = []
    for number, user in enumerate(users):
        ts_ms = MOMENT_MS + 700_000 * number
        wanted = coded.offline(user, coded.authors, ts_ms)
        got = scores(sequence.rank(asked(user, coded.authors, ts_ms)), coded.authors)
        np.testing.assert_allclose(got, wanted, atol=1e-5)
        far.append(np.abs(wanted - coded.offline(user, coded.authors, ts_ms, lives={1: 1})).max(axis=1))
    assert (np.array(far) > 1e-4).mean() > 0.5  # what is on screen matters to these scores
    assert np.abs(wanted[-2] - wanted[-1]).max() > 1e-4  # and to those of an author without a row


def test_impressions_of_the_last_day_get_the_scores_of_evaluation(coded: Coded) -> None:
    """Those after the newest segment of the author, and after the user's newest click."""
    with np.load(Path(coded.settings.run_dir) / f"scores-{NAME}.npz") as file:
        wanted = file["scores"]
    rows, screen = coded.storage.read("examples", "2026-01-03").to_pylist(), coded.snapshot.screens["segment_codes"]
    ends = dict(zip(screen.author_ids.tolist(), screen.end_ts_ms.tolist(), strict=True))
    newest = dict(zip(coded.clicks.user_ids[coded.clicks.user].tolist(), coded.clicks.ts_ms.tolist(), strict=True))
    sequence, compared = UserSequence(watcher_of(coded.root)), 0
    for row, of_row in zip(rows, wanted, strict=True):
        user, author, ts_ms = row["user_id"], row["author_id"], row["ts_ms"]
        if newest.get(user, 0) < ts_ms and coded.lives.get(author) == row["live_id"] and ends[author] + 20_000 <= ts_ms:
            got = scores(sequence.rank(asked(user, [author], ts_ms)), [author])[0]
            np.testing.assert_allclose(got, of_row, atol=1e-5)
            compared += 1
    assert compared > 5


def test_a_history_that_a_request_brings_has_the_codes_of_the_published_clicks(coded: Coded) -> None:
    sequence, ts_ms = UserSequence(watcher_of(coded.root)), MOMENT_MS + DAY_MS // 2
    for user in coded.clicks.user_ids[:20].tolist():
        mine = coded.clicks.user_ids[coded.clicks.user] == user
        names = ("author_id", "ts_ms", "watch_time_s")
        columns = zip(*(getattr(coded.clicks, name)[mine].tolist() for name in names), strict=True)
        brought = [dict(zip(names, click, strict=True)) for click in columns][::-1]
        got, same = (sequence.rank(asked(user, coded.authors, ts_ms, **of)) for of in ({}, {"history": brought}))
        assert (got.history_source, same.history_source) == ("published", "request")
        assert got.candidates == same.candidates


def test_a_segment_is_not_told_before_it_is_known(coded: Coded) -> None:
    """The newcomer's last known segment ended 30 s before the bank's moment, and is known 20 s later."""
    sequence, authors = UserSequence(watcher_of(coded.root)), [NEWCOMER, 123]
    known, early = MOMENT_MS - 10_000, MOMENT_MS - 10_001
    for ts_ms, is_same in ((known, False), (early, True)):
        got = scores(sequence.rank(asked(31_337, authors, ts_ms)), authors)
        assert bool((got[0] == got[1]).all()) == is_same
    np.testing.assert_allclose(
        scores(sequence.rank(asked(31_337, authors, known)), authors), coded.offline(31_337, authors, known), atol=1e-5
    )


def test_clicks_that_are_told_since_saw_the_newest_segment_of_their_author(coded: Coded, store: EmbeddedStore) -> None:
    rng, users = np.random.default_rng(3), coded.clicks.user_ids[:12].tolist()
    events, rows = [], []
    for user in users:
        for author in rng.choice(coded.authors, 3, replace=False).tolist():
            ts_ms, live = MOMENT_MS + int(rng.integers(1, DAY_MS // 2)), coded.lives.get(author, 7)
            place = (user, author, live)
            events += [Event(*place, ts_ms, kind) for kind in ("exposure", "click")]
            events.append(Event(*place, ts_ms + 45_000, "exit", 45.0))
            rows.append({"impression_id": 10**9 + len(rows), "user_id": user, "author_id": author, "live_id": live})
            rows[-1] |= {"ts_ms": ts_ms, "watch_time_s": np.float32(45.0)}
    store.apply(batch_of(events), MOMENT_MS + DAY_MS)
    clicks = with_clicks(coded, rows)
    sequence = UserSequence(watcher_of(coded.root), online=Online(store))
    for user in users:
        for ts_ms in (MOMENT_MS + DAY_MS // 3, MOMENT_MS + DAY_MS - 1):
            answer = sequence.rank(asked(user, coded.authors, ts_ms))
            wanted = coded.offline(user, coded.authors, ts_ms, clicks=clicks)
            np.testing.assert_allclose(scores(answer, coded.authors), wanted, atol=1e-5)
        assert answer.history_source == "store"


def test_a_new_live_of_an_author_does_not_have_the_screen_of_the_last_one(coded: Coded, store: EmbeddedStore) -> None:
    authors, ts_ms = [author for author in coded.authors if author in coded.lives][:9], MOMENT_MS + 5_000
    user = int(coded.clicks.user_ids[3])
    lives = {author: coded.lives[author] if number % 2 else 10**7 + number for number, author in enumerate(authors)}
    for author, live in lives.items():
        store.tell([LiveUpdate(live_id=live, author_id=author, start_ms=MOMENT_MS - 1_000)], ts_ms)
    sequence = UserSequence(watcher_of(coded.root), online=Online(store))
    request = asked(user, [1], ts_ms, candidates=None, lives=list(lives.values()))
    wanted = coded.offline(user, authors, ts_ms, lives=lives)
    np.testing.assert_allclose(scores(sequence.rank(request), authors), wanted, atol=1e-5)
    assert np.abs(wanted - coded.offline(user, authors, ts_ms)).max() > 1e-4


def test_the_bank_says_what_it_is_of_and_is_not_made_twice(coded: Coded) -> None:
    folder = Artifacts(coded.storage).fetch("bank")
    head, made_from = (
        json.loads((folder / "bank.json").read_text()),
        Artifacts(coded.storage).manifest("bank").made_from,
    )
    for table, clusters in CLUSTERS.items():
        told = {"codebook": "v1", "clusters": list(clusters), "delay_ms": 20_000, "authors": len(coded.lives)}
        assert head["screens"][table] == told
        assert (made_from[f"{table}/codebook"], made_from[f"{table}/delay_ms"]) == ("v1", "20000")
    assert run_job(publish, coded.settings)["how"] == "current"


def headed(**values: Any) -> Callable[[Path], None]:
    """Another head of item_codes."""

    def apply(folder: Path) -> None:
        head = json.loads((folder / "bank.json").read_text())
        head["screens"]["item_codes"] |= values
        (folder / "bank.json").write_text(json.dumps(head))

    return apply


def without_a_table(folder: Path) -> None:
    head = json.loads((folder / "bank.json").read_text())
    del head["screens"]["item_codes"]
    (folder / "bank.json").write_text(json.dumps(head))


def shifted(array: Any) -> None:
    array[:, 0] = (array[:, 0] + 1) % 4


DAMAGE: dict[str, tuple[Callable[[Path], None], str]] = {
    "another codebook": (
        headed(codebook="v2"),
        r"codes of what was on screen: got .*'item_codes': CodesRead\(codebook='v2', .* wanted .*'v1'.*publish a bank",
    ),
    "other levels": (headed(clusters=[4, 3]), r"codes of what was on screen: got .*\(4, 3\).* wanted .*\(4, 2\)"),
    "a table less": (without_a_table, "codes of what was on screen: got"),
    "one level": (headed(clusters=[4]), r"shape of history_item_codes.npy: got .*, 2\), wanted .*, 1\)"),
    "no head": (headed(clusters="four"), "bank.json is damaged"),
    "an unknown code": (edited("screen_item_codes_codes", put((2, 1), 2)), r"levels of 4, 2, got \[0, 0\] to \[3, 2\]"),
    "no code": (edited("screen_item_codes_codes", put((2, 1), -1)), "wanted codes from 0 of levels of 4, 2, got"),
    "half a click": (edited("history_item_codes", put((..., 0), -1)), "or none at all"),
    "codes of padding": (edited("history_item_codes", put(..., 0)), "codes where there is a click alone"),
    "authors unsorted": (edited("screen_item_codes_author_ids", put(-1, 0)), "ascending and unique by author and end"),
    "the future": (edited("screen_item_codes_end_ts_ms", put(0, MOMENT_MS + 2 * DAY_MS)), "wanted segments that end"),
    "a file less": (lambda folder: (folder / "screen_item_codes_live_ids.npy").unlink(), "wanted screen_item_codes_li"),
    "codes of others": (edited("screen_item_codes_codes", shifted), "probe does not reproduce"),
    "nobody": (edited("screen_item_codes_end_ts_ms", put(..., MOMENT_MS)), "probe does not reproduce"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_bank_with_damaged_or_other_codes_is_refused(coded: Coded, tmp_path: Path, name: str) -> None:
    change, message = DAMAGE[name]
    shutil.copytree(coded.root / "artifacts", tmp_path / "artifacts")
    artifacts = ArtifactStore.open(str(tmp_path))
    version = artifacts.current("bank")
    assert version is not None
    folder = tmp_path / "artifacts" / "bank" / f"v={version}"
    made_from = dict(Manifest.verify(folder).made_from)
    change(folder)
    Manifest.create(folder, kind="bank", run_id=version, made_from=made_from, published_ts_ms=MOMENT_MS)
    with pytest.raises(ArtifactError, match=message):
        load_snapshot(artifacts, version)


def test_codes_of_another_codebook_than_the_rankers_are_not_published(coded: Coded, tmp_path: Path) -> None:
    shutil.copytree(coded.root, tmp_path / "tiny")
    settings = replace(coded.settings, storage=replace(coded.settings.storage, root=str(tmp_path / "tiny")))
    storage = settings.open().storage
    for day in storage.days("segment_codes"):
        write_codes(storage, day, [row | {"codebook": "v2"} for row in storage.read("segment_codes", day).to_pylist()])
    with pytest.raises(
        ContractError, match="segment_codes: wanted codes of the codebook v1, .* got those of v2; train"
    ):
        run_job(publish, settings)


def test_without_published_histories_it_is_served_too(coded: Coded, tmp_path: Path) -> None:
    shutil.copytree(coded.root, tmp_path / "tiny")
    storage, answers = replace(coded.settings.storage, root=str(tmp_path / "tiny")), []
    for histories in (True, False):
        of = replace(coded.settings.publish, histories=histories, until=None)
        run_job(publish, replace(coded.settings, storage=storage, publish=of))
        sequence = UserSequence(watcher_of(tmp_path / "tiny"))
        answers.append(sequence.rank(asked(1, coded.authors, MOMENT_MS, history=[])))
    assert answers[0].candidates == answers[1].candidates and answers[0].bank_version != answers[1].bank_version


def test_a_ranker_that_reads_no_codes_has_none_in_its_bank_and_pays_nothing(
    coded: Coded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(coded.root, tmp_path / "tiny")
    storage = replace(coded.settings.storage, root=str(tmp_path / "tiny"))
    settings = replace(coded.settings, storage=storage, train=replace(tiny_train(), base=False))
    settings = replace(settings, publish=replace(settings.publish, ranker="sarm"))
    train_here(settings)
    run_job(evaluate, settings)
    run_job(publish, settings)
    folder = Artifacts(settings.open().storage).fetch("bank")
    assert "screens" not in json.loads((folder / "bank.json").read_text())
    assert not [path.name for path in folder.iterdir() if "codes" in path.name or "screen" in path.name]

    def never(*_: Any) -> Any:
        raise AssertionError("codes were looked up")

    monkeypatch.setattr(serve.user_sequence, "seen", never)
    answer = UserSequence(watcher_of(tmp_path / "tiny")).rank(asked(1, coded.authors, MOMENT_MS))
    assert len(answer.candidates) == len(coded.authors)
