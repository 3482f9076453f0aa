"""What towers learn, and how: the configuration of the job towers, and the plan that fixes one run of it."""

from dataclasses import dataclass, field

from models.config import PathText
from models.history import HistoryRule
from models.larm.two_tower import TwoTowerConfig, TwoTowerFacts
from pipelines.ranking.checkpoint import Progress
from pipelines.retrieval import on_screen
from pipelines.retrieval.clicks import Reading, count_clicks
from pipelines.retrieval.codes_seen import CodesSeen
from pipelines.runtime.config import to_dict
from pipelines.runtime.run import Run
from pipelines.runtime.scaling import TrainScaling
from pipelines.runtime.watch import WatchConfig
from pipelines.samples.batches import num_batches
from pipelines.samples.examples import committed_rule
from pipelines.samples.stream import Cut
from pipelines.semantics import segment_vectors
from pipelines.semantics.codes import CODEBOOKS
from pipelines.tables import newest
from pipelines.tables.contract import ContractError
from pipelines.tables.fingerprint import digest
from pipelines.tables.storage import Storage

KIND = "towers"


@dataclass(frozen=True, kw_only=True, slots=True)
class TowersConfig:
    """How the retrieval model is trained. Positives are clicks."""

    codes: str | None = None
    """Table of the codes that are read in histories (`segment_codes` or `item_codes`); null = histories of authors
    alone. Towers with codes are published as `towers+<table>`, beside those without: item codes are made of vectors of
    the latter."""
    test_days: int = 1
    """Newest days of examples that are left out; where no file says it, train.test_days."""
    epochs: int = 2
    """How often training goes through its days. The paper learns a stream, once."""
    shuffle: bool = False
    """Clicks of a stretch in random order, and the softmax corrected by an author's clicks of all days; false = in the
    order of time, as a stream comes: negatives are on air in the same minutes, and the correction is by clicks per
    time on air."""
    batch_size: int = 512
    """Clicks of a step, of all workers together: each of them has the lives of all as negatives."""
    stretch_rows: int = 131_072
    """Clicks that are in memory at once, and twice as many while the next ones are read. A stretch reads the embeddings
    of `mean_days` + 1 days."""
    checkpoint_rows: int = 4_000_000
    """Clicks after which a checkpoint is left within a day, at the end of a stretch."""
    mean_days: int = 7
    """Days up to a segment's own over which its author's embeddings are averaged."""
    segment_delay_s: float = 0.0
    """From a segment's end until its embedding is known."""
    lr_ids: float = 0.01
    """Adam's learning rate for id tables."""
    lr_dense: float = 0.003
    """Adam's learning rate for everything else."""
    l2_ids: float = 0.0003
    """Weight of half the squared norm of id tables in the loss."""
    warmup_steps: int = 0
    """Steps over which the learning rates rise to their value."""
    end_rate: float = 0.02
    """Share of the learning rates that is left at the last step; they fall in a line from the first on."""
    log_every: int = 50
    """Steps from one line of progress to the next."""
    watch: WatchConfig = field(default_factory=WatchConfig)
    """Where the curves go, beside the line."""
    max_failures: int = 2
    """Failures (a lost worker, node or controller is one) after which training goes on from its last checkpoint."""
    checkpoints: PathText | None = None
    """Folder or URL for checkpoints, which all nodes must see; null = `ray` below run_dir."""
    scaling: TrainScaling = field(default_factory=TrainScaling)
    """Workers."""
    model: TwoTowerConfig = field(default_factory=TwoTowerConfig)
    """The towers."""

    def __post_init__(self) -> None:
        if self.codes is not None and self.codes not in CODEBOOKS:
            raise ValueError(f"codes: wanted one of {', '.join(CODEBOOKS)}, or null, got {self.codes!r}")
        counts = ("epochs", "batch_size", "stretch_rows", "checkpoint_rows", "mean_days", "log_every")
        for key in counts:
            if getattr(self, key) < 1:
                raise ValueError(f"{key}: wanted 1 or more, got {getattr(self, key)}")
        for key in ("test_days", "segment_delay_s", "l2_ids", "warmup_steps", "max_failures"):
            if getattr(self, key) < 0:
                raise ValueError(f"{key}: wanted 0 or more, got {getattr(self, key)}")
        if min(self.lr_ids, self.lr_dense) <= 0 or not 0 <= self.end_rate <= 1:
            raise ValueError(f"wanted lr_ids and lr_dense > 0, and end_rate in 0..1, got {self}; correct them")

    @property
    def kind(self) -> str:
        """Of the artifact."""
        return KIND if self.codes is None else f"{KIND}+{self.codes}"


