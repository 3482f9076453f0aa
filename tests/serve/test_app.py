"""The deployments, with Ray Serve and over HTTP."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import yaml

from models import TASKS
from models.online.config import StoreConfig
from pipelines.serving.serve import ServeConfig, sample_curl, serving
from pipelines.settings import Settings
from pipelines.tables.storage import StorageConfig
from serve.app import load_snapshot, opened_store
from serve.args import ServeArgs
from tests.serve import searched
from tests.serve.conftest import AUTHOR_IDS, NOW_MS, USER_IDS, Published, fill_with_nan, watcher_of
from tests.serve.test_user_sequence import offline, rows_of

ROOT = Path(__file__).resolve().parents[2]
USER = int(USER_IDS[1])
ASKED = {
    "user_id": USER,
    "candidates": AUTHOR_IDS.tolist(),
    "history": [{"author_id": int(AUTHOR_IDS[2]), "ts_ms": NOW_MS - 60_000, "watch_time_s": 20.0}],
    "context": {"ts_ms": NOW_MS},
}


def test_weights_of_tasks_that_the_ranker_lacks_refuse_its_bank(shared: Published, tmp_path: Path) -> None:
    given = {"root": str(shared.root), "cache_dir": str(tmp_path)}
    assert load_snapshot(ServeArgs(**given, weights={"gift": 2.0}), "a").version == "a"
    with pytest.raises(ValueError, match="weights: stay is no task of the ranker"):
        load_snapshot(ServeArgs(**given, weights={"stay": 2.0}), "a")


def test_an_embedded_store_in_a_cluster_of_several_nodes_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = StoreConfig(backend="embedded", path=str(tmp_path), map_gib=0.25)
    for num_nodes, told in ((1, 0), (3, 1)):
        store = opened_store(config, num_nodes)
        assert store is not None
        store.close()
        assert [record.getMessage().partition(":")[0] for record in caplog.records] == [
            "store.backend embedded is of this node alone, and the cluster has 3"
        ] * told


def settings_for(root: Path, **app: Any) -> Settings:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    app = {"watch": {"poll_s": 0.2}, "num_cpus": 0.5, "cache_dir": str(root.parent / "cache"), **app}
    return Settings(storage=StorageConfig(root=str(root)), serve=ServeConfig(port=port, app=app))


def wanted_scores(published: Published, history_author: int = int(AUTHOR_IDS[2])) -> np.ndarray:
    snapshot = watcher_of(published.root).current
    return offline(snapshot, rows_of(USER, ASKED["candidates"], [(history_author, 60.0, 20.0)]))


def scores_of(answer: dict[str, Any]) -> np.ndarray:
    by_id = {c["author_id"]: [c[task] for task in TASKS] for c in answer["candidates"]}
    return np.array([by_id[author_id] for author_id in ASKED["candidates"]])


def eventually(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not is_so():
        assert time.monotonic() < deadline, "nothing changed within 60 s"
        time.sleep(0.1)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Published:
    made = Published(tmp_path_factory.mktemp("served") / "store")
    made.publish("a")
    return made


@pytest.fixture(scope="module")
def client(root: Published, ray_cluster: None) -> Iterator[httpx.Client]:
    store = {"backend": "embedded", "path": str(root.root.parent / "online"), "map_gib": 0.25}
    settings = settings_for(root.root, store=store)
    with serving(settings.serve, settings.open()) as url, httpx.Client(base_url=url, timeout=60) as client:
        yield client


@pytest.mark.ray
def test_scores_over_http_are_those_of_the_model(root: Published, client: httpx.Client) -> None:
    answer = client.post("/rank", json=ASKED)
    assert answer.status_code == 200
    np.testing.assert_allclose(scores_of(answer.json()), wanted_scores(root), atol=1e-5)
    assert (answer.json()["bank_version"], answer.json()["degraded"]) == ("a", False)


@pytest.mark.ray
def test_a_click_that_is_told_counts_in_the_next_answer(client: httpx.Client) -> None:
    event = {"user_id": 99_991, "author_id": int(AUTHOR_IDS[2]), "live_id": 1, "ts_ms": NOW_MS - 60_000}
    told = [event | {"event_id": kind, "kind": kind} for kind in ("exposure", "click")]
    assert client.post("/events", json={"events": told}).json()["accepted"] == 2
    asked = {name: value for name, value in ASKED.items() if name != "history"} | {"user_id": 99_991}
    answer = client.post("/rank", json=asked).json()
    assert (answer["history_source"], answer["history_used"], answer["store_age_s"]) == ("store", 1, 60.0)


@pytest.mark.ray
def test_lives_are_found_from_the_index_that_is_published_meanwhile(root: Published, client: httpx.Client) -> None:
    asked = {"user_id": 99_992, "k": 5, "context": {"ts_ms": NOW_MS}}
    missing = client.post("/retrieve", json=asked)
    assert missing.status_code == 404 and "run the jobs towers, item_vectors and index" in missing.json()["detail"]
    searched.publish(root.root)
    eventually(lambda: client.post("/retrieve", json=asked).status_code == 200)
    before = client.post("/retrieve", json=asked).json()
    assert (before["index_version"], before["towers_version"], before["history_source"]) == ("i1", "t1", "none")
    assert len(before["live_ids"]) == len(before["author_ids"]) == len(before["scores"]) == 5
    # What the user does now, and which lives end now.
    event = {"user_id": 99_992, "author_id": int(AUTHOR_IDS[2]), "live_id": 1, "ts_ms": NOW_MS - 60_000}
    client.post("/events", json={"events": [event | {"event_id": f"r{k}", "kind": k} for k in ("exposure", "click")]})
    ended = {"live_id": before["live_ids"][0], "author_id": before["author_ids"][0], "start_ms": 0, "end_ms": NOW_MS}
    assert client.post("/lives", json={"lives": [ended]}).json()["accepted"] == 1
    eventually(lambda: client.post("/retrieve", json=asked).json()["on_air"] == before["on_air"] - 1)
    after = client.post("/retrieve", json=asked).json()
    assert (after["history_source"], after["history_used"]) == ("store", 1)
    assert before["live_ids"][0] not in after["live_ids"] and after["scores"] != before["scores"]
    searched.publish(root.root, "i2", "t2", seed=5)
    eventually(lambda: client.get("/index").json()["index_version"] == "i2")
    assert client.post("/retrieve", json=asked).json()["towers_version"] == "t2"
    assert client.post("/rank", json=ASKED).status_code == 200


@pytest.mark.ray
def test_questions_about_authors_reach_the_cache(client: httpx.Client) -> None:
    assert client.get("/healthz").json()["ready"]
    assert client.get(f"/authors/{AUTHOR_IDS[0]}").json()["known"]
    assert len(client.get(f"/authors/{AUTHOR_IDS[0]}/similar", params={"k": 3}).json()["similar"]) == 3
    missing = client.get("/authors/-1/similar")
    assert missing.status_code == 404 and missing.json() == {"detail": "author -1 has no anchor in bank a"}


@pytest.mark.ray
def test_the_sample_request_names_published_ids(client: httpx.Client) -> None:
    curl = sample_curl(str(client.base_url).rstrip("/"), ServeConfig())
    assert f'"user_id": {USER_IDS[0]}' in curl and f'"candidates": [{AUTHOR_IDS[0]}, {AUTHOR_IDS[1]}' in curl


@pytest.mark.ray
def test_bad_requests_are_4xx_behind_the_proxy(client: httpx.Client) -> None:
    json_type = {"content-type": "application/json"}
    assert client.post("/rank", json=ASKED | {"candidates": []}).status_code == 422
    assert client.post("/rank", content=b"[" * 50_000, headers=json_type).status_code in (400, 422)
    assert client.post("/rank", content=b" " * (4 << 20), headers=json_type).status_code == 413
    assert client.post("/rank", json=ASKED).status_code == 200


@pytest.mark.ray
def test_a_delta_is_served_within_seconds_and_no_answer_mixes(root: Published, client: httpx.Client) -> None:
    wanted = {0: wanted_scores(root)}
    stop, answers = threading.Event(), []

    def read() -> None:
        with httpx.Client(base_url=client.base_url, timeout=60) as own:
            while not stop.is_set():
                answers.append(own.post("/rank", json=ASKED))

    reader = threading.Thread(target=read)
    reader.start()
    try:
        eventually(lambda: len(answers) > 3)
        for number in (1, 2):
            delta = root.delta("a", number, [0, 4, 10 * number])
            published_s = time.monotonic()
            wanted[number] = wanted_scores(root)
            norm = float(np.linalg.norm(delta.states["sarm"][1, 0]))
            eventually(lambda number=number: answers[-1].json()["bank_delta"] == number)
            eventually(lambda norm=norm: abs(client.get(f"/authors/{AUTHOR_IDS[3]}").json()["cls_norm"] - norm) < 1e-3)
            assert time.monotonic() - published_s < 10
    finally:
        stop.set()
        reader.join(60)
    assert {answer.status_code for answer in answers} == {200}
    assert {answer.json()["bank_delta"] for answer in answers} == {0, 1, 2}
    for answer in answers:
        np.testing.assert_allclose(scores_of(answer.json()), wanted[answer.json()["bank_delta"]], atol=1e-5)
    bank, health = client.get("/bank").json(), client.get("/healthz").json()
    for about in (bank, health):
        assert (about["bank_version"], about["bank_delta"], about["bank_until"][:10]) == ("a", 2, "2025-10-05")
        assert about["bank_until_age_s"] > 0


@pytest.mark.ray
def test_a_new_bank_is_swapped_in_under_load_and_a_bad_one_is_not(root: Published, client: httpx.Client) -> None:
    wanted = {"a": wanted_scores(root)}
    stop, answers = threading.Event(), []

    def read() -> None:
        with httpx.Client(base_url=client.base_url, timeout=60) as own:
            while not stop.is_set():
                answers.append(own.post("/rank", json=ASKED))

    readers = [threading.Thread(target=read) for _ in range(2)]
    for reader in readers:
        reader.start()
    try:
        eventually(lambda: len(answers) > 5)
        root.publish("b", seed=1)
        wanted["b"] = wanted_scores(root)
        eventually(lambda: answers[-1].json()["bank_version"] == "b")
        root.bank("c", "m-b", change=fill_with_nan)
        eventually(lambda: "holds NaN" in str(client.get("/bank").json()["last_failure"]))
    finally:
        stop.set()
        for reader in readers:
            reader.join(60)
    assert {answer.status_code for answer in answers} == {200}
    assert {answer.json()["bank_version"] for answer in answers} == {"a", "b"}
    for answer in answers:
        assert answer.json()["model_version"] == f"m-{answer.json()['bank_version']}"
        np.testing.assert_allclose(scores_of(answer.json()), wanted[answer.json()["bank_version"]], atol=1e-5)


def test_the_cluster_configuration_is_what_serve_expects() -> None:
    from ray.serve.schema import ServeDeploySchema

    from serve.args import ServeArgs

    raw = yaml.safe_load((ROOT / "serve" / "config.yaml").read_text(encoding="utf-8"))
    application = ServeDeploySchema.model_validate(raw).applications[0]
    assert application.import_path == "serve.app:build"
    assert ServeArgs.model_validate(application.args).token_env == "SERVE_TOKEN"
