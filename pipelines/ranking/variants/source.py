"""What a source of a ranker is to the jobs: what it depends on, and a state that moves forward in time."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from models.catalog import Catalog
from models.sources import Inputs
from models.sources import Source as Module
from pipelines.tables.artifacts import Artifacts
from pipelines.tables.columns import Columns
from pipelines.tables.storage import Storage


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Context:
    """Where a source's state is opened."""

    storage: Storage
    artifacts: Artifacts
    catalog: Catalog
    """Whose rows its inputs have."""
    days: tuple[str, ...]
    """Days of examples that the ranker is, or was, trained on."""
    made_from: Mapping[str, str]
    """The ranker's lineage, with what `depends_on` of its sources said."""
    learnt: Path | None = None
    """Folder of a published ranker, with what `State.save` left there; None in training."""


class State(Protocol):
    """What a source knows as of a moment."""

    facts: Any
    """The Facts of the source's module: what only the data tell."""
    anchor_day: npt.NDArray[np.int32] | None = None
    """[N+1] day of the anchor that each author row is known by, NO_ANCHOR where there is none; None for a source that
    reads no anchors."""

    def advance(self, before: str) -> Inputs:
        """Takes in what was known before a time key (pipelines/tables/days.py); gives the inputs [N+1, ...].

        It moves forward only.
        """
        ...

    def check(self, key: str, columns: Columns) -> None:
        """Raises ContractError where the examples of a time key were joined with another state than this one."""
        return None

    def warning(self) -> str:
        """What the owner of the data should know of what was read so far, in a line; "" for nothing."""
        return ""

    def go_on(self, module: Module, before: Module) -> None:
        """Begins what is new in a module that goes on with these facts, after one that had those of `before`.

        Raises ValueError where it cannot go on."""
        return None

    def save(self, folder: Path) -> None:
        """Leaves in the folder of a checkpoint what it learnt from the training days, if anything."""
        return None


class Source(Protocol):
    """One way to know more of authors and users than their ids.

    A new one is one file here, whose SOURCES holds it, and one in models/, which holds its module.
    """

    name: str
    """In `train.sources`, in `train.models`, and in the artifact kind of a ranker; letters, digits and _."""
    label: str
    """In tables and reports, behind "+"."""
    reads: tuple[str, ...]
    """Tables of the contract that it is made from."""
    module: type[Module]
    """What learns; `module.Config` is the section `train.models.<name>`."""

    screens: tuple[str, ...] = ()
    """Tables of codes that batches carry for it: what was on screen (`examples.codes`)."""
    can_follow: bool = False
    """Whether a ranker with it may go on with the facts of later days: what its inputs mean must stay."""

    def depends_on(self, storage: Storage, before: str) -> dict[str, str]:
        """Fingerprints of all that its state reads of what was known before a time key."""
        ...

    def pinned(self, artifacts: Artifacts) -> dict[str, str]:
        """Versions of artifacts that a ranker is trained with and stays with; its lineage keeps them."""
        return {}

    def open(self, config: Any, context: Context) -> State:
        """Its state, which knows nothing yet. Raises ContractError where its tables are missing."""
        ...
