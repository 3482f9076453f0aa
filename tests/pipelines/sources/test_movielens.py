"""MovieLens as tables: the mapping on ratings made by hand, and a study over the real ones where they are present."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.runtime.config import ConfigError
from pipelines.samples import examples
from pipelines.samples.examples import ExamplesConfig
from pipelines.semantics import vocabulary
from pipelines.semantics.vocabulary import VocabularyConfig
from pipelines.settings import Settings
from pipelines.sources import movielens
from pipelines.sources.movielens import MovieLensConfig
from pipelines.tables.contract import ContractError
from pipelines.tables.storage import Storage, StorageConfig
from tests.pipelines.jobs import run_job

YEAR = 365 * 86_400
REAL = Path(__file__).resolve().parents[4] / "shared" / "movielens"
ITEMS = [
    {
        "item_id": 1, "title": "Toys (1995)", "genres": ["Comedy", "Children", "Fantasy"], "plot": "A boy has toys.",
        "rated": "G", "director": "J. Director", "actors": "Ann Actor, Bob Actor, Cy Actor",
    },
    {"item_id": 2, "title": "Rain", "genres": [], "plot": None, "rated": None, "director": None, "actors": None},
]  # fmt: skip


def _source(folder: Path, ratings: list[tuple[int, int, float, int]], items: list[dict[str, Any]] = ITEMS) -> str:
    folder.mkdir(parents=True, exist_ok=True)
    names = ("user_id", "item_id", "rating", "timestamp_s")
    pq.write_table(pa.table(dict(zip(names, zip(*ratings, strict=True), strict=True))), folder / "ratings.parquet")
    pq.write_table(pa.Table.from_pylist(items), folder / "items.parquet")
    return str(folder)


RATINGS = [(7, 1, 5.0, 10 * YEAR), (7, 2, 2.5, 10 * YEAR + 60), (8, 1, 3.0, 11 * YEAR), (8, 2, 4.5, 12 * YEAR)]


def _settings(root: Path, source: str) -> Settings:
    return Settings(
        run_dir=str(root / "run"),
        storage=StorageConfig(root=str(root / "store")),
        movielens=MovieLensConfig(source=source, periods=2, vocabulary=300),
        vocabulary=VocabularyConfig(base_tokenizer=str(root / "run" / "tokenizer.json"), min_frequency=1),
        examples=ExamplesConfig(history_length=3, history_days=10_000),
    )


def test_ratings_become_impressions_in_time_order(tmp_path: Path) -> None:
    settings = _settings(tmp_path, _source(tmp_path / "in", list(reversed(RATINGS))))
    counts = run_job(movielens, settings)
    storage = Storage.open(settings.storage.root)
    assert counts["days"] == storage.days("impressions") == ["1979-12-30", "1980-12-29"]
    rows = storage.read_days("impressions", counts["days"]).to_pylist()
    assert [(r["impression_id"], r["user_id"], r["author_id"], r["ts_ms"]) for r in rows] == [
        (i, user, film, 1000 * second) for i, (user, film, _, second) in enumerate(RATINGS)
    ]
    labels = [[r[task] for task in ("click", "long_view", "follow", "gift")] for r in rows]
    assert labels == [[1, 1, 1, 1], [0, 0, 0, 0], [1, 0, 0, 0], [1, 1, 1, 0]]


def test_a_films_text_is_its_anchor_on_the_day_before(tmp_path: Path) -> None:
    settings = _settings(tmp_path, _source(tmp_path / "in", RATINGS))
    run_job(movielens, settings)
    storage = Storage.open(settings.storage.root)
    assert storage.days("anchors") == storage.days("authors") == ["1979-12-29"]
    toys, rain = storage.read("anchors", "1979-12-29").to_pylist()
    assert toys["point_of_interest"] == ["J. Director", "Ann Actor", "Bob Actor"]
    assert (toys["theme"], toys["topic"], toys["scene"]) == (
        ["Toys (1995)"],
        ["Comedy", "Children"],
        ["A boy has toys."],
    )
    assert rain["theme"] == ["Rain"] and rain["point_of_interest"] == rain["scene"] == []
    authors = storage.read("authors", "1979-12-29").to_pylist()
    assert [a["category"] for a in authors] == ["Comedy", None] and authors[0]["tags"][-1] == "Fantasy"


def test_the_next_jobs_read_the_tables(tmp_path: Path) -> None:
    settings = _settings(tmp_path, _source(tmp_path / "in", RATINGS))
    run_job(movielens, settings)
    run_job(vocabulary, settings)
    run_job(examples, settings)
    last = Storage.open(settings.storage.root).read("examples", "1980-12-29").to_pylist()
    assert [row["history_author_ids"] for row in last] == [[-1, -1, -1], [-1, -1, 1]]
    assert all(row["anchor_day"] is not None for row in last)


def test_ratings_of_one_second_stay_in_one_period(tmp_path: Path) -> None:
    ratings = [(1, 1, 5.0, YEAR), (2, 1, 5.0, 2 * YEAR), (3, 1, 5.0, 2 * YEAR), (4, 2, 5.0, 2 * YEAR)]
    settings = _settings(tmp_path, _source(tmp_path / "in", ratings))
    days = run_job(movielens, settings)["days"]
    storage = Storage.open(settings.storage.root)
    assert [storage.read("impressions", day).num_rows for day in days] == [1, 3]


def test_what_cannot_be_used_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="movielens.source"):
        run_job(movielens, _settings(tmp_path, str(tmp_path / "nowhere")))
    with pytest.raises(ContractError, match="film 3 is not in items"):
        run_job(movielens, _settings(tmp_path, _source(tmp_path / "a", [*RATINGS, (1, 3, 5.0, 13 * YEAR)])))
    with pytest.raises(ContractError, match="begin on 1 dates"):
        run_job(movielens, _settings(tmp_path, _source(tmp_path / "b", [(u, 1, 5.0, YEAR + u) for u in range(6)])))
    with pytest.raises(ContractError, match="none named plot"):
        run_job(
            movielens,
            _settings(tmp_path, _source(tmp_path / "c", RATINGS, [{"item_id": 1, "title": "x", "genres": []}])),
        )
    with pytest.raises(ValueError, match="periods"):
        MovieLensConfig(periods=1)


@pytest.mark.skipif(not REAL.is_dir(), reason="../shared/movielens is absent: the real ratings are not in the project")
def test_the_real_ratings_become_tables(tmp_path: Path) -> None:
    settings = replace(_settings(tmp_path, str(REAL)), movielens=MovieLensConfig(source=str(REAL)))
    counts = run_job(movielens, settings)
    assert counts["films"] == 9125 and counts["ratings"] == 100_004 and len(counts["days"]) == 5
    storage = Storage.open(settings.storage.root)
    ids = storage.read_days("impressions", counts["days"])["impression_id"].to_pylist()
    assert ids == list(range(100_004))
    assert sum(bool(s) for s in storage.read("anchors", "1995-01-08")["scene"].to_pylist()) == 2383
