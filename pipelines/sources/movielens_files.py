"""MovieLens as GroupLens ships it, in its four formats, and as a pair of Parquet files with more text."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipelines.runtime.config import ConfigError
from pipelines.sources.delimited import Dialect
from pipelines.sources.refusals import Ints, Refusals
from pipelines.sources.release_file import ReleaseFile
from pipelines.tables.contract import ContractError

_RATINGS = ("user_id", "item_id", "rating", "timestamp_s")
_ITEMS = ("item_id", "title", "genres", "plot", "rated", "director", "actors")
_NO_GENRES = "(no genres listed)"
_GENRES = (
    *("unknown", "Action", "Adventure", "Animation", "Children's", "Comedy", "Crime", "Documentary", "Drama"),
    *("Fantasy", "Film-Noir", "Horror", "Musical", "Mystery", "Romance", "Sci-Fi", "Thriller", "War", "Western"),
)
"""Columns of u.item after the first five, 1 where a film is of that genre."""
_RATED = ("userId", "movieId", "rating", "timestamp")
_FILM = ("movieId", "title", "genres")


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """What was read."""

    ratings: pa.Table
    """user_id, item_id, rating, timestamp_s, in the order of time."""
    items: pa.Table
    """item_id, title, genres, plot, rated, director, actors, in the order of item_id."""
    files: Sequence[Refusals] = ()
    """With the rows that were refused."""


def read(source: str) -> Source:
    """The ratings and films of a folder. Raises ConfigError or ContractError where they cannot be used."""
    folder = Path(source)
    for ratings, items, reader in _FORMATS:
        if source and (folder / ratings).is_file() and (folder / items).is_file():
            found = reader(folder / ratings, folder / items)
            order = [("timestamp_s", "ascending"), ("user_id", "ascending"), ("item_id", "ascending")]
            return Source(
                ratings=found.ratings.sort_by(order),
                items=found.items.sort_by("item_id"),
                files=found.files,
            )
    shipped = ", or ".join(f"{ratings} and {items}" for ratings, items, _ in _FORMATS[1:])
    raise ConfigError(
        f"movielens.source: wanted an unpacked folder of GroupLens ({shipped}), or ratings.parquet "
        f"({', '.join(_RATINGS)}) and items.parquet ({', '.join(_ITEMS)}), got {source!r}; "
        "name it by --set movielens.source=DIR"
    )


def _parquet(ratings_file: Path, items_file: Path) -> Source:
    items = _items(items_file)
    file = ReleaseFile(ratings_file, _RATINGS, job="movielens")
    ratings = _rated(file, _RATINGS)
    if len(unknown := np.setdiff1d(ratings["item_id"].to_numpy(), items["item_id"].to_numpy())):
        raise ContractError(f"{file.name}: film {unknown[0]} is not in {items_file.name}; complete the items")
    return Source(ratings=ratings, items=items, files=(file,))


def _items(path: Path) -> pa.Table:
    try:
        table = pq.read_table(path, partitioning=None)
        missing = [column for column in _ITEMS if column not in table.column_names]
        if missing:
            raise ContractError(f"{path.name}: wanted columns {', '.join(_ITEMS)}, got none named {missing[0]}")
        at = table.column_names.index("item_id")
        return table.set_column(at, "item_id", table["item_id"].cast(pa.int64())).select(list(_ITEMS))
    except (pa.ArrowException, OSError) as error:
        raise ContractError(f"{path.name}: {' '.join(str(error).split())}; write it as Parquet again") from error


def _csv(ratings: Path, movies: Path) -> Source:
    """ml-latest, ml-latest-small, ml-20m, ml-25m, ml-32m."""
    return _released(ratings, movies, Dialect(), Dialect())


def _dat(ratings: Path, movies: Path) -> Source:
    """ml-1m and ml-10m."""
    ratings_dialect, films_dialect = (Dialect(delimiter="::", names=names, plain=False) for names in (_RATED, _FILM))
    return _released(ratings, movies, ratings_dialect, films_dialect)


def _u(data: Path, item: Path) -> Source:
    """ml-100k."""
    films = ("movieId", "title", "released", "video_released", "imdb_url", *_GENRES)
    tabs = Dialect(delimiter="\t", names=_RATED, plain=False)
    return _released(data, item, tabs, Dialect(delimiter="|", names=films, plain=False), flags=_GENRES)


_FORMATS: tuple[tuple[str, str, Callable[[Path, Path], Source]], ...] = (
    ("ratings.parquet", "items.parquet", _parquet),
    ("ratings.csv", "movies.csv", _csv),
    ("ratings.dat", "movies.dat", _dat),
    ("u.data", "u.item", _u),
)


def _released(ratings: Path, films: Path, rated: Dialect, listed: Dialect, flags: Sequence[str] = ()) -> Source:
    """Both files; rows that cannot be used are refused, and so are ratings of films that are not there then."""
    film = ReleaseFile(
        films, ["movieId", *flags], job="movielens", texts=["title"] if flags else ["title", "genres"], dialect=listed
    )
    ids = film.ids("movieId")
    film.refuse_repeated(ids, "movieId")
    genres = _flagged(film, flags) if flags else _split(film.texts("genres"))
    items = film.kept({"item_id": ids, "title": film.texts("title"), "genres": genres})
    for name in _ITEMS[3:]:
        items = items.append_column(name, pa.nulls(len(items), pa.string()))
    file = ReleaseFile(ratings, _RATED, job="movielens", dialect=rated)
    kept = _rated(file, _RATED, (films.name, items["item_id"].to_numpy()))
    return Source(ratings=kept, items=items, files=(film, file))


def _rated(file: ReleaseFile, names: Sequence[str], known: tuple[str, Ints] | None = None) -> pa.Table:
    """The ratings; `known`: a file of films, and its ids, of which others are refused."""
    user, item, rating, time = names
    columns: dict[str, Any] = {
        "user_id": file.ids(user),
        "item_id": file.ids(item),
        "rating": file.numbers(rating, "a rating from 0 to 5", most=5).astype(np.float32),
        "timestamp_s": file.times(time, "seconds") // 1000,
    }
    if known:
        file.refuse(~np.isin(columns["item_id"], known[1]), item, f"a film of {known[0]}")
    kept = file.kept(columns)
    if not len(kept):
        why = "".join(f"; {row['detail']}" for row in file.refused[:1])
        raise ContractError(f"{file.name}: no rating can be used{why}")
    return kept.select(list(_RATINGS))


def _split(genres: pa.ChunkedArray) -> pa.ChunkedArray:
    known = pc.if_else(pc.equal(genres, _NO_GENRES), pa.scalar(None, pa.string()), genres)
    return pc.split_pattern(known, "|")


def _flagged(film: ReleaseFile, flags: Sequence[str]) -> pa.Array:
    marks = [film.numbers(name, "0 or 1", most=1) for name in flags]
    rows = np.array(marks).T > 0
    names = [[name for name, has in zip(flags, row, strict=True) if has and name != "unknown"] for row in rows.tolist()]
    return pa.array(names, pa.list_(pa.string()))
