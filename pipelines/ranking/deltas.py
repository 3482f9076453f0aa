"""Deltas of the published bank: what a window of training has changed reaches serving without a new full bank.

For training loops; no job of its own.
"""

import logging
from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from models.artifacts import bank
from models.artifacts.bank_delta import BankDelta
from models.artifacts.delta_store import DeltaStore
from models.artifacts.manifest import ArtifactError
from models.artifacts.precision import stored_as
from models.catalog import Catalog
from models.sarm.memory_bank import MemoryBank
from pipelines.ranking.checkpoint import CATALOG
from pipelines.ranking.publish import KIND
from pipelines.ranking.variants.source import State
from pipelines.tables.artifacts import Artifacts

log = logging.getLogger(__name__)
_COMPARED_TOGETHER = 65_536
_WAIT_S = 120.0
"""For another publisher: longer than it takes to take over the lease of one that died."""


class DeltaFeed:
    """Makes deltas of a bank from the memory banks of a ranker that goes on, whose catalog may be another one by then.

    Authors who have no row in the published bank are left out until the next full one, and so are those who lost theirs
    in the ranker. Sources without a memory bank stay as they were published.
    """

    def __init__(self, artifacts: Artifacts, bank_run_id: str) -> None:
        """Raises ArtifactError where the bank, or the ranker that it is of, is missing or damaged."""
        self._artifacts, self._run_id = artifacts, bank_run_id
        folder, manifest = artifacts.verified(KIND, bank_run_id)
        self._published = bank.read(folder)
        ranker = artifacts.fetch(manifest.made_from["ranker"], manifest.made_from["model"])
        self._author_ids = Catalog.load(ranker / CATALOG).author_ids
        self._catalog: Catalog | None = None

    def begin(
        self, banks: Mapping[str, MemoryBank], catalog: Catalog, states: Mapping[str, State], until_ts_ms: int
    ) -> int:
        """Publishes what differs from the full bank before anything was learnt: nothing, where it is of this moment.

        Returns the number of the newest delta.
        """
        rows, there = self._rows(catalog)
        differs = np.zeros(len(rows), np.bool_)
        for name, memory in banks.items():
            for start in range(0, len(rows), _COMPARED_TOGETHER):
                part = slice(start, start + _COMPARED_TOGETHER)
                now = self._held(name, memory, rows[part])
                differs[part] |= (now != self._published.states[name][part]).reshape(len(now), -1).any(axis=1)
        changed = np.flatnonzero(differs & there)
        if len(changed):
            self._publish(1, changed, rows[changed], banks, states, until_ts_ms)
        return int(len(changed) > 0)

    def send(
        self,
        number: int,
        banks: Mapping[str, MemoryBank],
        touched: Mapping[str, Tensor],
        catalog: Catalog,
        states: Mapping[str, State],
        until_ts_ms: int,
    ) -> None:
        """Publishes the rows of `touched` [N+1], of the ranker's catalog, as the delta of that number."""
        rows, there = self._rows(catalog)
        any_source = torch.stack(list(touched.values())).any(dim=0).numpy()
        changed = np.flatnonzero(any_source[rows] & there)
        self._publish(number, changed, rows[changed], banks, states, until_ts_ms)

    def _rows(self, catalog: Catalog) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
        """The ranker's row of each row of the bank, and whether there is one. Looked up once for a catalog."""
        if self._catalog is not catalog:
            rows = np.append(0, catalog.author_rows(self._author_ids))
            self._catalog, self._places = catalog, (rows, (rows > 0) | (np.arange(len(rows)) == 0))
        return self._places

    def _held(self, name: str, memory: MemoryBank, rows: npt.NDArray[np.int64]) -> npt.NDArray[Any]:
        """Vectors [n, ...] of the ranker's rows [n], as the bank stores them."""
        vectors = memory.vectors[torch.from_numpy(rows)].cpu().numpy()
        return stored_as(vectors, self._published.states[name].dtype)

    def _publish(
        self,
        number: int,
        rows: npt.NDArray[np.int64],
        of_ranker: npt.NDArray[np.int64],
        banks: Mapping[str, MemoryBank],
        states: Mapping[str, State],
        until_ts_ms: int,
    ) -> None:
        states_of = self._published.states.items()
        vectors = {name: np.array(table[rows]) for name, table in states_of if name not in banks}
        vectors |= {name: self._held(name, memory, of_ranker) for name, memory in banks.items()}
        days = [state.anchor_day for state in states.values() if state.anchor_day is not None]
        anchor_day = days[0][of_ranker] if days else self._published.anchor_day[rows]
        publish_delta(self._artifacts, self._run_id, rows, vectors, anchor_day, until_ts_ms, number=number)


def publish_delta(
    artifacts: Artifacts,
    bank_run_id: str,
    rows: npt.NDArray[np.integer[Any]],
    states: Mapping[str, npt.NDArray[Any]],
    anchor_day: npt.NDArray[np.int32],
    until_ts_ms: int,
    *,
    number: int | None = None,
) -> int:
    """Publishes what changed since the delta before, for deployments that serve the bank; returns its number.

    rows [R] int32 or int64, of the bank's catalog, ascending, each once; states by source of its ranker [R, ...], of
    the bank's types and shapes; anchor_day [R]; `until_ts_ms`, the event time before which all is in it, later than
    that of the delta before. R may be 0: then the event time alone moves.

    `number` None = the next, or the newest where that has this very event time: a window that is published again after
    a crash, with the same content, changes nothing. A loop that may go back further keeps the numbers and gives them.

    Whatever dies when, deployments see the whole delta or nothing of it. Raises ArtifactError where the bank is not
    CURRENT, for arrays that do not fit it, and for other content under a number that is there; HeldError where another
    publishes deltas of the bank for long.
    """
    # A lease of its own: a full bank takes minutes to publish, and deltas of the one in use go on meanwhile.
    lease = f"{KIND}/{bank_run_id}/deltas"
    with artifacts.lease(lease, _WAIT_S):
        _check_current(artifacts, bank_run_id)
        store = DeltaStore.open(artifacts, bank_run_id)
        chosen = _next(store, until_ts_ms) if number is None else number
        delta = BankDelta(
            bank=bank_run_id,
            first=chosen,
            number=chosen,
            until_ts_ms=int(until_ts_ms),
            rows=rows,
            states=states,
            anchor_day=anchor_day,
        )
        store.publish(delta, partial(artifacts.confirm, lease))
    log.info("bank %s, delta %d | %d author rows | until %d", bank_run_id, chosen, len(rows), until_ts_ms)
    return chosen


def _next(store: DeltaStore, until_ts_ms: int) -> int:
    newest = store.newest()
    return newest if newest and store.until_ts_ms(newest) == until_ts_ms else newest + 1


def _check_current(artifacts: Artifacts, bank_run_id: str) -> None:
    current = artifacts.current(KIND)
    if current != bank_run_id:
        raise ArtifactError(
            f"bank {bank_run_id}: wanted it to be CURRENT, which is {current or 'not there'}; deltas of another bank "
            "reach nobody: publish those of the current one, from its own event time on"
        )
