"""MovieLens folders as GroupLens ships them: made here in each of the four formats, with the same content."""

from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.runtime.config import ConfigError
from pipelines.sources import movielens
from pipelines.sources.movielens import MovieLensConfig
from pipelines.sources.movielens_files import read
from pipelines.tables import rejections
from pipelines.tables.contract import ContractError
from pipelines.tables.storage import Storage
from tests.pipelines.jobs import run_job
from tests.pipelines.sources.test_movielens import _settings

RATINGS = [(1, 1, 4.0, 964982703), (2, 2, 2.5, 1147868053), (1, 2, 5.0, 964982703), (3, 1, 3.0, 1537799250)]
TITLES = {1: "Toys, The (1995)", 2: 'Café "Rain" (1996)'}
FLAGS = {1: "0|0|0|1|0|1" + "|0" * 13, 2: "1" + "|0" * 18}


def _csv(folder: Path) -> None:
    ratings = "".join(f"{u},{i},{r},{t}\n" for u, i, r, t in RATINGS)
    (folder / "ratings.csv").write_text(f"userId,movieId,rating,timestamp\n{ratings}")
    films = '1,"Toys, The (1995)",Animation|Comedy\n2,"Café ""Rain"" (1996)",(no genres listed)\n'
    (folder / "movies.csv").write_text(f"movieId,title,genres\n{films}", encoding="utf-8")


def _dat(folder: Path, encoding: str = "latin-1") -> None:
    (folder / "ratings.dat").write_text("".join(f"{u}::{i}::{r:g}::{t}\n" for u, i, r, t in RATINGS))
    films = f"1::{TITLES[1]}::Animation|Comedy\n2::{TITLES[2]}::\n"
    (folder / "movies.dat").write_text(films, encoding=encoding)


def _dat_in_utf_8(folder: Path) -> None:
    _dat(folder, "utf-8")


def _u(folder: Path) -> None:
    (folder / "u.data").write_text("".join(f"{u}\t{i}\t{r}\t{t}\n" for u, i, r, t in RATINGS))
    films = "".join(f"{i}|{title}|01-Jan-1995||http://x/{i}|{FLAGS[i]}\n" for i, title in TITLES.items())
    (folder / "u.item").write_text(films, encoding="latin-1")


@pytest.mark.parametrize("write", [_csv, _dat, _dat_in_utf_8, _u])
def test_every_format_holds_the_same(tmp_path: Path, write: Callable[[Path], None]) -> None:
    write(tmp_path)
    source = read(str(tmp_path))
    in_order = [RATINGS[at] for at in (0, 2, 1, 3)]
    assert [tuple(row.values()) for row in source.ratings.to_pylist()] == in_order
    films = [(row["item_id"], row["title"], row["genres"] or []) for row in source.items.to_pylist()]
    assert films == [(1, TITLES[1], ["Animation", "Comedy"]), (2, TITLES[2], [])]
    assert not any(file.refused for file in source.files)


def test_titles_and_genres_become_the_text_of_anchors(tmp_path: Path) -> None:
    _csv(tmp_path)
    settings = _settings(tmp_path, str(tmp_path))
    counts = run_job(movielens, settings)
    assert (counts["films"], counts["ratings"], counts["rejections"]) == (2, 4, 0)
    storage = Storage.open(settings.storage.root)
    toys, rain = storage.read("anchors", "2000-07-29").to_pylist()
    assert (toys["theme"], toys["topic"]) == ([TITLES[1]], ["Animation", "Comedy"])
    assert (rain["theme"], rain["topic"], rain["scene"]) == ([TITLES[2]], [], [])
    assert storage.days("impressions") == counts["days"] == ["2000-07-30", "2006-05-17"]


