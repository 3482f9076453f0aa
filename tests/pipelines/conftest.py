"""A tiny simulated platform, written once a session, that the jobs' tests copy and work on."""

import shutil
from pathlib import Path

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from models.sarm.live_tokenizer.tokenizer import LiveStreamingTokenizer
from pipelines.analysis.analyse import AnalyseConfig
from pipelines.ranking import loop as train_loop
from pipelines.ranking.loop import Progress, Worker
from pipelines.ranking.train import TrainConfig, make_plan, publish_checkpoint
from pipelines.runtime.cluster import ClusterConfig
from pipelines.runtime.scaling import TrainScaling
from pipelines.samples import examples
from pipelines.samples.examples import ExamplesConfig
from pipelines.semantics import vocabulary
from pipelines.semantics.vocabulary import VocabularyConfig, corpus
from pipelines.settings import Settings
from pipelines.tables.artifacts import Artifacts
from pipelines.tables.storage import Storage, StorageConfig
from pipelines.world import world
from pipelines.world.config import WorldConfig
from tests.pipelines.jobs import run_job

TINY_MODEL = {
    "width": 8,
    "num_layers": 1,
    "encode_budget": 16,
    "aux_hidden": 4,
    "ranker": {
        "id_dim": 8,
        "profile_dim": 4,
        "category_dim": 4,
        "cross_layers": 1,
        "cross_rank": 4,
        "home": {"input_width": 8, "expert_dim": 8, "tower_hidden": 4},
    },
}


def write_base_tokenizer(texts: list[str], path: Path) -> None:
    """A byte-level BPE of 400 tokens, in place of a Qwen-VL model's."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.save(str(path))


def tiny_settings(root: Path) -> Settings:
    """The whole configuration of a run below `root`, at sizes that take seconds."""
    return Settings(
        seed=1,
        run_dir=str(root / "run"),
        storage=StorageConfig(root=str(root / "store")),
        cluster=ClusterConfig(num_cpus=3, object_store_gb=0.1),
        world=WorldConfig(
            num_days=3,
            num_authors=60,
            num_users=80,
            impressions_per_day=1200,
            num_points=48,
            recorded_segments=1,
            frame_size=32,
            new_author_share=0.1,
            on_air_share=0.7,
            teacher=True,
        ),
        vocabulary=VocabularyConfig(base_tokenizer=str(root / "tokenizer.json"), min_frequency=20, max_tokens=64),
        examples=ExamplesConfig(history_length=6),
        train=TrainConfig(batch_size=128, log_every=2, scaling=TrainScaling(num_workers=2), model=TINY_MODEL),
        analyse=AnalyseConfig(frequent_terms=5),
    )


@pytest.fixture(scope="session")
def tiny_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root with a base tokenizer and a store: world, true anchors as `anchors`, vocabulary and examples."""
    root = tmp_path_factory.mktemp("tiny")
    settings = tiny_settings(root)
    run_job(world, settings)
    storage = Storage.open(settings.storage.root)
    texts = [text for fields in corpus(storage, storage.days("anchors")) for text in fields]
    write_base_tokenizer(texts, root / "tokenizer.json")
    run_job(vocabulary, settings)
    run_job(examples, settings)
    return root


def train_here(settings: Settings) -> dict[str, Progress]:
    """The job train in this process, without Ray: the same plans, the same publication."""
    storage = Storage.open(settings.storage.root)
    artifacts = Artifacts(storage)
    done = {}
    for variant in settings.train.variants:
        plan, made_from = make_plan(settings.train, settings.open(), storage, artifacts, variant)
        tokenizer = LiveStreamingTokenizer.load(artifacts.fetch("tokenizer"))
        work = Path(settings.run_dir) / variant
        done[variant] = train_loop.train(
            plan, storage, tokenizer, work=work, worker=Worker(), report=lambda metrics, folder: None, log_line=print
        )
        publish_checkpoint(work / f"after-{plan.days[-1]}", plan, f"{variant}-1", artifacts, made_from)
    return done


@pytest.fixture(scope="session")
def trained_store(tiny_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny store with both variants trained and published."""
    root = tmp_path_factory.mktemp("trained") / "tiny"
    shutil.copytree(tiny_store, root)
    train_here(tiny_settings(root))
    return root


@pytest.fixture
def trained(trained_store: Path, tmp_path: Path) -> Settings:
    """Settings over a private copy of the trained store."""
    root = tmp_path / "tiny"
    shutil.copytree(trained_store, root)
    return tiny_settings(root)


@pytest.fixture
def tiny(tiny_store: Path, tmp_path: Path) -> Settings:
    """Settings over a private copy of the tiny store."""
    root = tmp_path / "tiny"
    shutil.copytree(tiny_store, root)
    return tiny_settings(root)
