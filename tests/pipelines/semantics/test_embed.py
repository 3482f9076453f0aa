"""Frozen embeddings of anchors with the real engine: Ray Data and vLLM's pooling task on the shipped student."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from transformers import AutoModelForImageTextToText, AutoTokenizer

from pipelines.semantics import embed
from pipelines.semantics.embed import TABLE, EmbedConfig, embed_kwargs
from pipelines.settings import Settings
from pipelines.tables import contract
from pipelines.tables.contract import FIELDS, ContractError
from pipelines.tables.listing import MARKER
from pipelines.tables.storage import Storage, StorageConfig
from pipelines.world import world
from pipelines.world.config import WorldConfig
from tests.pipelines.jobs import run_job


def _settings(root: Path) -> Settings:
    return Settings(
        seed=5,
        run_dir=str(root / "run"),
        storage=StorageConfig(root=str(root / "store")),
        world=WorldConfig(
            num_days=2, num_authors=60, num_users=10, impressions=False, teacher=True, recorded_segments=1
        ),
    )


LONG = "A ranked match with friends. " * 400
"""More than the student's context holds."""


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory, ray_cluster: None) -> Iterator[Settings]:
    settings = _settings(tmp_path_factory.mktemp("embed"))
    run_job(world, settings)
    _write_anchor(Storage.open(settings.storage.root), "2026-01-03", LONG)
    assert run_job(embed, settings)["days_done"] == 3
    yield settings


def _write_anchor(storage: Storage, day: str, text: str) -> None:
    anchor = {"author_id": 7, **{field: [] for field in FIELDS}, "text": text, "model": "", "prompt_hash": ""}
    anchor |= {"schema_hash": "", "num_frames": 0, "num_comments": 0}
    storage.write("anchors", day, [pa.Table.from_pylist([anchor], schema=contract.spec("anchors").schema)])


def _of(settings: Settings, day: str) -> tuple[list[int], list[str], np.ndarray]:
    storage = Storage.open(settings.storage.root)
    made, anchors = storage.read(TABLE, day), storage.read("anchors", day)
    assert made["author_id"].to_pylist() == anchors["author_id"].to_pylist()
    return made["author_id"].to_pylist(), anchors["text"].to_pylist(), np.array(made["embedding"].to_pylist())


@pytest.mark.ray
def test_every_anchor_has_a_vector_of_length_one(done: Settings) -> None:
    for day in ("2026-01-01", "2026-01-02"):
        ids, _, vectors = _of(done, day)
        assert len(ids) > 10 and vectors.shape == (len(ids), 128)  # the student's hidden width
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1.0, atol=1e-4)


@pytest.mark.ray
def test_a_vector_is_the_mean_of_the_models_last_states(done: Settings) -> None:
    """Against transformers, text by text, without vLLM; of a text that the context cannot hold, its first tokens."""
    folder, context = EmbedConfig().model, EmbedConfig().engine.max_model_len
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).eval()
    _, texts, vectors = _of(done, "2026-01-01")
    _, long, of_long = _of(done, "2026-01-03")
    assert len(tokenizer(LONG).input_ids) > context
    for text, vector in [*zip(texts[:8], vectors[:8], strict=True), *zip(long, of_long, strict=True)]:
        ids = tokenizer(text, return_tensors="pt").input_ids[:, :context]
        with torch.no_grad():
            states = model.model(input_ids=ids).last_hidden_state[0]
        wanted = torch.nn.functional.normalize(states.mean(dim=0), dim=0)
        np.testing.assert_allclose(vector, wanted.numpy(), atol=1e-5)


@pytest.mark.ray
def test_a_second_run_embeds_nothing(done: Settings) -> None:
    storage = Storage.open(done.storage.root)
    before = [storage.commit_of(TABLE, day) for day in storage.days(TABLE)]
    assert run_job(embed, done)["days_done"] == 0
    assert [storage.commit_of(TABLE, day) for day in storage.days(TABLE)] == before


@pytest.mark.parametrize("committed", [True, False])
def test_embeddings_that_came_with_the_data_are_kept(tmp_path: Path, committed: bool) -> None:
    settings = _settings(tmp_path)
    storage = Storage.open(settings.storage.root)
    _write_anchor(storage, "2026-01-01", "a title")
    theirs = {"author_id": 7, "embedding": [0.6, 0.8], "model": "title_embeddings"}
    storage.write(TABLE, "2026-01-01", [pa.Table.from_pylist([theirs], schema=contract.spec(TABLE).schema)])
    if not committed:  # as a user's own Parquet files are
        folder = tmp_path / "store" / "tables" / TABLE / "day=2026-01-01"
        (folder / MARKER).unlink()
        for part in folder.glob("*.parquet"):
            part.rename(folder / "mine.parquet")
    assert run_job(embed, settings) == {"days_done": 0, "texts": 0}
    assert storage.read(TABLE, "2026-01-01")["embedding"].to_pylist() == [pytest.approx([0.6, 0.8])]


def test_the_engine_is_told_to_pool_and_to_expect_no_images() -> None:
    told = embed_kwargs(EmbedConfig(pooling="LAST"))
    assert told["task_type"] == "embed" and not told["chat_template_stage"]["enabled"]
    assert told["engine_kwargs"]["pooler_config"]["pooling_type"] == "LAST"
    assert told["engine_kwargs"]["limit_mm_per_prompt"] == {"image": 0, "video": 0}
    with pytest.raises(ValueError, match="MEAN or LAST"):
        EmbedConfig(pooling="MAX")


def test_texts_are_cut_to_the_context_and_the_log_says_how_many(caplog: pytest.LogCaptureFixture) -> None:
    config = EmbedConfig()
    long, short = embed.token_ids([LONG, "a title"], config)
    assert len(long) == config.engine.max_model_len and 0 < len(short) < 10
    assert "1 of 2 texts are longer than max_model_len, 1024 tokens: cut" in caplog.text


def test_without_anchors_there_is_nothing_to_embed(tmp_path: Path) -> None:
    with pytest.raises(ContractError, match="run the job anchors"):
        run_job(embed, _settings(tmp_path))
    config = replace(_settings(tmp_path), embed=EmbedConfig(model="nowhere"))
    run_job(world, config)
    with pytest.raises(ValueError, match="nowhere"):
        run_job(embed, config)
