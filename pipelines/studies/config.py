"""What a study compares."""

from dataclasses import dataclass, field
from typing import Any

from pipelines.runtime.config import ConfigError, build
from pipelines.semantics import embed

OWN = ""
"""The source of variants that read the anchors which their data came with."""


@dataclass(frozen=True, kw_only=True, slots=True)
class AnchorSource:
    """A model that writes the anchors of some variants, in place of those that the data came with."""

    model: str
    """Folder of the Qwen-VL checkpoint; prompt and engine are those of the section `anchors`."""
    made_by: str = ""
    """The command that makes the checkpoint, for the error where it is missing."""


DATA = ("world", "store")


KINDS = ("base", "tags", *embed.READERS, "sarm")
"""What a variant may be: the base ranker, the base ranker with a fixed content feature, SARM."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Variant:
    """One row of a study's table."""

    kind: str = "sarm"
    """One of KINDS."""
    label: str = ""
    """How the table names it; empty = its key."""
    anchors: str = OWN
    """One of the study's `anchor_sources`, whose anchors it reads; empty = those that the data came with."""
    model: dict[str, Any] = field(default_factory=dict)
    """Keys of SARMConfig that differ from `train.model`."""

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"kind: wanted one of {', '.join(KINDS)}, got {self.kind!r}")


@dataclass(frozen=True, kw_only=True, slots=True)
class StudyConfig:
    """What is compared."""

    name: str = ""
    """Name of the study, as in its table."""
    about: str = ""
    """What the data are, as the table names them; empty = the simulated world, or the tables."""
    data: str = "world"
    """world: a simulated platform for each seed; store: the tables of `storage.root`, the same for all seeds."""
    seeds: int = 5
    """Seeds, from `seed` on. One seed fixes the world, the initialisation and the order of all variants."""
    parallel: int | None = None
    """Worlds and trials at a time, each on one core; null = as many as the cluster has CPUs."""
    trials: str = ""
    """Folder of finished trials, which studies may share; empty = `<run_dir>/trials`."""
    reference: str = "base"
    """The variant that the others are compared with."""
    full: str | None = None
    """The variant that the cheaper ones of its kind save from (SARM, Table 5): what they lose is counted against it."""
    variants: dict[str, Any] = field(default_factory=dict)
    """Rows of the table: {name: keys of Variant}, in order."""
    anchor_sources: dict[str, Any] = field(default_factory=dict)
    """Models that write anchors for variants: {name: keys of AnchorSource}."""
    paper: dict[str, Any] = field(default_factory=dict)
    """The paper's delta to its base in points: {variant: {task: [AUC, GAUC]}}."""

    def __post_init__(self) -> None:
        if self.data not in DATA:
            raise ValueError(f"data: wanted one of {', '.join(DATA)}, got {self.data!r}")
        if self.seeds < 1:
            raise ValueError(f"seeds: wanted at least 1, got {self.seeds}")
        if self.parallel is not None and self.parallel < 1:
            raise ValueError(f"parallel: wanted at least 1, or null, got {self.parallel}")

    def rows(self) -> dict[str, Variant]:
        """The variants. Raises ConfigError for unknown keys and where the reference is missing."""
        made = {name: build(Variant, raw, f"config.study.variants.{name}") for name, raw in self.variants.items()}
        for role in ("reference", "full"):
            if (wanted := getattr(self, role)) is not None and wanted not in made:
                raise ConfigError(
                    f"config.study.variants: wanted the {role} {wanted!r} among them, got "
                    f"{', '.join(made) or 'none'}; start from pipelines/configs/studies/table1.yaml"
                )
        unknown = sorted(set(self.paper) - set(made))
        if unknown:
            raise ConfigError(
                f"config.study.paper: unknown variant(s) {', '.join(unknown)}; known are {', '.join(made)}"
            )
        return made
