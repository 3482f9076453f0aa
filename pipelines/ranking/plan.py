"""What is trained, and how: the configuration of training, and the plan that fixes one run of it."""

from dataclasses import dataclass, field, make_dataclass
from typing import TYPE_CHECKING, Any

from models.config import PathText
from models.ranker import RankerConfig
from pipelines.ranking.checkpoint import Progress
from pipelines.ranking.variants import SOURCES, ranker_name
from pipelines.runtime.config import to_dict
from pipelines.runtime.run import Run
from pipelines.runtime.scaling import TrainScaling
from pipelines.runtime.watch import WatchConfig
from pipelines.samples.batches import require_labels
from pipelines.samples.stream import Cut
from pipelines.tables import newest
from pipelines.tables.artifacts import Artifacts
from pipelines.tables.contract import ContractError
from pipelines.tables.fingerprint import digest
from pipelines.tables.storage import Storage

if TYPE_CHECKING:

    class SourceModels:
        """Made below."""
else:
    SourceModels = make_dataclass(
        "SourceModels",
        [(name, source.module.Config, field(default_factory=source.module.Config)) for name, source in SOURCES.items()],
        frozen=True,
        kw_only=True,
        slots=True,
        namespace={
            "__module__": __name__,
            "__doc__": "One section per source of a ranker, by its name: the Config of its module.",
        },
    )

