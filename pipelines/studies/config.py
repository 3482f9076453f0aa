"""What a study compares."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from models.config import PathText
from pipelines.ranking.plan import TrainConfig
from pipelines.ranking.variants import SOURCES, ranker_name
from pipelines.retrieval.towers_plan import TowersConfig
from pipelines.runtime.config import build, merged, to_dict

OWN = ""
"""The source of variants that read the anchors which their data came with."""


@dataclass(frozen=True, kw_only=True, slots=True)
class AnchorSource:
    """A model that writes the anchors of some variants, in place of those that the data came with."""

    model: PathText
    """Folder of the Qwen-VL checkpoint; prompt and engine are those of the section `anchors`."""
    made_by: str = ""
    """The command that makes the checkpoint, for the error where it is missing."""


DATA = ("world", "store")
ORACLE = "oracle"
CEILINGS = ("content_in_force", "content_of_today")
SCREEN = ("screen_ended", "screen_now")
REFERENCES = {
    "regression": "logistic regression, no text",
    "regression_phrases": "logistic regression, phrases of the anchor",
    "regression_words": "logistic regression, words of the anchor",
    "dcn": "DCN-V2, one per task, no text",
    "content_in_force": "ceiling: content in force",
    "content_of_today": "ceiling: content of today",
    "screen_ended": "ceiling: the newest segment that had ended",
    "screen_now": "ceiling: what is on screen",
    ORACLE: "Oracle",
}
"""Rows that no variant trains, and how tables name them. CEILINGS and the oracle are of simulated worlds alone, SCREEN
of live ones."""


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
class TowersRow:
    """One row of a study of retrieval."""

    label: str = ""
    """How the table names it; empty = its key."""
    codes_of: str | None = None
    """The row whose vectors of segments are coded, for this row to read in histories; its `towers.codes` is then
    `item_codes`."""
    towers: TowersConfig = field(default_factory=TowersConfig)
    """How it is trained. In YAML: the keys that differ from the section `towers` of the study's file."""
    paper: float | None = None
    """The paper's HitRate@1000, in percent."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StudyConfig:
    """What is compared."""

    name: str = ""
    """Name of the study, as in its table."""
    about: str = ""
    """What the data are, as the table names them; empty = the simulated world, or the tables."""
    data: str = "world"
    """world: a simulated platform for each seed; store: the tables of `storage.root`, the same for all seeds."""
    stores: PathText = ""
    """Where the tables of each seed are already, a folder or URL with {seed} in the place of the seed: they are linked
    into the study's own stores, and no world is made; empty = worlds are made."""
    seeds: int = 5
    """Seeds, from `seed` on. One seed fixes the world, the initialisation and the order of all variants."""
    parallel: int | None = None
    """Worlds and trials at a time, each on one core; null = as many as the cluster has CPUs."""
    trials: PathText = ""
    """Folder of finished trials, which studies may share; empty = `<run_dir>/trials`."""
    reference: str = "base"
    """The variant that the others are compared with."""
    against: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Variants that some are compared with beside it: {variant: [variant, ...]}."""
    full: str | None = None
    """The variant that the cheaper ones of its kind save from (SARM, Table 5): what they lose is counted against it."""
    variants: Mapping[str, Variant] = field(default_factory=dict)
    """Rows of the table by name, in order."""
    references: tuple[str, ...] | None = None
    """Rows below them that no variant trains, for scale: some of REFERENCES; null = all that the data allow."""
    anchor_sources: Mapping[str, AnchorSource] = field(default_factory=dict)
    """Models that write anchors for variants, by the name that variants call them."""
    towers: Mapping[str, TowersRow] = field(default_factory=dict)
    """Rows of a study of retrieval, in place of `variants`, scored as the section `recall` says."""
    paper: Mapping[str, Mapping[str, tuple[float, float]]] = field(default_factory=dict)
    """The paper's delta to its base in points: {variant: {task: [AUC, GAUC]}}."""

    def __post_init__(self) -> None:
        if self.data not in DATA:
            raise ValueError(f"data: wanted one of {', '.join(DATA)}, got {self.data!r}")
        if self.stores and ("{seed}" not in self.stores or self.data != "world"):
            raise ValueError(f"stores: wanted a place with {{seed}} in it, and data: world, got {self.stores!r}")
        if self.seeds < 1:
            raise ValueError(f"seeds: wanted at least 1, got {self.seeds}")
        if self.parallel is not None and self.parallel < 1:
            raise ValueError(f"parallel: wanted at least 1, or null, got {self.parallel}")
        if unknown := sorted(set(self.references or ()) - set(REFERENCES)):
            raise ValueError(
                f"references: unknown row(s) {', '.join(unknown)}; known are {', '.join(REFERENCES)}, or null for all"
            )
        if self.towers:
            self._check_towers()
        if self.variants:  # other jobs have none, and then nothing has to fit together
            self._check_names()
            self._check_anchors()

    @property
    def tasks(self) -> tuple[str, ...]:
        """The tasks of every variant, in order."""
        return tuple(self.variants[self.reference].train.ranker.tasks)

    def _check_towers(self) -> None:
        """Rows of retrieval stand alone, and those with codes name a row before them. Raises ValueError."""
        if self.against:
            raise ValueError(f"against: wanted none with towers, got rows {', '.join(self.against)}")
        if self.variants or self.reference not in self.towers:
            raise ValueError(
                f"towers: wanted the reference {self.reference!r} among them and no variants, got "
                f"{', '.join(self.towers)}, and variants {', '.join(self.variants) or 'none'}"
            )
        without = [name for name, row in self.towers.items() if row.codes_of is None]
        for name, row in self.towers.items():
            wanted = None if row.codes_of is None else "item_codes"
            if row.towers.codes != wanted or row.codes_of not in (None, *without):
                raise ValueError(
                    f"towers.{name}: wanted codes_of to be null, or one of {', '.join(without)} with towers.codes "
                    f"item_codes, got codes_of {row.codes_of!r} and towers.codes {row.towers.codes!r}"
                )

    def _check_names(self) -> None:
        """Every variant and task that is spoken of must be there, no variant a reference row. Raises ValueError."""
        if taken := sorted(set(self.variants) & set(REFERENCES)):
            raise ValueError(f"variants: {', '.join(taken)} is the name of a reference row; choose another")
        for role, wanted in (("reference", self.reference), ("full", self.full)):
            if wanted is not None and wanted not in self.variants:
                raise ValueError(f"variants: wanted the {role} {wanted!r} among them, got {', '.join(self.variants)}")
        for name in dict.fromkeys(name for pair in self.against.items() for name in (pair[0], *pair[1])):
            if name not in self.variants:
                raise ValueError(f"against: wanted names of variants, {', '.join(self.variants)}, got {name!r}")
        if differing := [name for name, of in self.variants.items() if tuple(of.train.ranker.tasks) != self.tasks]:
            raise ValueError(
                f"variants: wanted the tasks of {self.reference}, {', '.join(self.tasks)}, in that order, got others "
                f"in {', '.join(differing)}; give all one train.ranker.tasks"
            )
        tasks = {task for deltas in self.paper.values() for task in deltas}
        for what, named, known in (("variant", self.paper, tuple(self.variants)), ("task", tasks, self.tasks)):
            if unknown := sorted(set(named) - set(known)):
                raise ValueError(f"paper: unknown {what}(s) {', '.join(unknown)}; known are {', '.join(known)}")

    def _check_anchors(self) -> None:
        """Variants name sources that are there, and every source is read. Raises ValueError."""
        for name, variant in self.variants.items():
            if variant.anchors not in (OWN, *self.anchor_sources):
                known = ", ".join(self.anchor_sources) or "none"
                raise ValueError(
                    f"variants.{name}.anchors: wanted one of anchor_sources ({known}), got {variant.anchors!r}"
                )
            if variant.anchors != OWN and not variant.reads_anchors:
                raise ValueError(
                    f"variants.{name}.anchors: wanted none, as its ranker {variant.ranker} reads no anchors, "
                    f"got {variant.anchors!r}"
                )
        if unused := sorted(set(self.anchor_sources) - {variant.anchors for variant in self.variants.values()}):
            raise ValueError(
                f"anchor_sources: wanted a variant that reads {', '.join(unused)}, got none; add one, or drop it"
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class TuneConfig:
    """Which settings are tried, for which rows of the study."""

    samples: int = 8
    """Draws for every row, its own settings first: an equal budget for all."""
    spaces: Mapping[str, Mapping[str, tuple[Any, ...]]] = field(default_factory=dict)
    """By row of `study.variants`: dotted keys of its section train, each with the values that may be drawn."""

    def __post_init__(self) -> None:
        if self.samples < 1:
            raise ValueError(f"samples: wanted at least 1, got {self.samples}")
        empty = [f"{row}.{key}" for row, space in self.spaces.items() for key, values in space.items() if not values]
        if empty:
            raise ValueError(f"spaces: wanted at least one value for every key, got none for {', '.join(empty)}")
        for row, space in self.spaces.items():
            for key, values in space.items():
                for value in values:
                    trained_with(TrainConfig(), {key: value}, f"spaces.{row}")


def trained_with(train: TrainConfig, draw: Mapping[str, Any], path: str = "train") -> TrainConfig:
    """A section `train` with values put in by dotted key. Raises ConfigError for keys and values that cannot be."""
    keys = to_dict(train)
    for dotted, value in draw.items():
        for part in reversed(dotted.split(".")):
            value = {part: value}
        keys = merged(keys, value)
    return build(TrainConfig, keys, path)


def inherit_train(raw: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration as YAML gives it, with the section `train` below each variant's own keys of it, and `towers`
    below each row's of retrieval."""
    study = raw.get("study")
    if not isinstance(study, Mapping):
        return dict(raw)
    own = {
        rows: _inherited(raw.get(section) or {}, study[rows], section)
        for rows, section in (("variants", "train"), ("towers", "towers"))
        if isinstance(study.get(rows), Mapping)
    }
    return {**raw, "study": {**study, **own}}


def _inherited(shared: Mapping[str, Any], rows: Mapping[str, Any], section: str) -> dict[str, Any]:
    """Rows, each with a section that has the keys of `shared` and, above them, its own."""
    return {
        name: {**row, section: merged(shared, row.get(section) or {})} if isinstance(row, Mapping) else row
        for name, row in rows.items()
    }
