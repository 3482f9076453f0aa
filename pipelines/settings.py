"""The whole configuration of a run: one section per job, each defined beside its owner."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from models.config import PathText
from pipelines.analysis.analyse import AnalyseConfig
from pipelines.analysis.cards import CardsConfig
from pipelines.demo.config import DemoConfig
from pipelines.ranking.evaluate import EvaluateConfig
from pipelines.ranking.plan import TrainConfig
from pipelines.ranking.publish import PublishConfig
from pipelines.ranking.rollback import RollbackConfig
from pipelines.ranking.screens import ScreensConfig
from pipelines.ranking.split import SplitConfig
from pipelines.ranking.variants import ranker_name
from pipelines.retrieval.index import IndexConfig
from pipelines.retrieval.item_vectors import ItemVectorsConfig
from pipelines.retrieval.recall import RecallConfig
from pipelines.retrieval.towers_plan import TowersConfig
from pipelines.runtime.cluster import ClusterConfig
from pipelines.runtime.config import load, merged
from pipelines.runtime.run import Run
from pipelines.samples.examples import ExamplesConfig
from pipelines.samples.windows_config import WindowsConfig
from pipelines.semantics.anchors import AnchorsConfig
from pipelines.semantics.base_tokenizer import BaseTokenizerConfig
from pipelines.semantics.codes import CodesConfig
from pipelines.semantics.embed import EmbedConfig
from pipelines.semantics.embed_segments import EmbedSegmentsConfig
from pipelines.semantics.vocabulary import VocabularyConfig
from pipelines.serving.load_events import LoadEventsConfig
from pipelines.serving.loadtest import LoadtestConfig
from pipelines.serving.serve import ServeConfig
from pipelines.sources.csv import CSVConfig
from pipelines.sources.ingest import IngestConfig
from pipelines.sources.kuailive import KuaiLiveConfig
from pipelines.sources.movielens import MovieLensConfig
from pipelines.sources.validate import ValidateConfig
from pipelines.students.distil import DistilConfig
from pipelines.studies.config import StudyConfig, TuneConfig, inherit_train
from pipelines.tables.storage import Storage, StorageConfig
from pipelines.world.config import WorldConfig

_READERS = ("validate", "serve", "loadtest", "load_events", "recall")
"""Jobs that write nothing to storage, which may therefore be read-only."""


def read_settings(path: str | Path, overrides: Sequence[str] = ()) -> "Settings":
    """The configuration in a YAML file, with `a.b=c` on top. Raises ConfigError."""
    return load(Settings, path, overrides, prepare=lambda keys: inherit_train(inherit_test_days(keys)))


def inherit_test_days(raw: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration as YAML gives it, in which whatever learns leaves out the days that train does."""
    train = raw.get("train")
    days = train.get("test_days") if isinstance(train, Mapping) else None
    if type(days) is not int or days < 0:  # what is wrong with it, the section itself says
        return dict(raw)
    own = {job: raw.get(job) or {} for job in ("base_tokenizer", "vocabulary", "codes", "towers")}
    return {**raw, **{job: merged({"test_days": days}, keys) for job, keys in own.items() if isinstance(keys, Mapping)}}


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """What `--config FILE.yaml` holds."""

    seed: int = 0
    """Fixes world, initialisation and order."""
    run_dir: PathText = "runs/demo"
    """Local folder for reports, logs and the resolved config."""
    storage: StorageConfig = field(default_factory=StorageConfig)
    """Where tables and artifacts live."""
    cluster: ClusterConfig = field(default_factory=ClusterConfig)
    """How jobs reach Ray."""
    world: WorldConfig = field(default_factory=WorldConfig)
    """The simulated platform."""
    ingest: IngestConfig = field(default_factory=IngestConfig)
    """Videos, chat and transcripts to segments."""
    validate: ValidateConfig = field(default_factory=ValidateConfig)
    """Which tables to check against the contract, and how many frames to decode."""
    distil: DistilConfig = field(default_factory=DistilConfig)
    """Fine-tuning of the multimodal model."""
    anchors: AnchorsConfig = field(default_factory=AnchorsConfig)
    """The daily anchor batch."""
    base_tokenizer: BaseTokenizerConfig = field(default_factory=BaseTokenizerConfig)
    """A base tokenizer made from the anchors' text."""
    vocabulary: VocabularyConfig = field(default_factory=VocabularyConfig)
    """The Live-Streaming Tokenizer."""
    examples: ExamplesConfig = field(default_factory=ExamplesConfig)
    """Impressions with point-in-time histories."""
    windows: WindowsConfig = field(default_factory=WindowsConfig)
    """Events as labels, each at the end of the window in which it is known."""
    train: TrainConfig = field(default_factory=TrainConfig)
    """SARM and Base."""
    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)
    """AUC and GAUC of a day."""
    analyse: AnalyseConfig = field(default_factory=AnalyseConfig)
    """What the published SARM has learnt."""
    split: SplitConfig = field(default_factory=SplitConfig)
    """Which banks answer beside CURRENT."""
    cards: CardsConfig = field(default_factory=CardsConfig)
    """What the endpoint's page shows of authors."""
    publish: PublishConfig = field(default_factory=PublishConfig)
    """The bank snapshot."""
    rollback: RollbackConfig = field(default_factory=RollbackConfig)
    """Which older bank is served again."""
    serve: ServeConfig = field(default_factory=ServeConfig)
    """Where and how the deployments are reached."""
    loadtest: LoadtestConfig = field(default_factory=LoadtestConfig)
    """Which load is offered to them, and what must hold."""
    load_events: LoadEventsConfig = field(default_factory=LoadEventsConfig)
    """Events of before into the online store."""
    csv: CSVConfig = field(default_factory=CSVConfig)
    """Interactions and items with text, in plain files, to tables."""
    kuailive: KuaiLiveConfig = field(default_factory=KuaiLiveConfig)
    """A downloaded KuaiLive or KuaiLive-M3 to tables."""
    movielens: MovieLensConfig = field(default_factory=MovieLensConfig)
    """MovieLens ratings to tables."""
    embed: EmbedConfig = field(default_factory=EmbedConfig)
    """Frozen embeddings of the anchors, for two-stage rankers."""
    embed_segments: EmbedSegmentsConfig = field(default_factory=EmbedSegmentsConfig)
    """Frozen embeddings of segments: what is on screen."""
    codes: CodesConfig = field(default_factory=CodesConfig)
    """Segments as codes."""
    towers: TowersConfig = field(default_factory=TowersConfig)
    """The retrieval model."""
    item_vectors: ItemVectorsConfig = field(default_factory=ItemVectorsConfig)
    """Segments as vectors of the retrieval model."""
    recall: RecallConfig = field(default_factory=RecallConfig)
    """HitRate of the retrieval model on a day."""
    index: IndexConfig = field(default_factory=IndexConfig)
    """Which lives retrieval searches."""
    screens: ScreensConfig = field(default_factory=ScreensConfig)
    """What came on screen of late, for rankers."""
    study: StudyConfig = field(default_factory=StudyConfig)
    """Variants x seeds, and the table that compares them."""
    tune: TuneConfig = field(default_factory=TuneConfig)
    """Settings that are tried for rows of a study, on worlds that no study reports."""
    demo: DemoConfig = field(default_factory=DemoConfig)
    """The demo's own figures."""

    def __post_init__(self) -> None:
        if unknown := sorted(set(self.tune.spaces) - set(self.study.variants)):
            known = ", ".join(self.study.variants) or "none"
            raise ValueError(f"tune.spaces: wanted some of study.variants ({known}), got {', '.join(unknown)}")

    def open(self) -> Run:
        """What a job is told beside its own section."""
        return Run(
            seed=self.seed,
            folder=Path(self.run_dir),
            storage=Storage.open(self.storage.root),
            cluster=self.cluster,
            least_share=self.storage.least_share,
        )

    def written_by(self, job: str) -> dict[str, str]:
        """The places that a job writes to, by their keys."""
        places = {"run_dir": self.run_dir}
        if job not in _READERS:
            places["storage.root"] = self.storage.root
        own = {
            "base_tokenizer.output": (self.base_tokenizer.output, ("base_tokenizer",)),
            "distil.output": (self.distil.output, ("distil",)),
            "study.trials": (self.study.trials, ("study", "tune")),
            "towers.checkpoints": (self.towers.checkpoints, ("towers",)),
            "train.checkpoints": (self.train.checkpoints, ("train", "follow", "daily", "demo")),
        }
        return places | {key: place for key, (place, jobs) in own.items() if place and job in jobs}

    def of_one_ranker(self) -> "Settings":
        """For chains: what follows `train` is told the ranker that it makes, where it does not name one."""
        ranker = ranker_name(self.train.sources)
        return replace(
            self,
            analyse=replace(self.analyse, ranker=self.analyse.ranker or ranker),
            publish=replace(self.publish, ranker=self.publish.ranker or ranker),
            cards=replace(self.cards, ranker=self.cards.ranker or ranker),
        )
