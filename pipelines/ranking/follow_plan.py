"""What a ranker that follows its days goes on with: the configuration, and the plan that fixes one run of it."""

from collections.abc import Mapping
from dataclasses import dataclass, fields

from models.artifacts.manifest import ArtifactError, Manifest
from pipelines.ranking.checkpoint import Progress, read_progress, state_kind
from pipelines.ranking.plan import RATES, FollowConfig, PlannedSource, TrainConfig, TrainingPlan
from pipelines.ranking.publish import KIND as BANK
from pipelines.ranking.variants import SOURCES, ranker_name, screens_of
from pipelines.runtime.config import ConfigError, to_dict
from pipelines.runtime.run import Run
from pipelines.samples.batches import require_labels, require_screens
from pipelines.samples.stream import Cut
from pipelines.samples.window_stream import num_steps, spans_of
from pipelines.tables import newest
from pipelines.tables.artifacts import Artifacts
from pipelines.tables.contract import ContractError
from pipelines.tables.days import day_before
from pipelines.tables.fingerprint import digest
from pipelines.tables.storage import Storage

_EXAMPLES = "examples/"
BEFORE = "before"
"""In the lineage: the version that a version went on from."""
_SAME = (
    "batch_size", "stretch_rows", "checkpoint_rows", "encode_window", "lr_ids", "lr_encoder", "lr_dense", "l2_ids",
    "id_dropout", "log_every",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True, slots=True)
class FollowPlan(TrainingPlan):
    """All that fixes one run; two runs, one after the other, do what one run over the keys of both does."""

    rate: float
    """Share of the learning rates, all the time."""
    forget_days: int | None
    """After so many days without an example an id loses its row; None = never."""
    before: Progress
    """What was done before this run."""
    state: tuple[str, str] | None
    """Kind and version of the artifact that it goes on from; None begins with a new ranker."""
    steps: tuple[int, ...]
    """Of each key."""
    window_ms: int | None
    """Length of the windows that are scored and learnt one after another; None = whole days."""
    delta_ms: int | None
    """How much of the stream becomes a delta of the bank; None = no deltas."""
    bank: str | None
    """The bank whose deltas they are; None also where the ranker is a new one, of which nothing is served yet."""

    def rate_at(self, progress: Progress) -> float:
        """The same at every step: there is no last one."""
        return self.rate

    def next_key(self, progress: Progress) -> str | None:
        """The first key behind those that are done."""
        last = progress.done[-1] if progress.done else ""
        return next((key for key in self.keys if key > last), None)

    @property
    def num_steps(self) -> int:
        """Steps up to the end of this run."""
        return self.before.step + sum(self.steps)

    @property
    def num_examples(self) -> int:
        """Examples up to the end of this run."""
        return self.before.examples + sum(self.rows)


def make_follow_plan(
    config: TrainConfig, run: Run, artifacts: Artifacts, sources: tuple[str, ...]
) -> tuple[FollowPlan, dict[str, str]]:
    """What following does for a ranker with these sources, and fingerprints of all that it depends on.

    Raises ConfigError for a source that cannot be followed, ContractError where the label of a task, codes that a
    source reads or a day's samples are missing, and ArtifactError where deltas are asked for and the served bank takes
    none.
    """
    _require(sources)
    storage, name, own = run.storage, ranker_name(sources), config.follow
    state, before, learnt = _go_on_from(artifacts, name)
    last = before.done[-1] if before.done else ""
    keys = tuple(day for day in storage.days("examples") if day > last)
    tables = _tables(own, storage, keys)
    for table in tables:
        require_labels(storage, keys, list(config.ranker.tasks), table)
        require_screens(storage, keys, screens_of(sources), table)
    sends = own.delta_s is not None and bool(keys and sources) and state is not None
    window_ms = round(own.window_s * 1000) if own.by == "windows" else None
    rows = tuple(storage.dataset(tables[-1], day).count_rows() for day in keys)
    cut = Cut(batch_size=config.batch_size, stretch_rows=config.stretch_rows, window=config.encode_window)
    plan = FollowPlan(
        seed=run.seed,
        ranker=config.ranker,
        sources=tuple(PlannedSource(name=source, config=getattr(config.models, source)) for source in sources),
        keys=keys,
        rows=rows,
        steps=tuple(
            cut.num_steps(count) if window_ms is None else num_steps(spans_of(storage, day, window_ms, cut), cut)
            for day, count in zip(keys, rows, strict=True)
        ),
        window_ms=window_ms,
        delta_ms=None if own.delta_s is None else round(own.delta_s * 1000),
        bank=_bank(artifacts, name, keys[0]) if sends else None,
        epochs=1,
        validation=(),
        validation_rows=(),
        patience=1,
        shuffle=config.follow.shuffle,
        catalog_until=keys[-1] if keys else last,
        **{key: getattr(config, key) for key in _SAME},
        warmup_steps=0,
        end_rate=1.0,
        rate=RATES[own.by] if own.rate is None else own.rate,
        forget_days=config.follow.forget_days,
        before=before,
        state=state,
    )
    made_from = learnt
    for table in tables:
        listing = storage.listing(table)
        made_from |= {f"{table}/{day}": listing.stamp(day) for day in keys}
    made_from["config"] = digest([_choices(plan), list(config.ranker.tasks), *config.workers])
    made_from[BEFORE] = artifacts.current(name) or "nothing"
    for source in sources:
        made_from |= SOURCES[source].pinned(artifacts)
    for table in ("users", "authors") if keys else ():
        made_from[table] = newest.fingerprint(storage, table, until=keys[-1])
    return plan, made_from


