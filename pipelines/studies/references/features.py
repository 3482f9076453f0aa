"""Sparse features of examples for linear models: ids, and every profile value with what is known of the author."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

from models.catalog import Catalog
from pipelines.samples.batches import Ints
from pipelines.tables import newest
from pipelines.tables.anchor_text import phrases_of, words_of
from pipelines.tables.columns import Columns
from pipelines.tables.contract import FIELDS, ContractError
from pipelines.tables.days import NO_ANCHOR, day_of
from pipelines.tables.storage import Storage

TERMS = {"phrases": phrases_of, "words": words_of}
"""What an anchor is taken apart into: whole phrases of each field, or lower-cased words of any."""


class AnchorTerms:
    """The terms of the anchor in force, one row of a sparse matrix [N+1, T] per author."""

    def __init__(self, storage: Storage, catalog: Catalog, terms: str, days: Sequence[str]) -> None:
        """`terms` is one of TERMS; only those that anchors had while training on `days` of examples have a column."""
        self._storage, self._catalog, self._split = storage, catalog, TERMS[terms]
        self._column: dict[str, int] = {}
        for day in days:
            _, _, terms_of = self._in_force(day)
            for term in (term for of in terms_of for term in of):
                self._column.setdefault(term, len(self._column))

    def __len__(self) -> int:
        """T."""
        return len(self._column)

    def before(self, day: str, columns: Columns) -> Any:
        """[n, T] of a day's examples: 1 for each term of the newest anchor of a day strictly before.

        Raises ContractError where the examples were joined with other anchors.
        """
        rows, since, terms_of = self._in_force(day)
        anchor_day = np.full(self._catalog.num_authors + 1, NO_ANCHOR, np.int32)
        anchor_day[rows] = since
        author = self._catalog.author_rows(columns["author_id"])
        if (anchor_day[author] != columns["anchor_day"])[author > 0].any():
            raise ContractError(
                f"table examples, day {day}, column anchor_day: wanted the newest anchors before that day, got others; "
                "the anchors changed since: run the job examples again"
            )
        known = [[self._column[term] for term in of if term in self._column] for of in terms_of]
        places = np.repeat(rows, [len(of) for of in known])
        flat = np.array([column for of in known for column in of], np.int64)
        shape = (self._catalog.num_authors + 1, len(self))
        return sp.csr_matrix((np.ones(len(flat)), (places, flat)), shape)[author]

    def _in_force(self, day: str) -> tuple[Ints, npt.NDArray[np.int32], list[list[str]]]:
        """Author rows, the day that their anchor is of, and its terms."""
        table = newest.read(
            self._storage, "anchors", before=day_of(day), columns=["author_id", "since", *FIELDS]
        )  # fmt: skip
        rows = self._catalog.author_rows(table["author_id"].to_numpy())
        known = np.flatnonzero(rows)
        table = table.take(known)
        terms_of = [self._split(anchor) for anchor in table.select(list(FIELDS)).to_pylist()]
        return rows[known], table["since"].cast("int32").to_numpy(), terms_of


Joined = tuple[tuple[int, ...], ...]
"""Groups of profile columns; the values of a group's columns together are one value, a cell."""


def ways_to_join(num_columns: int) -> dict[str, Joined]:
    """What a regression may take for a profile: each column by itself, all as one cell, or all but one as one cell."""
    every = tuple(range(num_columns))
    ways: dict[str, Joined] = {"each": tuple((column,) for column in every)}
    if num_columns > 1:
        ways["all"] = (every,)
        ways |= {f"all but {out}": (tuple(c for c in every if c != out),) for out in every}
    return ways


def features(catalog: Catalog, columns: Columns, terms: Any, joined: Joined) -> Any:
    """Sparse [n, F]: user, author, and each cell of `joined` x author, x author category, x term of `terms` [n, T]."""
    user, author = catalog.user_rows(columns["user_id"]), catalog.author_rows(columns["author_id"])
    authors = one_hot(author, catalog.num_authors + 1)
    categories = one_hot(catalog.author_category[author], catalog.num_categories)
    blocks = [one_hot(user, catalog.num_users + 1), authors]
    crossed_with = [authors, categories] if terms is None else [authors, categories, terms]
    for group in joined:
        sizes = [catalog.profile_cardinalities[column] for column in group]
        cells = np.ravel_multi_index(tuple(catalog.user_profile[user][:, list(group)].T), sizes)
        blocks += [crossed(cells, int(np.prod(sizes)), of) for of in crossed_with]
    return sp.hstack(blocks, format="csr")


def one_hot(values: Ints, count: int) -> Any:
    """[n, count], a 1 in the column of each value."""
    return sp.csr_matrix((np.ones(len(values)), values, np.arange(len(values) + 1)), (len(values), count))


def crossed(values: Ints, count: int, members: Any) -> Any:
    """values [n] x members [n, M] -> [n, count * M]: column value * M + m holds what column m of members does."""
    shift = np.repeat(values * members.shape[1], np.diff(members.indptr))
    shape = (members.shape[0], count * members.shape[1])
    return sp.csr_matrix((members.data, members.indices + shift, members.indptr), shape)
