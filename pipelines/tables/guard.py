"""What keeps a good day from being replaced by a far worse one: an empty source, a failed batch, another folder."""

import logging
from dataclasses import dataclass

from pipelines.tables.contract import ContractError

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class Guard:
    """The rule by which a job may replace what is there."""

    job: str
    """The job, as errors call its section."""
    least_share: float
    """Share of the rows there that the new version must have too."""
    replace: bool
    """Whether the user allows it all the same."""

    def check(self, where: str, *, old: int, kept: int, new: int, unit: str = "rows") -> None:
        """Compares what is there with what of it stays, and logs what goes. Raises ContractError."""
        if kept < old:
            log.info("%s: %d of %d %s go, %d are new", where, old - kept, old, unit, new - kept)
        if kept < self.least_share * old and not self.replace:
            raise ContractError(
                f"{where}: wanted at least {self.least_share:.0%} of the {old} {unit} there (storage.least_share), got "
                f"{kept} of them among the {new} new {unit}; all stays as it was; name another day or source, or "
                f"replace it with --set {self.job}.replace=true"
            )