def test_rows_that_cannot_be_used_are_rejections(tmp_path: Path) -> None:
    """Of films a bad id and one that is there twice; of ratings bad cells, an unknown film and that of the bad row."""
    _csv(tmp_path)
    with (tmp_path / "movies.csv").open("a") as films:
        films.write("x,Bad,Drama\n1,Twice,Drama\n4,,Drama\n")
    with (tmp_path / "ratings.csv").open("a") as ratings:
        ratings.write("1,99,4.0,964982703\n,1,4.0,964982703\n1,1,6,964982703\n1,1,,964982703\n1,1,4.0,\n1,1,4.0\n")
        ratings.write("4.0,4.0,4.0,1147868054.0\n")
    settings = _settings(tmp_path, str(tmp_path))
    counts = run_job(movielens, settings)
    rejected = rejections.of_stage(Storage.open(settings.storage.root), "2000-07-29", "movielens").to_pylist()
    assert sorted(row["key"] for row in rejected) == sorted(
        ["movies.csv line 4", "movies.csv line 5", *(f"ratings.csv line {line}" for line in range(6, 12))]
    )
    assert {row["reason"] for row in rejected} == {"bad_row"}
    (unknown,) = (row["detail"] for row in rejected if row["key"] == "ratings.csv line 6")
    assert "column movieId: wanted a film of movies.csv, got '99'" in unknown
    assert (counts["ratings"], counts["rejections"], counts["films"]) == (len(RATINGS) + 1, 2 + 6, 3)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("ratings.csv", "userId,movieId,rating,timestamp\n1,1,4.0,964982703\n1,1", "line 3: .* it was cut"),
        ("ratings.csv", "userId,movieId,rating,timestamp\n1,1,4.0,964982703000\n", "line 2, .* is milliseconds"),
        (
            "ratings.csv",
            "userId,movieId,rating,timestamp\n1,9,4.0,964982703\n",
            "no rating can be used; .* line 2",
        ),
        ("ratings.csv", "user,movie,rating,timestamp\n1,1,4.0,964982703\n", "wanted column userId, got user, movie"),
        ("movies.csv", "movieId,name\n1,x\n", "movies.csv: wanted column title, got movieId, name"),
        ("movies.csv", "", "movies.csv is empty"),
    ],
)
def test_a_file_that_cannot_be_used_is_named(tmp_path: Path, name: str, content: str, said: str) -> None:
    _csv(tmp_path)
    (tmp_path / name).write_text(content)
    with pytest.raises(ContractError, match=said):
        read(str(tmp_path))


def test_another_folder_is_told_which_files_and_columns_are_wanted(tmp_path: Path) -> None:
    (tmp_path / "movies.csv").touch()
    with pytest.raises(ConfigError) as caught:
        read(str(tmp_path))
    said = str(caught.value)
    for part in ("ratings.csv and movies.csv", "u.data and u.item", "(item_id, title, genres, plot", str(tmp_path)):
        assert part in said


def test_the_parquet_pair_is_read_row_by_row_too(tmp_path: Path) -> None:
    ratings = {
        "user_id": [1.0, None, 2.0],
        "item_id": [1, 1, 1],
        "rating": [4.0, 4.0, None],
        "timestamp_s": [10, 11, 12],
    }
    pq.write_table(pa.table(ratings), tmp_path / "ratings.parquet")
    item = {"item_id": 1, "title": None, "genres": None, "plot": None, "rated": None, "director": None, "actors": None}
    pq.write_table(pa.Table.from_pylist([item]), tmp_path / "items.parquet")
    source = read(str(tmp_path))
    assert source.ratings.to_pylist() == [{"user_id": 1, "item_id": 1, "rating": 4.0, "timestamp_s": 10}]
    assert [row["key"] for row in source.files[0].refused] == ["ratings.parquet row 2", "ratings.parquet row 3"]
    (tmp_path / "items.parquet").write_bytes(b"PAR1")
    with pytest.raises(ContractError, match="items.parquet: "):
        read(str(tmp_path))


def test_ratings_of_one_date_cannot_be_cut(tmp_path: Path) -> None:
    _csv(tmp_path)
    (tmp_path / "ratings.csv").write_text("userId,movieId,rating,timestamp\n1,1,4.0,964982703\n")
    settings = _settings(tmp_path, str(tmp_path))
    with pytest.raises(ContractError, match=r"2 periods of 1 rating\(s\) begin on 1 dates; take fewer periods, or"):
        movielens.run(MovieLensConfig(source=str(tmp_path), periods=2), settings.open())
