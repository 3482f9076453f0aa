"""Table 2 of LARM on KuaiLive-M3, by the two commands that its file names, on a small release made to the schema."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
import pytest

from models.artifacts.codebook import Codebook
from pipelines.settings import Settings, read_settings
from pipelines.sources import kuailive
from pipelines.sources.kuailive_segments import FOLDER, WIDTH
from pipelines.studies import study
from pipelines.tables.artifacts import Artifacts
from pipelines.tables.storage import Storage
from tests.pipelines.jobs import run_job

FILE = "pipelines/configs/studies/kuailive_m3_larm_table2.yaml"
FIRST_MS, DAY_MS, SEGMENT_MS = 1_746_403_200_000, 86_400_000, 30_000  # 2025-05-05, UTC
DAYS, USERS, AUTHORS, SEGMENTS, THEMES = ("2025-05-05", "2025-05-06", "2025-05-07"), 16, 10, 8, 3
SHOWN = 600
SMALL = (
    "study.seeds=1",
    "cluster.num_cpus=3",
    "examples.history_length=6",
    "codes.clusters=[4, 2]",
    "evaluate.exposure_bounds=[120]",
    "towers.batch_size=64",
    "towers.model={dim: 8, hidden: 16, profile_dim: 2}",
    "train.batch_size=128",
    "train.ranker={id_dim: 8, profile_dim: 4, category_dim: 4, cross_layers: 1, cross_rank: 4}",
    "train.ranker.home={input_width: 8, expert_dim: 8, tower_hidden: 4}",
)


def _start(live: int) -> int:
    return FIRST_MS + live // AUTHORS * DAY_MS + live % AUTHORS * 3_600_000


def _theme(live: int, segment: int) -> int:
    return (live + segment // 2) % THEMES


def write_release(folder: Path) -> str:
    """A room of each author a day, each with a vector every 30 s; who sees the theme of their taste enters."""
    rng = np.random.default_rng(0)
    themes = rng.normal(size=(THEMES, WIDTH))
    lives = np.arange(AUTHORS * len(DAYS))
    start = np.array([_start(live) for live in lives])
    rooms = {"live_id": lives, "author_id": lives % AUTHORS, "live_name": [f"evening {live}" for live in lives]}
    rooms |= {"start_timestamp": start, "end_timestamp": start + SEGMENTS * SEGMENT_MS}
    live, segment = np.repeat(lives, SEGMENTS), np.tile(np.arange(SEGMENTS), len(lives))
    vectors = themes[[_theme(*of) for of in zip(live, segment, strict=True)]] + 0.1 * rng.normal(
        size=(len(live), WIDTH)
    )
    segments = {"live_stream_id": live, "segment_id": segment, "feature_128": list(vectors.astype(np.float32))}
    segments["timestamp"] = start[live] + SEGMENT_MS * (segment + 1)
    shown, user = rng.integers(len(lives), size=len(DAYS) * SHOWN), rng.integers(USERS, size=len(DAYS) * SHOWN)
    at = rng.integers(SEGMENTS * SEGMENT_MS, size=len(shown))
    likes = np.array([_theme(of, ms // SEGMENT_MS) for of, ms in zip(shown, at, strict=True)]) == user % THEMES
    entered = rng.random(len(shown)) < np.where(likes, 0.8, 0.2)
    who = {"user_id": user, "author_id": shown % AUTHORS, "live_id": shown}
    did = {"play_duration": rng.integers(1_000, 120_000, len(shown)), "send_gift_num": rng.integers(2, size=len(shown))}
    did["follow_author_cnt"] = rng.integers(2, size=len(shown))
    visits = pa.table(who | {"live_play_start_timestamp": start[shown] + at} | did).filter(pa.array(entered))
    passed = pa.table(who | {"show_timestamp": start[shown] + at}).filter(pa.array(~entered))
    (folder / FOLDER).mkdir(parents=True)
    pacsv.write_csv(visits, folder / "live_interaction.csv")
    for name, table in (("live_show", passed), ("live_room_meta", pa.table(rooms)), (f"{FOLDER}/part-00", segments)):
        pq.write_table(table if isinstance(table, pa.Table) else pa.table(table), folder / f"{name}.parquet")
    return str(folder)


def _settings(root: Path) -> Settings:
    """The file as it is shipped, but for places and sizes."""
    places = {"run_dir": root / "run", "storage.root": root / "store", "study.trials": root / "trials"}
    return read_settings(FILE, [*(f"{key}={place}" for key, place in places.items()), *SMALL])


def _stamps(storage: Storage, table: str) -> dict[str, str]:
    return {day: storage.fingerprint(table, day) for day in storage.days(table)}


def _seen(storage: Storage) -> list[dict[str, Any]]:
    """Of the newest day, each impression's codes beside those of the newest segment that had ended."""
    codes = {
        (row["live_id"], row["segment"]): row["codes"] for row in storage.read("segment_codes", DAYS[-1]).to_pylist()
    }
    rows = storage.read("examples", DAYS[-1], ["live_id", "ts_ms", "segment_codes"]).to_pylist()
    ended = [(row["ts_ms"] - _start(row["live_id"])) // SEGMENT_MS - 1 for row in rows]
    return [
        row | {"wanted": codes.get((row["live_id"], segment), [-1, -1])}
        for row, segment in zip(rows, ended, strict=True)
    ]


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_the_shipped_file_runs_on_the_release(tmp_path: Path) -> None:
    settings = _settings(tmp_path)
    source = write_release(tmp_path / "release")
    made = run_job(kuailive, replace(settings, kuailive=replace(settings.kuailive, source=source)))
    assert made["impressions"] == len(DAYS) * SHOWN and made["rejections"] == 0
    assert made["segment_embeddings"] == len(DAYS) * AUTHORS * SEGMENTS
    storage = Storage.open(settings.storage.root)
    given = _stamps(storage, "segment_embeddings")
    study.run(settings)
    assert _stamps(storage, "segment_embeddings") == given, "the vectors are those that came with the release"
    artifacts = Artifacts(storage)
    assert artifacts.current("tokenizer") is None, "no row reads words, so none had to be given"
    assert Codebook.load(artifacts.fetch("codebook")).model == FOLDER
    towers = Artifacts(Storage.open(f"{settings.storage.root}-towers"))
    assert Codebook.load(artifacts.fetch("codebook.items")).model == towers.current("towers")
    seen = _seen(storage)
    assert [row["segment_codes"] for row in seen] == [row["wanted"] for row in seen]
    assert len({tuple(row["wanted"]) for row in seen}) > THEMES
    table = json.loads((Path(settings.run_dir) / "table.json").read_text())
    assert (table["data"], table["days"]) == ("KuaiLive-M3, real exposures", [DAYS[-1]])
    cells = {(row["variant"], row["task"]): row["mean"] for row in table["rows"] if row["metric"] == "auc"}
    tasks = ("click", "follow", "long_view", "gift")
    assert set(cells) == {(row, task) for row in ("base", "llm_codes", "larm_codes") for task in tasks}
    assert all(0 < mean < 100 for mean in cells.values())
    kinds = [json.loads(Path(files[0]).read_text())["kind"] for files in table["trials"].values()]
    assert kinds == ["base", "llm_codes", "larm_codes"]
    before = _stamps(storage, "examples"), sorted((tmp_path / "trials").rglob("*"))
    study.run(settings)
    assert (_stamps(storage, "examples"), sorted((tmp_path / "trials").rglob("*"))) == before, "nothing is done twice"
