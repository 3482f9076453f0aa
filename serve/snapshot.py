"""One published bank and the model it was made with, loaded, checked and immutable.

The bank's CURRENT alone decides the pair: its manifest names the model version. Whatever does not fit is refused with
both values, so that the previous pair keeps answering.
"""

from __future__ import annotations

import io
import logging
import time
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from models import HISTORY_PAD
from models.artifacts.manifest import ArtifactError
from models.artifacts.store import ArtifactStore
from models.catalog import Catalog
from models.sarm.model import SARM
from serve.neighbours import Neighbours
from serve.schema import MAX_HISTORY

log = logging.getLogger(__name__)

COLD_START_ROW = 0
"""Row of the bank that answers for authors that are not known."""

_BANK_FILE = "bank.npy"
_HEADER_BYTES = 4096
_CHECK_ROWS = 65_536
_EPOCH_ORDINAL = date(1970, 1, 1).toordinal()

Array = npt.NDArray[Any]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Bank:
    """Author vectors of one version, mapped from disk; the pages are shared by all processes of a node."""

    version: str
    """Run id of the bank."""
    model_version: str
    """Run id of the model that made it."""
    made_from: dict[str, str]
    """What the manifest says about its inputs."""
    published_ts_ms: int
    """When it was stored."""
    vectors: Array
    """[N+1, 2, D] float32: h_CLS, h_TAR; row 0 answers for unknown authors. [0, 2, D] where vectors are elsewhere."""
    cold_start: Array
    """[2, D] float32, a copy of row 0."""
    anchor_day: Array
    """[N+1] int32, days since epoch, negative where there is none."""
    catalog: Catalog
    """Who has which row."""
    neighbours: Neighbours | None = None
    """Who is alike; None outside the author cache."""

    @property
    def num_authors(self) -> int:
        """N."""
        return self.catalog.num_authors

    @property
    def dim(self) -> int:
        """D."""
        return int(self.cold_start.shape[-1])

    @property
    def holds_vectors(self) -> bool:
        """False where vectors are looked up in another process."""
        return len(self.vectors) > 0

    def age_s(self, now_ms: int) -> float:
        """Seconds since the bank was published."""
        return max(0.0, (now_ms - self.published_ts_ms) / 1000.0)

    def anchor_date(self, row: int) -> date | None:
        """Day of an author's anchor, None where there is none."""
        days = int(self.anchor_day[row])
        return None if days < 0 else date.fromordinal(_EPOCH_ORDINAL + days)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Histories:
    """The last clicks of each user, newest last, padded on the left."""

    user_ids: Array
    """[U] int64, ascending, unique."""
    author_ids: Array
    """[U, L] int64, HISTORY_PAD where padded."""
    ts_ms: Array
    """[U, L] int64, 0 where padded."""
    watch_s: Array
    """[U, L] float32, 0 where padded."""

    @property
    def length(self) -> int:
        """L, the history that the model was trained with."""
        return int(self.author_ids.shape[1])

    @classmethod
    def none(cls) -> Histories:
        """Of a bank that was published without: requests bring their own, and the bound of a request is L."""
        ids = np.empty((0, MAX_HISTORY), np.int64)
        return cls(user_ids=ids[:, 0], author_ids=ids, ts_ms=ids, watch_s=ids.astype(np.float32))

    def of_user(self, user_id: int) -> tuple[Array, Array, Array]:
        """author_ids, ts_ms, watch_s of one user without padding; empty for a user without history."""
        position = int(np.searchsorted(self.user_ids, user_id))
        if position == len(self.user_ids) or self.user_ids[position] != user_id:
            return np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.float32)
        used = self.author_ids[position] != HISTORY_PAD
        return self.author_ids[position][used], self.ts_ms[position][used], self.watch_s[position][used]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Snapshot:
    """Everything a request reads, of one version."""

    bank: Bank
    """Vectors and catalog."""
    model: SARM
    """In evaluation mode; its anchor encoder is never called here."""
    histories: Histories
    """For users whose request brings no history."""

    @property
    def version(self) -> str:
        """Run id of the bank, which decides the pair."""
        return self.bank.version

    @classmethod
    def load(cls, store: ArtifactStore, version: str, *, with_vectors: bool = True) -> Snapshot:
        """The bank `version` and its model, verified. Raises ArtifactError or ValueError on any mismatch.

        Without vectors only row 0 is read: the others are then asked of the author cache.
        """
        started = time.perf_counter()
        bank, folder, model_folder = _load_bank(store, version, with_vectors=with_vectors)
        model = SARM.load(model_folder)
        _check_model(model, bank)
        histories = _load_histories(folder)
        log.info("loaded bank %s with model %s in %.1f s", version, bank.model_version, time.perf_counter() - started)
        return cls(bank=bank, model=model, histories=histories)


def load_bank(store: ArtifactStore, version: str) -> Bank:
    """The bank alone, for a process that ranks nothing. Raises as `Snapshot.load`.

    The model is checked all the same and let go: author cache and ranker then refuse the same versions.
    """
    bank = Snapshot.load(store, version).bank
    anchored = bank.anchor_day >= 0
    anchored[COLD_START_ROW] = False
    return replace(bank, neighbours=Neighbours(bank.vectors[:, 0], anchored))


