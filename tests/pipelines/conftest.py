"""A tiny simulated platform, written once a session, that the jobs' tests copy and work on."""

import shutil
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from models.home import HoMEConfig
from models.ranker import RankerConfig
from pipelines.analysis.analyse import AnalyseConfig
from pipelines.ranking import fit
from pipelines.ranking.checkpoint import PROGRESS, Progress, folder_after, read_progress
from pipelines.ranking.gate import GateConfig
from pipelines.ranking.plan import TrainConfig, make_plan
from pipelines.ranking.publish import PublishConfig
from pipelines.ranking.train import publish_checkpoint
from pipelines.ranking.worker import Worker
from pipelines.runtime.cluster import ClusterConfig
from pipelines.runtime.config import build, to_dict
from pipelines.samples import examples
from pipelines.samples.examples import ExamplesConfig
from pipelines.semantics import vocabulary
from pipelines.semantics.corpus import corpus
from pipelines.semantics.vocabulary import VocabularyConfig
from pipelines.settings import Settings
from pipelines.tables.artifacts import Artifacts
from pipelines.tables.storage import Storage, StorageConfig
from pipelines.world import world
from pipelines.world.config import WorldConfig
from tests.pipelines.jobs import run_job

TINY_RANKER = RankerConfig(
    id_dim=8,
    profile_dim=4,
    category_dim=4,
    cross_layers=1,
    cross_rank=4,
    home=HoMEConfig(input_width=8, expert_dim=8, tower_hidden=4),
)
TINY_SARM = {"width": 8, "encode_budget": 16, "aux_hidden": 4, "representations": ["cls", "tar", "uin"]}
TINY_TRAIN: dict[str, Any] = {
    "epochs": 1,
    "batch_size": 128,
    "log_every": 2,
    # Bold steps: there are few of them.
    "lr_encoder": 0.0005,
    "lr_dense": 0.002,
    "l2_ids": 0.0,
    "end_rate": 1.0,
    "scaling": {"num_workers": 2},
    "ranker": to_dict(TINY_RANKER),
    "models": {"sarm": TINY_SARM, **{name: {"width": 8} for name in ("tags", "mllm_target", "mllm_history")}}
    | {"sids": {"width": 8, "codes": {"clusters": [8, 4]}}},
}


def tiny_train(sources: tuple[str, ...] = ("sarm",), **sarm: Any) -> TrainConfig:
    """How the tiny platform's rankers are trained; `sarm` changes keys of its config."""
    models = {**TINY_TRAIN["models"], "sarm": {**TINY_SARM, **sarm}}
    return build(TrainConfig, {**TINY_TRAIN, "sources": list(sources), "models": models})


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
        train=tiny_train(),
        analyse=AnalyseConfig(frequent_terms=5),
        publish=PublishConfig(gate=GateConfig(rule="off")),
    )


def write_tiny_store(root: Path) -> None:
    """A base tokenizer and a store below `root`: world, true anchors as `anchors`, vocabulary and examples."""
    settings = tiny_settings(root)
    run_job(world, settings)
    storage = Storage.open(settings.storage.root)
    texts = [text for fields in corpus(storage, storage.days("anchors")) for text in fields]
    write_base_tokenizer(texts, root / "tokenizer.json")
    run_job(vocabulary, settings)
    run_job(examples, settings)


@pytest.fixture(scope="session")
def tiny_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The root of one that the tests of a session share."""
    root = tmp_path_factory.mktemp("tiny")
    write_tiny_store(root)
    return root


def train_here(settings: Settings, number: int = 1) -> dict[str, Progress]:
    """The job train in this process, without Ray: the same plans, the same publication, as version `number`."""
    run = settings.open()
    artifacts = Artifacts(run.storage)
    done = {}
    for sources in settings.train.rankers:
        plan, made_from = make_plan(settings.train, run, artifacts, sources)
        work = Path(settings.run_dir) / plan.name
        done[plan.name] = fit.train(
            plan, run.storage, made_from, work=work, worker=Worker(), report=lambda *_: None, log_line=print
        )
        publish_checkpoint(work / folder_after(done[plan.name]), plan, f"{plan.name}-{number}", artifacts, made_from)
    return done


def last_checkpoint(below: Path) -> Path | None:
    """The folder of the one that has the most steps, among those that Ray Train left."""
    steps = {file.parent: read_progress(file.parent).step for file in below.rglob(PROGRESS)}
    return max(steps, key=lambda folder: steps[folder], default=None)


@pytest.fixture(scope="session")
def trained_store(tiny_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny store with both rankers trained and published."""
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
