"""Deltas of the published bank: what a window of training has changed reaches serving without a new full bank.

A function for training loops; no job of its own.
"""

import logging
from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from models.artifacts.bank_delta import BankDelta
from models.artifacts.delta_store import DeltaStore
from models.artifacts.manifest import ArtifactError
from pipelines.ranking.publish import KIND
from pipelines.tables.artifacts import Artifacts

log = logging.getLogger(__name__)
_WAIT_S = 120.0
"""For another publisher: longer than it takes to take over the lease of one that died."""


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