EACH_DAY = ("anew", "follow")
ID_TABLES = ("replicated", "sharded")
RATES = {"days": 0.5, "windows": 0.25}
"""By what is followed, the share of the learning rates that was best where it was measured (docs/training.md)."""
LAST_RATE = 0.1
"""Least share of the learning rates with which the validation keys are begun."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FollowConfig:
    """How a ranker goes on with what is new, day after day: the job follow."""

    by: str = "days"
    """`days`: each day is scored, then learnt from `examples`, with the labels that it has in the end. `windows`: the
    impressions of a few seconds are scored, then what was reported in them is learnt from `window_examples`."""
    window_s: float = 30.0
    """Seconds that are scored and learnt together, by windows; more where they hold fewer rows than a step."""
    delta_s: float | None = None
    """By windows: seconds of the stream after which the authors that were encoded since reach the bank that is served,
    as a delta of it; null = no deltas. Of a ranker that begins anew nothing is served yet, and there are none."""
    rate: float | None = None
    """Share of the learning rates, all the time; null = 0.5 by days, and 0.25 by windows, whose steps are smaller."""
    forget_days: int | None = None
    """An id that was in no example for so many days, and whose row in users or authors did not change, loses its
    vector; null = never."""
    shuffle: bool = True
    """Requests of a stretch in random order, as in training; false = in the order of time."""
    keep_states: int = 2
    """Versions of what a ranker goes on from that stay: each has the whole optimizer."""

    def __post_init__(self) -> None:
        if self.by not in RATES:
            raise ValueError(f"by: wanted one of {', '.join(RATES)}, got {self.by!r}")
        unset_or_positive = (self.rate, self.forget_days, self.delta_s)
        if any(value is not None and value <= 0 for value in unset_or_positive) or self.keep_states < 1:
            raise ValueError(
                f"wanted rate, forget_days and delta_s > 0 or null, and keep_states >= 1, got {self}; correct them"
            )
        if self.window_s < 0.001 or (self.delta_s is not None and self.by != "windows"):
            raise ValueError(f"wanted window_s > 0, and delta_s with by: windows alone, got {self}; correct them")


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainConfig:
    """What is trained, and how."""

    sources: tuple[str, ...] = ("sarm",)
    """What the ranker reads beside ids, in order: some of the names in `models`. None of them is Base."""
    base: bool = True
    """Also train Base, the ranker without sources, in the same order with the same budget, to compare with."""
    each_day: str = "anew"
    """What the chain daily does: `anew` trains on all days but the newest, which is measured; `follow` goes on with the
    published ranker, measures each new day and then learns it, and costs a day however many came before."""
    test_days: int = 1
    """Newest days of examples that are left out."""
    epochs: int = 4
    """How often training goes through its days, at most."""
    validation_days: int = 0
    """Newest training days that are scored after every epoch, and learnt last, once, from the best epoch on."""
    patience: int = 1
    """Epochs without a better score after which training goes back to the best one; counts with validation_days."""
    shuffle: bool = True
    """Windows of a day, and requests within one, in random order, which generalises better; false = in time order, as a
    stream would come."""
    batch_size: int = 256
    """Examples per step, of all workers together. For several workers 512, at the same learning rates, costs nothing
    in quality where it was measured, and leaves each of them enough to do."""
    stretch_rows: int = 65_536
    """Examples of all workers that are in memory at once, and twice as many while the next ones are read. A longer day
    is learnt stretch after stretch, in random order if `shuffle`."""
    checkpoint_rows: int = 4_000_000
    """Examples after which a checkpoint is left within a day, at the end of a stretch."""
    encode_window: int = 4
    """Consecutive steps that share one encoding of their authors, and one step of what encodes them.

    More are cheaper, hold more authors in memory, and leave the encoder fewer steps."""
    lr_ids: float = 0.01
    """Adam's learning rate for id tables."""
    lr_encoder: float = 0.00075
    """Adam's learning rate for the anchor encoder, but for its tokens: a Transformer wants smaller steps."""
    lr_dense: float = 0.003
    """Adam's learning rate for everything else."""
    l2_ids: float = 0.0003
    """Weight of half the squared norm of id tables in the loss."""
    id_dropout: float = 0.0
    """Share of examples that are learnt as of an unknown user, and as many as of an unknown author: without them, those
    whom a ranker does not know are scored by rows that nothing has taught. 0 = none, as in the published studies."""
    warmup_steps: int = 0
    """Steps over which the learning rates rise to their value."""
    end_rate: float = 0.02
    """Share of the learning rates that is left at the last step; they fall in a line from the first on."""
    log_every: int = 50
    """Steps from one line of progress, and one point of each curve, to the next."""
    watch: WatchConfig = field(default_factory=WatchConfig)
    """Where the curves go, beside the line."""
    id_tables: str = "replicated"
    """Where big tables of users and authors are: `replicated`, whole in every worker, or `sharded`, each row with what
    the optimizer knows of it in one of them, for memory's sake (docs/training.md)."""
    max_failures: int = 2
    """Failures (a lost worker, node or controller is one) after which training goes on from its last finished day."""
    checkpoints: PathText | None = None
    """Folder or URL for checkpoints, which all nodes must see; null = `ray` below run_dir."""
    follow: FollowConfig = field(default_factory=FollowConfig)
    """How the job follow goes on."""
    scaling: TrainScaling = field(default_factory=TrainScaling)
    """Workers."""
    ranker: RankerConfig = field(default_factory=RankerConfig)
    """The base ranker, which every source joins."""
    models: SourceModels = field(default_factory=SourceModels)
    """One section per source, of which those in `sources` count."""

    def __post_init__(self) -> None:
        if self.each_day not in EACH_DAY:
            raise ValueError(f"each_day: wanted one of {', '.join(EACH_DAY)}, got {self.each_day!r}")
        if self.id_tables not in ID_TABLES:
            raise ValueError(f"id_tables: wanted one of {', '.join(ID_TABLES)}, got {self.id_tables!r}")
        unknown = [name for name in self.sources if name not in SOURCES]
        if unknown or len(set(self.sources)) != len(self.sources):
            raise ValueError(f"sources: wanted some of {', '.join(SOURCES)}, each once, got {list(self.sources)}")
        if self.ranker.extra_dim:
            raise ValueError(f"ranker: sources set its extra widths; leave them at 0, got {self.ranker}")
        counts = (self.batch_size, self.encode_window, self.log_every, self.stretch_rows, self.checkpoint_rows)
        if min(*counts, self.scaling.num_workers, self.scaling.cpus_per_worker) < 1:
            raise ValueError(
                "batch_size, encode_window, log_every, stretch_rows, checkpoint_rows and the scaling's num_workers and "
                "cpus_per_worker must be >= 1"
            )
        if min(self.epochs, self.patience) < 1 or self.validation_days < 0:
            given = f"{self.epochs}, {self.patience}, {self.validation_days}"
            raise ValueError(f"epochs and patience must be >= 1 and validation_days >= 0, got {given}")
        if min(self.test_days, self.max_failures, self.warmup_steps, self.l2_ids) < 0 or not 0 <= self.end_rate <= 1:
            raise ValueError("test_days, max_failures, warmup_steps and l2_ids must be >= 0, end_rate in 0..1")
        if not 0 <= self.id_dropout < 1:
            raise ValueError(f"id_dropout must be within 0..1 and below 1, got {self.id_dropout}")

    @property
    def workers(self) -> list[int | str]:
        """How many there are, and where their tables are if not in each: the same plan gives other bits on others."""
        return [self.scaling.num_workers, *([] if self.id_tables == ID_TABLES[0] else [self.id_tables])]

    @property
    def shards_ids(self) -> bool:
        """Whether each worker has a share of big id tables."""
        return self.id_tables == "sharded"

    @property
    def rankers(self) -> list[tuple[str, ...]]:
        """The sources of each ranker to train, one after another."""
        return list(dict.fromkeys([self.sources, *([()] if self.base else [])]))


