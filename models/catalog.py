"""Who is known: the users and authors that have rows in the tables, and their categorical facts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

IntArray = npt.NDArray[np.int64]

_FORMAT = "catalog/1"
_NAMES = ("user_ids", "author_ids", "user_profile", "author_category")


@dataclass(frozen=True, kw_only=True, slots=True)
class CatalogSizes:
    """What a model must know of a catalog to size its tables."""

    num_users: int
    """U, without row 0."""
    num_authors: int
    """N, without row 0."""
    profile_cardinalities: tuple[int, ...]
    """Values of each profile column, value 0 (unknown) included."""
    num_categories: int
    """Values of the author category, value 0 (unknown) included."""

    def __post_init__(self) -> None:
        if min(self.num_users, self.num_authors) < 0 or min((self.num_categories, *self.profile_cardinalities)) < 1:
            raise ValueError(f"sizes must be >= 0 and cardinalities >= 1, got {self}; build them with Catalog.sizes")

    def cover(self, needed: CatalogSizes) -> bool:
        """Whether tables of these sizes serve a catalog of those: as many users and authors, and no fewer values."""
        if (self.num_users, self.num_authors) != (needed.num_users, needed.num_authors):
            return False
        if len(self.profile_cardinalities) != len(needed.profile_cardinalities):
            return False
        pairs = zip(self.profile_cardinalities, needed.profile_cardinalities, strict=True)
        return self.num_categories >= needed.num_categories and all(own >= other for own, other in pairs)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Catalog:
    """Ids and categorical facts of the known users and authors.

    The row of an id is 1 + its position in the sorted ids; an id that is not known has row 0. Categorical values are
    stored shifted by one, so that value 0 means unknown there too.

    Example:
        >>> catalog = Catalog.build(
        ...     user_ids=[7, 5], user_profile=[[0], [-1]], author_ids=[30, 20], author_category=[0, 1]
        ... )
        >>> catalog.author_rows([20, 30, 99]).tolist()
        [1, 2, 0]
        >>> catalog.user_profile.tolist()
        [[0], [0], [1]]
        >>> catalog.sizes
        CatalogSizes(num_users=2, num_authors=2, profile_cardinalities=(2,), num_categories=3)
    """

    user_ids: IntArray
    """[U] int64, sorted, unique."""
    author_ids: IntArray
    """[N] int64, sorted, unique."""
    user_profile: IntArray
    """[U+1, P] int64, row 0 and value 0 = unknown."""
    author_category: IntArray
    """[N+1] int64, row 0 and value 0 = unknown."""

    @classmethod
    def build(
        cls,
        user_ids: npt.ArrayLike,
        user_profile: npt.ArrayLike,
        author_ids: npt.ArrayLike,
        author_category: npt.ArrayLike,
    ) -> Catalog:
        """Make a catalog from rows in any order.

        `user_profile` [U, P] and `author_category` [N] hold codes >= 0, or -1 where the fact is missing.
        Raises ValueError for a duplicate id (naming it), for lengths that differ and for codes below -1.
        """
        users, user_order = _sorted_unique("user_ids", user_ids)
        authors, author_order = _sorted_unique("author_ids", author_ids)
        profile = _codes("user_profile", user_profile, len(users))
        category = _codes("author_category", author_category, len(authors))
        if profile.ndim != 2 or category.ndim != 1:
            raise ValueError(
                f"user_profile must be [U, P] and author_category [N], got shapes {profile.shape} and {category.shape}"
            )
        unknown = np.zeros((1, profile.shape[1]), dtype=np.int64)
        return cls(
            user_ids=users,
            author_ids=authors,
            user_profile=np.concatenate([unknown, profile[user_order] + 1]),
            author_category=np.concatenate([np.zeros(1, dtype=np.int64), category[author_order] + 1]),
        )

    @property
    def num_users(self) -> int:
        """U, without row 0."""
        return len(self.user_ids)

    @property
    def num_authors(self) -> int:
        """N, without row 0."""
        return len(self.author_ids)

    @property
    def profile_cardinalities(self) -> tuple[int, ...]:
        """Values of each profile column, the unknown one included."""
        return tuple(int(value) + 1 for value in self.user_profile.max(axis=0))

    @property
    def num_categories(self) -> int:
        """Values of the author category, the unknown one included."""
        return int(self.author_category.max()) + 1

    @property
    def sizes(self) -> CatalogSizes:
        """The sizes that the tables of a model need."""
        return CatalogSizes(
            num_users=self.num_users,
            num_authors=self.num_authors,
            profile_cardinalities=self.profile_cardinalities,
            num_categories=self.num_categories,
        )

    def user_rows(self, ids: npt.ArrayLike) -> IntArray:
        """Rows of user ids of any shape, 0 where unknown."""
        return _rows(self.user_ids, ids)

    def author_rows(self, ids: npt.ArrayLike) -> IntArray:
        """Rows of author ids of any shape, 0 where unknown."""
        return _rows(self.author_ids, ids)

    def save(self, path: Path) -> None:
        """Write one safetensors file."""
        save_file({name: getattr(self, name) for name in _NAMES}, path, metadata={"format": _FORMAT})

    @classmethod
    def load(cls, path: Path) -> Catalog:
        """Read what `save` wrote. Raises ValueError for a file of another kind."""
        try:
            with safe_open(path, framework="numpy") as file:
                format_name = (file.metadata() or {}).get("format")
                arrays = {name: file.get_tensor(name) for name in _NAMES} if format_name == _FORMAT else {}
        except SafetensorError as error:
            raise ValueError(f"{path} is no catalog: {error}; write one with Catalog.save") from error
        if not arrays:
            raise ValueError(f"{path} has format {format_name!r}, wanted {_FORMAT!r}; write one with Catalog.save")
        return cls(**arrays)


def _sorted_unique(name: str, ids: npt.ArrayLike) -> tuple[IntArray, IntArray]:
    values = np.asarray(ids, dtype=np.int64)
    if values.ndim != 1:
        raise ValueError(f"{name} must have one dimension, got shape {values.shape}")
    order = np.argsort(values, kind="stable").astype(np.int64)
    ordered = values[order]
    repeated = np.flatnonzero(ordered[1:] == ordered[:-1])
    if len(repeated):
        raise ValueError(f"{name} has id {ordered[repeated[0]]} twice; keep one row per id")
    return ordered, order


def _codes(name: str, codes: npt.ArrayLike, length: int) -> IntArray:
    values = np.asarray(codes, dtype=np.int64)
    if values.shape[:1] != (length,):
        raise ValueError(f"{name} must have {length} rows, one per id, got shape {values.shape}")
    if values.size and values.min() < -1:
        raise ValueError(f"{name} holds {values.min()}; wanted codes >= 0, or -1 where the fact is missing")
    return values


def _rows(sorted_ids: IntArray, ids: npt.ArrayLike) -> IntArray:
    wanted = np.asarray(ids, dtype=np.int64)
    if not len(sorted_ids):
        return np.zeros(wanted.shape, dtype=np.int64)
    position = np.minimum(np.searchsorted(sorted_ids, wanted), len(sorted_ids) - 1)
    return np.where(sorted_ids[position] == wanted, position + 1, 0).astype(np.int64)
