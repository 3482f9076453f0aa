"""Frozen embeddings of the anchors' text, by the model that wrote them: what two-stage rankers read.

Reads anchors, writes `anchor_embeddings`, through Ray Data and vLLM's pooling task. A text that occurs twice is
embedded once; a day whose embeddings came with the data is left as it is. Memory: the vectors of the days that are due.
Run: python -m pipelines embed --config pipelines/configs/studies/table1.yaml
"""

import logging
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from models.config import PathText
from pipelines.runtime.cluster import actor_beside, connected, is_shared
from pipelines.runtime.run import Run
from pipelines.semantics import preflight
from pipelines.semantics.attempts import Attempts
from pipelines.semantics.author_day import PromptConfig
from pipelines.semantics.checkpoint import model_fingerprint
from pipelines.semantics.engine import check_room
from pipelines.semantics.engine_config import EngineConfig
from pipelines.semantics.engine_pool import engine_errors, watched_processor
from pipelines.semantics.pooling import check_pooling, pooling_kwargs
from pipelines.semantics.watch import ERROR
from pipelines.tables import contract
from pipelines.tables.contract import ContractError
from pipelines.tables.due import due_days
from pipelines.tables.fingerprint import digest
from pipelines.tables.storage import Storage

log = logging.getLogger(__name__)
TABLE = "anchor_embeddings"
_LOG_EVERY_S = 5.0
_CONTEXT = 1024
"""Tokens of a text that are read, where nothing else is said."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EmbedConfig:
    """How the anchors' text is embedded."""

    model: PathText = "pipelines/world/student"
    """Folder of the Qwen-VL checkpoint."""
    pooling: str = "MEAN"
    """vLLM's pooling type: MEAN over the tokens, or LAST."""
    engine: EngineConfig = field(default_factory=EngineConfig)
    """vLLM; `max_model_len` is 1024 where nothing else is said."""

    def __post_init__(self) -> None:
        check_pooling(self.pooling)
        if self.engine.max_model_len is None:
            object.__setattr__(self, "engine", replace(self.engine, max_model_len=_CONTEXT))


def run(config: EmbedConfig, run: Run) -> dict[str, Any]:
    """Embeds the anchors of every day that is not current."""
    return embed_stores(config, run, [run.storage])


def embed_stores(config: EmbedConfig, run: Run, stores: Sequence[Storage]) -> dict[str, Any]:
    """`run` over the tables of several stores, with one start of the engine."""
    model = digest([model_fingerprint(config.model), config.pooling, config.engine.max_model_len])
    due: list[tuple[Storage, str, dict[str, str], pa.Table]] = []
    for storage in stores:
        anchors = storage.listing("anchors")
        if not anchors.days:
            raise ContractError(f"table anchors of {storage.url}: wanted a day, got none; run the job anchors first")
        made_from = {day: {"anchors": anchors.stamp(day), "model": model} for day in anchors.days}
        for day in due_days(storage, TABLE, made_from):
            if came_with_the_data(storage, TABLE, day):
                log.info("embed | %s | kept: these embeddings came with the data; remove them to make ours", day)
            else:
                due.append((storage, day, made_from[day], storage.read("anchors", day, ["author_id", "text"])))
    texts = sorted({text for *_, rows in due for text in rows["text"].to_pylist()})
    started = time.perf_counter()
    vectors: dict[str, npt.NDArray[np.float32]] = {}
    if texts:
        checkpoint = preflight.look(config.model, use_gpu=config.engine.use_gpu, key="embed.model")
        told = dict(preflight.overrides(checkpoint, config.engine)) | config.engine.engine_kwargs
        config = replace(config, engine=replace(config.engine, engine_kwargs=told))
        with connected(run.cluster):
            check_room(config.engine, can_grow=is_shared(run.cluster))
            vectors = dict(_embedded(texts, config))
    for storage, day, lineage, rows in due:
        storage.write(TABLE, day, [_table(rows, vectors, config.model)], lineage)
    took = time.perf_counter() - started
    log.info("embed | %d days | %d texts | %.1f s", len(due), len(texts), took)
    return {"days_done": len(due), "texts": len(texts)}


def came_with_the_data(storage: Storage, table: str, day: str) -> bool:
    """True where another job or a user wrote the day's embeddings: KuaiLive's have no other source."""
    if not storage.holds(table, day):
        return False
    commit = storage.commit_of(table, day)
    return commit is None or "model" not in commit.made_from


def _embedded(texts: list[str], config: EmbedConfig) -> Iterator[tuple[str, npt.NDArray[np.float32]]]:
    """Every text with its vector, of length 1, as the engine finishes them. Raises RuntimeError where one has none."""
    import ray

    attempts = actor_beside(Attempts)
    processor = watched_processor(
        embed_kwargs(config),
        attempts,
        config.engine,
        key_columns=["text"],
        probe=None,
        preprocess=lambda row: {"text": row["text"], "tokenized_prompt": row["tokens"]},
        postprocess=lambda row: {"text": row["text"], "embedding": row["embeddings"]},
    )
    rows = [{"text": text, "tokens": ids} for text, ids in zip(texts, token_ids(texts, config), strict=True)]
    blocks = ray.data.from_items(rows, override_num_blocks=math.ceil(len(rows) / config.engine.batch_size))
    started = logged = time.perf_counter()
    with engine_errors({"the engine": attempts}):
        for done, row in enumerate(processor(blocks).iter_rows(), 1):
            if row.get(ERROR):
                raise RuntimeError(f"embed: {row['text'][:80]!r}: {row[ERROR]}")
            yield row["text"], np.asarray(row["embedding"], np.float32)
            now = time.perf_counter()
            if now - logged > _LOG_EVERY_S or done == len(texts):
                logged, rate, left = now, done / (now - started), len(texts) - done
                log.info("embed | %d/%d | %.0f texts/s | eta %.0f s", done, len(texts), rate, left / rate)


def token_ids(texts: list[str], config: EmbedConfig) -> list[list[int]]:
    """What the engine reads of each text: its first tokens, as many as the context holds. Logs how many are longer."""
    from transformers import AutoTokenizer

    context = config.engine.max_model_len
    tokens = AutoTokenizer.from_pretrained(config.model)(texts, truncation=True, max_length=context)
    if cut := sum(bool(encoding.overflowing) for encoding in tokens.encodings):
        log.warning("embed | %d of %d texts are longer than max_model_len, %d tokens: cut", cut, len(texts), context)
    ids: list[list[int]] = tokens["input_ids"]
    return ids


def embed_kwargs(config: EmbedConfig) -> dict[str, Any]:
    """What ray.data.llm is told: the anchors' engine, as an embedding model of plain text."""
    kwargs = pooling_kwargs(config.model, PromptConfig(num_frames=0), config.engine, config.pooling, "embed")
    return kwargs | {"should_continue_on_error": False}


def _table(rows: pa.Table, vectors: dict[str, npt.NDArray[np.float32]], model: str) -> pa.Table:
    missing = [text for text in rows["text"].to_pylist() if text not in vectors]
    if missing:
        raise RuntimeError(
            f"the engine gave no vector for {len(missing)} texts, first {missing[0][:80]!r}; run it again"
        )
    columns = {
        "author_id": rows["author_id"],
        "embedding": pa.array([vectors[text] for text in rows["text"].to_pylist()], pa.list_(pa.float32())),
        "model": pa.array([model] * rows.num_rows, pa.string()),
    }
    return pa.table(columns, schema=contract.spec(TABLE).schema)