@dataclass(frozen=True, kw_only=True, slots=True)
class PlannedSource:
    """One source of the ranker that a plan trains."""

    name: str
    config: Any
    """The Config of its module."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingPlan:
    """All that fixes a run: the same plan gives the same weights."""

    seed: int
    ranker: RankerConfig
    """The base ranker."""
    sources: tuple[PlannedSource, ...]
    """What joins it, in order."""
    keys: tuple[str, ...]
    """Time keys of the examples of an epoch, oldest first."""
    rows: tuple[int, ...]
    """Examples of each."""
    epochs: int
    """Most epochs."""
    validation: tuple[str, ...]
    """Time keys after those, which are scored after every epoch and learnt last."""
    validation_rows: tuple[int, ...]
    """Examples of each."""
    patience: int
    """Epochs without a better score that end the epochs."""
    shuffle: bool
    """Whether the requests of a key come in random order."""
    catalog_until: str
    """Users and authors known by this day get rows."""
    batch_size: int
    """Examples per step, of all workers together."""
    stretch_rows: int
    """Most examples that are in memory at once, of all workers together."""
    checkpoint_rows: int
    """Examples after which a checkpoint is left within a key."""
    encode_window: int
    """Steps that share one encoding of their authors; never of two stretches."""
    lr_ids: float
    lr_encoder: float
    lr_dense: float
    l2_ids: float
    id_dropout: float
    warmup_steps: int
    end_rate: float
    log_every: int

    def rate_at(self, progress: Progress) -> float:
        """Share of the learning rates that holds at a step.

        It rises over the warm-up and falls in a line to `end_rate`. On the validation keys it falls once more, from
        LAST_RATE or from where the best epoch ended.
        """
        ran = self._steps(self.rows)
        if progress.epochs_end is None:
            warm = min(1.0, (progress.step + 1) / max(1, self.warmup_steps))
            return warm * self._falling(1.0, progress.step / (self.epochs * ran))
        start = max(LAST_RATE, self._falling(1.0, progress.best_epoch / self.epochs))
        after = progress.step - ran * (progress.epochs_end // len(self.keys))
        return self._falling(start, after / self._steps(self.validation_rows))

    def _falling(self, start: float, share: float) -> float:
        return start + (self.end_rate - start) * share

    def _steps(self, rows: tuple[int, ...]) -> int:
        return sum(self.cut.num_steps(count) for count in rows)

    @property
    def cut(self) -> Cut:
        """How a key's examples are cut into stretches and steps."""
        return Cut(batch_size=self.batch_size, stretch_rows=self.stretch_rows, window=self.encode_window)

    def next_key(self, progress: Progress) -> str | None:
        """The time key that comes after all that are done; None at the end."""
        done = len(progress.done)
        if progress.epochs_end is None:
            return self.keys[done % len(self.keys)]
        left = self.validation[done - progress.epochs_end :]
        return left[0] if left else None

    @property
    def days(self) -> tuple[str, ...]:
        """All keys that are learnt from, oldest first."""
        return (*self.keys, *self.validation)

    @property
    def name(self) -> str:
        """Name of the ranker."""
        return ranker_name(source.name for source in self.sources)

    @property
    def num_steps(self) -> int:
        """Steps of the whole run, if no epoch is spared."""
        return self.epochs * self._steps(self.rows) + self._steps(self.validation_rows)

    @property
    def num_examples(self) -> int:
        """Examples of all those steps."""
        return self.epochs * sum(self.rows) + sum(self.validation_rows)


