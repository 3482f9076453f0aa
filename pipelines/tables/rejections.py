"""Input that failed, by day. The stages of a day share one table, and each replaces only its own rows."""

from collections.abc import Iterable, Mapping
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.tables import contract
from pipelines.tables.storage import Commit, Storage

TABLE = "rejections"
_WAIT_S = 120.0
"""For another stage that is replacing its own rows."""


def replace(storage: Storage, day: str, stage: str, rows: Iterable[Mapping[str, Any]]) -> Commit:
    """Makes `rows` all that `stage` rejected on `day`; the rows of other stages stay.

    A row holds key, reason (one of contract.REASONS), detail and, where more than one, attempts. Raises ValueError for
    another reason and ContractError for a repeated key.
    """
    own = [
        {
            "key": row["key"],
            "stage": stage,
            "reason": row["reason"],
            "detail": row["detail"],
            "attempts": row.get("attempts", 1),
        }
        for row in rows
    ]
    unknown = sorted({row["reason"] for row in own} - set(contract.REASONS))
    if unknown:
        raise ValueError(f"rejections, stage {stage}: wanted a reason of {contract.REASONS}, got {', '.join(unknown)}")
    with storage.lease(TABLE, day, wait_s=_WAIT_S):
        tables = [of_stage(storage, day, stage, invert=True)]
        tables.append(pa.Table.from_pylist(own, schema=contract.spec(TABLE).schema))
        return storage.write(TABLE, day, [table for table in tables if table.num_rows])


def of_stage(storage: Storage, day: str, stage: str, *, invert: bool = False) -> pa.Table:
    """The rows of one stage of a day (`invert`: of all the others); none where the day has no rejections."""
    if not storage.holds(TABLE, day):
        return contract.spec(TABLE).schema.empty_table()
    table = storage.read(TABLE, day)
    is_stage = pc.equal(table["stage"], stage)
    return table.filter(pc.invert(is_stage) if invert else is_stage)