def _load_bank(store: ArtifactStore, version: str, *, with_vectors: bool) -> tuple[Bank, Path, Path]:
    folder, manifest = store.fetch("bank", version, skip=() if with_vectors else (_BANK_FILE,))
    model_version = manifest.made_from.get("model")
    if not model_version:
        raise ArtifactError(
            f"bank {version}: wanted made_from.model in its manifest, got {dict(manifest.made_from)}; publish it again"
        )
    model_folder, _ = store.fetch("model", model_version)
    catalog = Catalog.load(model_folder / "catalog.safetensors")
    if with_vectors:
        vectors = _mapped(folder, _BANK_FILE, np.float32, ndim=3)
        rows, dim = len(vectors), vectors.shape[-1]
        _check_vectors(vectors, version)
        cold_start = np.array(vectors[COLD_START_ROW])
    else:
        rows, dim, cold_start = _first_row(store, version)
        vectors = np.empty((0, 2, dim), np.float32)
    _equal(f"bank {version}", "rows (authors of its model's catalog + 1)", rows, catalog.num_authors + 1)
    anchor_day = _mapped(folder, "anchor_day.npy", np.int32, ndim=1)
    _equal(f"bank {version}", "anchor_day rows", len(anchor_day), rows)
    bank = Bank(
        version=version,
        model_version=model_version,
        made_from=dict(manifest.made_from),
        published_ts_ms=store.published_ts_ms("bank", version),
        vectors=vectors,
        cold_start=cold_start,
        anchor_day=anchor_day,
        catalog=catalog,
    )
    return bank, folder, model_folder


def _load_histories(folder: Path) -> Histories:
    if not any(folder.glob("history_*.npy")):
        return Histories.none()
    users = _mapped(folder, "history_user_ids.npy", np.int64, ndim=1)
    columns = {
        "history_author_ids": _mapped(folder, "history_author_ids.npy", np.int64, ndim=2),
        "history_ts_ms": _mapped(folder, "history_ts_ms.npy", np.int64, ndim=2),
        "history_watch_s": _mapped(folder, "history_watch_s.npy", np.float32, ndim=2),
    }
    wanted = (len(users), columns["history_author_ids"].shape[1])
    for name, column in columns.items():
        _equal(f"bank {folder.name}", f"shape of {name}", column.shape, wanted)
    if wanted[1] < 1:
        raise ArtifactError(f"bank {folder.name}: wanted histories of length >= 1, got {wanted}; publish it again")
    if len(users) > 1 and not (users[1:] > users[:-1]).all():
        raise ArtifactError(f"bank {folder.name}: wanted history_user_ids ascending and unique; publish it again")
    return Histories(
        user_ids=users,
        author_ids=columns["history_author_ids"],
        ts_ms=columns["history_ts_ms"],
        watch_s=columns["history_watch_s"],
    )


def _check_model(model: SARM, bank: Bank) -> None:
    subject = f"bank {bank.version} with model {bank.model_version}"
    _equal(subject, "width", bank.dim, model.config.width)
    _equal(subject, "sizes of the catalog", bank.catalog.sizes, model.sizes)
    broken = [name for name, tensor in model.state_dict().items() if not bool(tensor.isfinite().all())]
    if broken:
        raise ArtifactError(f"{subject}: weights {broken[:5]} hold NaN or infinity; train again")


def _mapped(folder: Path, name: str, dtype: type[np.generic], *, ndim: int) -> Array:
    path = folder / name
    if not path.is_file():
        raise ArtifactError(f"{folder.name}: wanted {name}, got {sorted(p.name for p in folder.iterdir())}")
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise ArtifactError(f"{folder.name}/{name}: wanted a .npy array, got {error}; publish it again") from error
    _equal(f"{folder.name}/{name}", "dtype and dimensions", (array.dtype, array.ndim), (np.dtype(dtype), ndim))
    # A plain view of the same pages: indexing the memmap class itself is several times slower.
    mapped: Array = array.view(np.ndarray)
    return mapped


def _check_vectors(vectors: Array, version: str) -> None:
    """Reads every row once. Raises ArtifactError for a wrong shape and for NaN or infinity."""
    if vectors.shape[1] != 2 or not len(vectors):
        raise ArtifactError(f"bank {version}: wanted [N+1, 2, D], got {vectors.shape}; publish it again")
    for start in range(0, len(vectors), _CHECK_ROWS):
        finite = np.isfinite(vectors[start : start + _CHECK_ROWS]).all(axis=(1, 2))
        if not finite.all():
            row = start + int(np.flatnonzero(~finite)[0])
            raise ArtifactError(f"bank {version}: row {row} holds NaN or infinity; publish it again")


def _first_row(store: ArtifactStore, version: str) -> tuple[int, int, Array]:
    """Rows, D and row 0 of a bank that stays where it is."""
    stream = io.BytesIO(store.read_part("bank", version, _BANK_FILE, _HEADER_BYTES))
    try:
        _equal(f"bank {version}", ".npy format", np.lib.format.read_magic(stream), (1, 0))  # type: ignore[no-untyped-call]
        header = np.lib.format.read_array_header_1_0(stream)  # type: ignore[no-untyped-call]
    except ValueError as error:
        raise ArtifactError(f"bank {version}: {_BANK_FILE} is no .npy array ({error}); publish it again") from error
    (*shape, dim), fortran, dtype = header
    _equal(f"bank {version}", "type, order, vectors", (dtype, fortran, shape[1:]), (np.dtype(np.float32), False, [2]))
    start, num_bytes = stream.tell(), 2 * dim * dtype.itemsize
    raw = store.read_part("bank", version, _BANK_FILE, start + num_bytes)[start:]
    _equal(f"bank {version}", "bytes of row 0", len(raw), num_bytes)
    row = np.frombuffer(raw, dtype).reshape(2, dim)
    if not np.isfinite(row).all():
        raise ArtifactError(f"bank {version}: row 0 holds NaN or infinity; publish it again")
    return shape[0], dim, row


def _equal(subject: str, what: str, got: Any, wanted: Any) -> None:
    if got != wanted:
        raise ArtifactError(f"{subject}: {what}: got {got}, wanted {wanted}; publish a bank and its model together")