def train_days(config: TrainConfig, storage: Storage) -> list[str]:
    """Days of `examples` to train on: all but the newest `test_days`. Raises ContractError where none is left."""
    days = storage.days("examples")
    if len(days) <= config.test_days:
        raise ContractError(
            f"table examples: wanted more than train.test_days={config.test_days} day(s), got {len(days)} "
            f"({', '.join(days) or 'none'}); run the job examples over more days"
        )
    return days[: len(days) - config.test_days]


def _split(days: tuple[str, ...], count: int) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Days for epochs, and the newest `count`. Raises ContractError where none is left for the epochs."""
    if count >= len(days):
        raise ContractError(
            f"table examples: wanted more training days than train.validation_days={count}, got {len(days)} "
            f"({', '.join(days)}); run the job examples over more days, or set it to 0"
        )
    at = len(days) - count
    return days[:at], days[at:]


def make_plan(
    config: TrainConfig, run: Run, artifacts: Artifacts, sources: tuple[str, ...]
) -> tuple[TrainingPlan, dict[str, str]]:
    """What training a ranker with these sources does, and fingerprints of all that it depends on.

    Raises ContractError where examples are missing, or the label of a task.
    """
    storage = run.storage
    days = tuple(train_days(config, storage))
    require_labels(storage, days, list(config.ranker.tasks))
    learnt, validation = _split(days, config.validation_days)
    plan = TrainingPlan(
        seed=run.seed,
        ranker=config.ranker,
        sources=tuple(PlannedSource(name=name, config=getattr(config.models, name)) for name in sources),
        keys=learnt,
        rows=tuple(storage.dataset("examples", day).count_rows() for day in learnt),
        epochs=config.epochs,
        validation=validation,
        validation_rows=tuple(storage.dataset("examples", day).count_rows() for day in validation),
        patience=config.patience,
        shuffle=config.shuffle,
        catalog_until=storage.days("examples")[-1],
        batch_size=config.batch_size,
        stretch_rows=config.stretch_rows,
        checkpoint_rows=config.checkpoint_rows,
        encode_window=config.encode_window,
        lr_ids=config.lr_ids,
        lr_encoder=config.lr_encoder,
        lr_dense=config.lr_dense,
        l2_ids=config.l2_ids,
        id_dropout=config.id_dropout,
        warmup_steps=config.warmup_steps,
        end_rate=config.end_rate,
        log_every=config.log_every,
    )
    made_from = {"config": digest([to_dict(plan), list(config.ranker.tasks), *config.workers])}
    for table in ("users", "authors"):
        made_from[table] = newest.fingerprint(storage, table, until=plan.catalog_until)
    examples = storage.listing("examples")
    made_from |= {f"examples/{day}": examples.stamp(day) for day in days}
    for name in sources:
        made_from |= SOURCES[name].depends_on(storage, before=days[-1]) | SOURCES[name].pinned(artifacts)
    return plan, made_from
