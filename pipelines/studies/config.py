"""What a study compares."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pipelines.ranking.plan import TrainConfig
from pipelines.ranking.variants import SOURCES, ranker_name
from pipelines.runtime.config import ConfigError

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


@dataclass(frozen=True, kw_only=True, slots=True)
class Variant:
    """One row of a study's table."""

    label: str = ""
    """How the table names it; empty = its key."""
    anchors: str = OWN
    """One of the study's `anchor_sources`, whose anchors it reads; empty = those that the data came with."""
    train: TrainConfig = field(default_factory=TrainConfig)
    """How its ranker is trained. In YAML: the keys that differ from the section `train` of the study's file."""

    @property
    def ranker(self) -> str:
        """Name of its ranker."""
        return ranker_name(self.train.sources)

    @property
    def reads(self) -> set[str]:
        """Tables that the sources of its ranker are made from."""
        return {table for name in self.train.sources for table in SOURCES[name].reads}

    @property
    def reads_anchors(self) -> bool:
        """Whether another model's anchors would change it."""
        return bool(self.reads & {"anchors", "anchor_embeddings"})


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
    variants: dict[str, Variant] = field(default_factory=dict)
    """Rows of the table by name, in order."""
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

    def check(self) -> None:
        """Raises ConfigError where the reference is missing, and for figures of the paper about no variant."""
        for role in ("reference", "full"):
            if (wanted := getattr(self, role)) is not None and wanted not in self.variants:
                raise ConfigError(
                    f"config.study.variants: wanted the {role} {wanted!r} among them, got "
                    f"{', '.join(self.variants) or 'none'}; start from pipelines/configs/studies/table1.yaml"
                )
        unknown = sorted(set(self.paper) - set(self.variants))
        if unknown:
            raise ConfigError(
                f"config.study.paper: unknown variant(s) {', '.join(unknown)}; known are {', '.join(self.variants)}"
            )


def inherit_train(raw: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration as YAML gives it, with the section `train` below each variant's own keys of it."""
    study = raw.get("study")
    variants = study.get("variants") if isinstance(study, Mapping) else None
    if not isinstance(study, Mapping) or not isinstance(variants, Mapping):
        return dict(raw)
    shared = raw.get("train") or {}
    inherited = {
        name: {**variant, "train": merged(shared, variant.get("train") or {})}
        if isinstance(variant, Mapping)
        else variant
        for name, variant in variants.items()
    }
    return {**raw, "study": {**study, "variants": {**variants, **inherited}}}


def merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`over` on top of `base`, section by section."""
    result = dict(base)
    for key, value in over.items():
        inner = result.get(key)
        result[key] = merged(inner, value) if isinstance(inner, Mapping) and isinstance(value, Mapping) else value
    return result
