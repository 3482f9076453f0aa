"""Banks whose hashes are right and whose content is not: each is refused, and the old one goes on answering."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from models.artifacts.manifest import MANIFEST
from serve.schema import RankRequest
from serve.user_sequence import UserSequence
from tests.serve.conftest import AUTHOR_IDS, HOUR_MS, NOW_MS, USER_IDS, Published, watcher_of

Change = Callable[[Path], None]
BIG_USER = 5
"""Row of a user with several clicks."""


def edited(name: str, change: Callable[[Any], None]) -> Change:
    """Changes an array of the folder in place."""

    def apply(folder: Path) -> None:
        array = np.load(folder / f"{name}.npy")
        change(array)
        np.save(folder / f"{name}.npy", array)

    return apply


def put(place: Any, value: Any) -> Callable[[Any], None]:
    def apply(array: Any) -> None:
        array[place] = value

    return apply


def shuffled(array: Any) -> None:
    array[1:] = np.random.default_rng(0).permutation(array[1:])


def others(array: Any) -> None:
    array[array > 0] = AUTHOR_IDS[0]


def two_swapped(array: Any) -> None:
    array[[BIG_USER], [-2, -1]] = array[[BIG_USER], [-1, -2]]


def without(name: str) -> Change:
    return lambda folder: (folder / name).unlink()


def older_format(folder: Path) -> None:
    head = json.loads((folder / "bank.json").read_text())
    (folder / "bank.json").write_text(json.dumps(head | {"format": 1}))


def other_tasks(folder: Path) -> None:
    head = json.loads((folder / "probe.json").read_text())
    (folder / "probe.json").write_text(json.dumps(head | {"tasks": head["tasks"][::-1]}))


DAMAGE: dict[str, tuple[Change, str]] = {
    "NaN seconds": (edited("history_watch_s", put((BIG_USER, -1), np.nan)), "wanted seconds watched of 0 and more"),
    "infinite seconds": (edited("history_watch_s", put((BIG_USER, -1), np.inf)), "wanted seconds watched of 0 and"),
    "negative seconds": (edited("history_watch_s", put((BIG_USER, -1), -1.0)), "wanted seconds watched of 0 and more"),
    "unsorted times": (edited("history_ts_ms", two_swapped), "wanted times ascending in histories, got for user 38"),
    "negative times": (edited("history_ts_ms", put((BIG_USER, -2), -5)), "wanted times in ms since 1970"),
    "future times": (edited("history_ts_ms", put((BIG_USER, -1), NOW_MS + 25 * HOUR_MS)), "wanted times up to"),
    "padding between": (edited("history_author_ids", put((BIG_USER, -1), -1)), "wanted padding on the left alone"),
    "users unsorted": (edited("history_user_ids", put(0, 999)), "users of histories ascending"),
    "far anchor": (edited("anchor_day", put(3, 4_000_000)), "wanted anchor days up to 20371.*got 4000000"),
    "zeros": (edited("source_sarm", put(slice(None), 0)), r"vectors \[0, 1\] are the same in all 41 rows"),
    "1e38": (edited("source_sarm", put(slice(None), 1e38)), "row 0 holds 1e.38, wanted numbers up to"),
    "one of 1e38": (edited("source_sarm", put((7, 1, 2), 1e38)), "row 7 holds 1e.38, wanted numbers up to 1e.06"),
    "rows shuffled": (edited("source_sarm", shuffled), "rows, .* first, are not those that its probe was recorded"),
    "other histories": (edited("history_author_ids", others), "its probe does not reproduce"),
    "no probe": (without("probe.json"), "wanted probe.json.*got none; publish it again"),
    "half a probe": (without("probe_rows.npy"), "its probe is damaged"),
    "other tasks": (other_tasks, "its probe has scores of .*, the model of"),
    "other scores": (edited("probe_probabilities", put((1, 2, 0), 0.9)), "its probe does not reproduce: click of user"),
    "NaN scores": (edited("probe_probabilities", put((1, 2, 0), np.nan)), "its probe does not reproduce"),
    "older format": (older_format, "format of bank.json: got 1, wanted 2; publish it again"),
}


def refused(published: Published, message: str) -> None:
    """The bank b is CURRENT; a is in use before and after, and answers the same."""
    published.point("a")
    watcher = watcher_of(published.root)
    asked = RankRequest(candidates=AUTHOR_IDS[:4].tolist(), user_id=int(USER_IDS[BIG_USER]))
    before = UserSequence(watcher).rank(asked).candidates
    published.point("b")
    assert not watcher.poll() and watcher.current.version == "a"
    assert watcher.last_failure is not None
    assert watcher.last_failure.startswith("ArtifactError: "), "told as what it is"
    assert re.search(message, watcher.last_failure), watcher.last_failure
    assert UserSequence(watcher).rank(asked).candidates == before


@pytest.mark.parametrize("what", DAMAGE)
def test_a_damaged_bank_is_refused_and_the_old_one_answers(published: Published, what: str) -> None:
    change, message = DAMAGE[what]
    published.bank("b", "m-a", change=change, point=False)
    refused(published, message)


def test_a_bank_of_other_weights_is_refused(published: Published) -> None:
    """Its own model is the one that it names; vectors and probe are of another that has the same catalog."""
    published.model("m-other", seed=3)
    published.bank("b", "m-other", point=False)
    folder, made_from = published.folder("bank", "b"), {"ranker": "sarm", "model": "m-a"}
    for hashed, message in (
        (
            {"model_weights": published.weights("m-other")},
            r"made_from.model_weights .*publish a bank and its",
        ),
        ({"model_weights": published.weights("m-a")}, "its probe does not reproduce"),
        ({}, "wanted made_from.model_weights in its manifest, got none"),
    ):
        (folder / MANIFEST).unlink()
        published.describe(folder, "b", made_from | hashed)
        refused(published, message)


@pytest.mark.parametrize("of_bank", [{"tokenizer": "t-2"}, {}])
def test_a_bank_of_another_tokenizer_is_refused(published: Published, of_bank: dict[str, str]) -> None:
    model = published.model("m-b", made_from={"tokenizer": "t-1"})
    published.bank("b", model, point=False, made_from=of_bank)
    refused(published, "made_from.tokenizer .that of sarm m-b.*: got .*, wanted t-1")


def test_a_bank_of_the_tokenizer_of_its_model_is_served(published: Published) -> None:
    model = published.model("m-b", made_from={"tokenizer": "t-1"})
    published.bank("b", model, made_from={"tokenizer": "t-1"})
    assert watcher_of(published.root).current.version == "b"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"files": {}}, "MANIFEST.json is damaged .wanted files with their hashes, got none"),
        ({"published_ts_ms": 0}, "wanted published_ts_ms in its manifest, got none"),
        ({"published_ts_ms": "now"}, "wanted published_ts_ms >= 0, got 'now'"),
    ],
)
def test_a_manifest_that_proves_nothing_is_refused(published: Published, change: dict[str, Any], message: str) -> None:
    published.bank("b", "m-a", point=False)
    path = published.folder("bank", "b") / MANIFEST
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    refused(published, message)


@pytest.mark.parametrize("file", ["bank.json", "source_sarm.npy", "history_ts_ms.npy", "probe_rows.npy"])
def test_a_file_whose_hash_the_manifest_lacks_is_not_believed(published: Published, file: str) -> None:
    published.bank("b", "m-a", point=False)
    path = published.folder("bank", "b") / MANIFEST
    raw = json.loads(path.read_text())
    del raw["files"][file]
    path.write_text(json.dumps(raw))
    refused(published, f"wanted hashes of all its files in its manifest, got none of {file}")


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("histories", [True, False])
def test_a_bank_that_is_whole_is_served(published: Published, dtype: str, histories: bool) -> None:
    published.bank("b", "m-a", dtype=dtype, histories=histories)
    watcher = watcher_of(published.root)
    assert watcher.current.version == "b" and watcher.last_failure is None
    assert watcher.current.bank.age_s(time.time_ns() // 1_000_000) < 600
