"""How well a live world could be ranked by what is on screen and the author's law: upper bounds, nothing is learnt."""

from functools import partial

import numpy as np

from pipelines.studies.references.reference import Material, Ranked
from pipelines.tables.contract import ContractError

KNOWN = {"screen_ended": "past", "screen_now": "present"}
"""What each row is given, as columns of `oracle_live` name it."""


def rank(given: Material, known: str) -> Ranked:
    """Ranks every task. Raises ContractError where an impression's truth is missing."""
    columns = [f"{known}_{task}" for task in given.tasks]
    truth = given.storage.with_oracle().read("oracle_live", given.day, ["impression_id", *columns])
    truth = truth.sort_by("impression_id")
    ids, asked = truth["impression_id"].to_numpy(), given.columns["impression_id"]
    at = np.searchsorted(ids, asked)
    if not len(ids) or not np.array_equal(ids[np.minimum(at, len(ids) - 1)], asked):
        raise ContractError(
            f"table oracle_live, day {given.day}: wanted the truth of {len(asked)} impressions, got {len(ids)} rows; "
            "make a live world (world.live), or leave the rows screen_* out of study.references"
        )
    return Ranked(scores={task: truth[f"{known}_{task}"].to_numpy()[at] for task in given.tasks})


ROWS = {name: partial(rank, known=known) for name, known in KNOWN.items()}
"""By the name of the reference row."""
