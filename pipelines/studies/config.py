"""What a study compares."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pipelines.runtime.config import ConfigError, build
from pipelines.semantics import embed
from pipelines.tables.contract import TASKS_COLUMNS

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
WITHOUT = ("base", "tags")
"""Kinds of variants that read no anchors."""


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
    anchor_sources: Mapping[str, AnchorSource] = field(default_factory=dict)
    """Models that write anchors for variants, by the name that variants call them."""
    paper: Mapping[str, Mapping[str, tuple[float, float]]] = field(default_factory=dict)
    """The paper's delta to its base in points: {variant: {task: [AUC, GAUC]}}."""

    def __post_init__(self) -> None:
        if self.data not in DATA:
            raise ValueError(f"data: wanted one of {', '.join(DATA)}, got {self.data!r}")
        if self.seeds < 1:
            raise ValueError(f"seeds: wanted at least 1, got {self.seeds}")
        if self.parallel is not None and self.parallel < 1:
            raise ValueError(f"parallel: wanted at least 1, or null, got {self.parallel}")

        if self.variants:  # other jobs have none, and then nothing has to fit together
            self._check_names(self.rows())
            self._check_anchors(self.rows())

    def rows(self) -> dict[str, Variant]:
        """The variants, in order. Raises ConfigError where there are none, and for unknown keys."""
        if not self.variants:
            raise ConfigError(
                "config.study.variants: wanted rows of a table, got none; start from "
                "pipelines/configs/studies/table1.yaml"
            )
        return {name: build(Variant, raw, f"config.study.variants.{name}") for name, raw in self.variants.items()}

    def _check_names(self, rows: Mapping[str, Variant]) -> None:
        """Every variant and task that is spoken of must be there. Raises ValueError."""
        for role, wanted in (("reference", self.reference), ("full", self.full)):
            if wanted is not None and wanted not in rows:
                raise ValueError(f"variants: wanted the {role} {wanted!r} among them, got {', '.join(rows)}")
        tasks = {task for deltas in self.paper.values() for task in deltas}
        for what, named, known in (("variant", self.paper, tuple(rows)), ("task", tasks, TASKS_COLUMNS)):
            if unknown := sorted(set(named) - set(known)):
                raise ValueError(f"paper: unknown {what}(s) {', '.join(unknown)}; known are {', '.join(known)}")

    def _check_anchors(self, rows: Mapping[str, Variant]) -> None:
        """Variants name sources that are there, and every source is read. Raises ValueError."""
        for name, variant in rows.items():
            if variant.anchors not in (OWN, *self.anchor_sources):
                known = ", ".join(self.anchor_sources) or "none"
                raise ValueError(
                    f"variants.{name}.anchors: wanted one of anchor_sources ({known}), got {variant.anchors!r}"
                )
            if variant.anchors != OWN and variant.kind in WITHOUT:
                raise ValueError(
                    f"variants.{name}.anchors: wanted none, as kind {variant.kind} reads no anchors, "
                    f"got {variant.anchors!r}"
                )
        if unused := sorted(set(self.anchor_sources) - {variant.anchors for variant in rows.values()}):
            raise ValueError(
                f"anchor_sources: wanted a variant that reads {', '.join(unused)}, got none; add one, or drop it"
            )