@dataclass(frozen=True, kw_only=True, slots=True)
class TowersPlan:
    """All that fixes a run: the same plan gives the same weights."""

    seed: int
    name: str
    """Kind of the artifact."""
    model: TwoTowerConfig
    reading: Reading
    rule: HistoryRule
    """Of the examples' histories."""
    days: tuple[str, ...]
    """That are learnt, oldest first."""
    rows: tuple[int, ...]
    """Clicks of each."""
    catalog_until: str
    """Users and authors known by this day get rows."""
    epochs: int
    shuffle: bool
    batch_size: int
    stretch_rows: int
    checkpoint_rows: int
    lr_ids: float
    lr_dense: float
    l2_ids: float
    warmup_steps: int
    end_rate: float
    log_every: int

    @property
    def facts(self) -> TwoTowerFacts:
        """What the model is told of the data."""
        codes = self.reading.codes
        return TwoTowerFacts(embedding_dim=self.reading.space.width, num_codes=0 if codes is None else codes.num_rows)

    @property
    def cut(self) -> Cut:
        """How a day's clicks are cut into stretches and steps."""
        return Cut(batch_size=self.batch_size, stretch_rows=self.stretch_rows, window=1)

    def next_key(self, progress: Progress) -> str | None:
        """The day after all that are done; None at the end."""
        done = len(progress.done)
        return None if done >= self.epochs * len(self.days) else self.days[done % len(self.days)]

    def rate_at(self, step: int) -> float:
        """Share of the learning rates that holds at a step."""
        warm = min(1.0, (step + 1) / max(1, self.warmup_steps))
        return warm * (1.0 + (self.end_rate - 1.0) * step / self.num_steps)

    @property
    def num_steps(self) -> int:
        """Of the whole run."""
        of_day = (
            sum(num_batches(len(stretch), self.batch_size) for stretch in self.cut.stretches(rows)) if rows else 0
            for rows in self.rows
        )
        return self.epochs * sum(of_day)

    @property
    def num_examples(self) -> int:
        """Clicks of the whole run."""
        return self.epochs * sum(self.rows)


def make_plan(config: TowersConfig, run: Run) -> tuple[TowersPlan, dict[str, str]]:
    """What training does, and fingerprints of all that it depends on.

    Raises ContractError where examples, their clicks, or embeddings are missing.
    """
    storage = run.storage
    days = _train_days(config, storage)
    rows = tuple(count_clicks(storage, day) for day in days)
    if not any(rows):
        raise ContractError(
            f"table examples, {days[0]} to {days[-1]}: wanted clicks to learn from, got none; bring days that have some"
        )
    embedded = storage.listing(segment_vectors.TABLE)
    read = sorted({of for day in days for of in on_screen.read_days(day, config.mean_days)} & set(embedded.days))
    if not read:
        raise ContractError(
            f"table {segment_vectors.TABLE}: wanted embeddings of the days {days[0]} to {days[-1]}, got those of "
            f"{', '.join(embedded.days) or 'no day'}; run the job embed_segments"
        )
    plan = TowersPlan(
        seed=run.seed,
        name=config.kind,
        model=config.model,
        reading=Reading(
            space=segment_vectors.space_of(storage, read),
            mean_days=config.mean_days,
            delay_ms=round(1000 * config.segment_delay_s),
            codes=None if config.codes is None else CodesSeen.of(storage, config.codes, days),
        ),
        rule=committed_rule(storage),
        days=days,
        rows=rows,
        catalog_until=storage.days("examples")[-1],
        epochs=config.epochs,
        shuffle=config.shuffle,
        batch_size=config.batch_size,
        stretch_rows=config.stretch_rows,
        checkpoint_rows=config.checkpoint_rows,
        lr_ids=config.lr_ids,
        lr_dense=config.lr_dense,
        l2_ids=config.l2_ids,
        warmup_steps=config.warmup_steps,
        end_rate=config.end_rate,
        log_every=config.log_every,
    )
    made_from = {"config": digest([to_dict(plan), config.scaling.num_workers])}
    for table in ("users", "authors"):
        made_from[table] = newest.fingerprint(storage, table, until=plan.catalog_until)
    examples = storage.listing("examples")
    made_from |= {f"examples/{day}": examples.stamp(day) for day in days}
    made_from |= {f"{segment_vectors.TABLE}/{day}": embedded.stamp(day) for day in read}
    if plan.reading.codes is not None:
        made_from[CODEBOOKS[plan.reading.codes.table]] = plan.reading.codes.codebook
    return plan, made_from


def _train_days(config: TowersConfig, storage: Storage) -> tuple[str, ...]:
    days = storage.days("examples")
    if len(days) <= config.test_days:
        raise ContractError(
            f"table examples: wanted more than towers.test_days={config.test_days} day(s), got {len(days)} "
            f"({', '.join(days) or 'none'}); run the job examples over more days"
        )
    return tuple(days[: len(days) - config.test_days])