def _tables(config: FollowConfig, storage: Storage, keys: tuple[str, ...]) -> tuple[str, ...]:
    """What is scored, and what is learnt. Raises ContractError where a day has the first and not the second."""
    if config.by == "days":
        return ("examples",)
    there = storage.days("window_examples")
    if missing := [day for day in keys if day not in there]:
        raise ContractError(
            f"table window_examples: wanted {', '.join(missing)}, as in examples, got {', '.join(there) or 'none'}; "
            "run the jobs windows and window_examples, or set train.follow.by to days"
        )
    return ("examples", "window_examples")


def _bank(artifacts: Artifacts, ranker: str, key: str) -> str:
    """The bank of the published ranker. Raises ArtifactError where that is not the one which is served, or where it
    knows more than was known before the first key, which deltas would undo."""
    bank = artifacts.current(BANK)
    made_from = {} if bank is None else artifacts.manifest(BANK).made_from
    got, wanted = (made_from.get("ranker"), made_from.get("model")), (ranker, artifacts.current(ranker))
    if bank is None or got != wanted:
        served = "none" if bank is None else f"{bank}, of {got[0]} {got[1]}"
        raise ArtifactError(
            f"train.follow.delta_s: wanted the bank of {ranker} {wanted[1] or '(not published)'} to be served, got "
            f"{served}; run the job publish first, or set it to null"
        )
    if (until := bank[: len(key)]) >= key:  # its version begins with the newest day that it knows
        raise ArtifactError(
            f"train.follow.delta_s: wanted a bank of before {key}, the first day to learn, got {bank}, which knows "
            f"{until}; run the job publish with publish.until: {day_before(key)}, or set it to null"
        )
    return bank


def _choices(plan: FollowPlan) -> dict[str, object]:
    """The plan without what differs from run to run."""
    passing = ("keys", "rows", "steps", "catalog_until", "before", "state", "delta_ms", "bank")
    return {f.name: to_dict(getattr(plan, f.name)) for f in fields(plan) if f.name not in passing}


def _require(sources: tuple[str, ...]) -> None:
    if fixed := [source for source in sources if not SOURCES[source].can_follow]:
        able = ", ".join(name for name, source in SOURCES.items() if source.can_follow)
        raise ConfigError(
            f"train.sources: {', '.join(fixed)} cannot be followed, as its codes are those of the days that it was "
            f"trained on; wanted some of {able}, or none (Base); or run the job train"
        )


def _go_on_from(artifacts: Artifacts, ranker: str) -> tuple[tuple[str, str] | None, Progress, dict[str, str]]:
    """The version to go on from, what was done by then, and the days that it has learnt, as they were then.

    That is the state beside the published ranker, where it belongs to it, or is one step ahead of it, as a run leaves
    it that dies before it publishes. Else the published ranker itself, which was trained anew, without its optimizer.
    """
    kind, current = state_kind(ranker), artifacts.current(ranker)
    if artifacts.current(kind) is not None:
        folder, manifest = artifacts.verified(kind)
        if current in (manifest.run_id, manifest.made_from[BEFORE], None):
            return (kind, manifest.run_id), read_progress(folder), _learnt(manifest)
    if current is None:
        return None, Progress(), {}
    manifest = artifacts.manifest(ranker)
    days = sorted(key.removeprefix(_EXAMPLES) for key in manifest.made_from if key.startswith(_EXAMPLES))
    return (ranker, current), Progress(done=days), _learnt(manifest)


def _learnt(manifest: Manifest) -> dict[str, str]:
    made_from: Mapping[str, str] = manifest.made_from
    return {key: stamp for key, stamp in made_from.items() if key.startswith(_EXAMPLES)}
