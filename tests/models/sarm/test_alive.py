"""After training, every part of SARM says something: none is a constant, and none that stands alone can be left out.

Authors stream on topics, which only their anchors name. Users are unknown but for a history of one topic; what they
click depends on whether the target has their topic, and on words that everybody likes.
"""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from models.ablation import Ablation
from models.batch import RankingBatch
from models.catalog import CatalogSizes
from models.composed import ComposedRanker, Sources
from models.metrics import auc
from models.optimizer import RankerOptimizer
from models.ranker import RankerConfig
from models.sarm.anchor_tokens import CLS_ROW, TokenRows
from models.sarm.model import REPRESENTATIONS, SARM, SARMConfig
from models.sources import Representations, SourceSpec
from models.training import TrainingRanker, Window
from tests.models.worlds import HOME

AUTHORS, TOPICS, HISTORY, BATCH, STEPS = 400, 6, 8, 256, 150
FIRST_TOPIC, FIRST_NOISE, NUM_ROWS = 4, 16, 40
LIKED, DISLIKED = 2, 3
"""Token rows of a word that everybody likes, and of one that nobody does."""
SMALL = SARMConfig(width=16, aux_hidden=8, representations=REPRESENTATIONS)


def _anchors(rng: np.random.Generator) -> tuple[Tensor, np.ndarray, np.ndarray]:
    """Tokens [N+1, T], the topic and the appeal of each author row: two words of a topic, one of appeal, noise."""
    topic = rng.integers(0, TOPICS, AUTHORS + 1)
    appeal = rng.integers(0, 2, AUTHORS + 1)
    tokens = rng.integers(FIRST_NOISE, NUM_ROWS, (AUTHORS + 1, 7))
    tokens[:, 0] = CLS_ROW
    tokens[:, 2] = FIRST_TOPIC + 2 * topic
    tokens[:, 3] = FIRST_TOPIC + 2 * topic + 1
    tokens[:, 5] = np.where(appeal > 0, LIKED, DISLIKED)
    return torch.from_numpy(tokens), topic, appeal


def _batch(rng: np.random.Generator, topic: np.ndarray, appeal: np.ndarray) -> RankingBatch:
    liked = rng.integers(0, TOPICS, BATCH)
    by_topic = [np.flatnonzero(topic[1:] == number) + 1 for number in range(TOPICS)]
    history = np.stack([rng.choice(by_topic[number], HISTORY) for number in liked])
    author = rng.integers(1, AUTHORS + 1, BATCH)
    author = np.where(rng.random(BATCH) < 0.4, history[:, 0], author)  # half of the targets are liked
    logit = 3.0 * (topic[author] == liked) - 1.5 + 1.5 * (2.0 * appeal[author] - 1.0)
    click = rng.random(BATCH) < 1 / (1 + np.exp(-logit))
    zeros = torch.zeros(BATCH, dtype=torch.int64)
    return RankingBatch(
        user=zeros,
        user_profile=zeros[:, None],
        author=torch.from_numpy(author),
        author_category=zeros,
        hour=zeros,
        history=torch.from_numpy(history),
        history_mask=torch.ones(BATCH, HISTORY, dtype=torch.bool),
        history_age_s=torch.full((BATCH, HISTORY), 60.0),
        history_watch_s=torch.full((BATCH, HISTORY), 60.0),
        labels=torch.from_numpy(np.repeat(click[:, None], 4, axis=1).astype(np.float32)),
    )


def _trained(config: SARMConfig) -> tuple[dict[str, float], dict[str, float], float]:
    """Spread of each part's vector, AUC lost without it, and the AUC of the whole."""
    rng = np.random.default_rng(0)
    torch.manual_seed(0)
    tokens, topic, appeal = _anchors(rng)
    sizes = CatalogSizes(num_users=1, num_authors=AUTHORS, profile_cardinalities=(1,), num_categories=1)
    spec = SourceSpec.of("sarm", SARM, config, TokenRows(num_base_rows=NUM_ROWS, num_live_rows=1))
    model = ComposedRanker(RankerConfig(id_dim=8, home=HOME), sizes, Sources(specs=(spec,)))
    step = TrainingRanker(model)
    step.inputs = {"sarm": (tokens, torch.zeros_like(tokens))}
    optimizer = RankerOptimizer(step, lr_ids=0.01, lr_encoder=0.003, lr_dense=0.006, l2_ids=0.0003)
    banks = {"sarm": model.source("sarm").memory_bank(AUTHORS, torch.device("cpu"))}
    for number in range(STEPS):
        batch = _batch(rng, topic, appeal)
        window = Window(step, [batch], banks)
        optimizer.zero_grad()
        step(batch, banks, window.encoded).loss.backward()
        window.backward()
        optimizer.step()
        encoded = window.encoded["sarm"]
        banks["sarm"].write(encoded.rows, encoded.vectors.detach(), number)
    model.eval()
    tables = {name: torch.from_numpy(table) for name, table in model.tables(step.inputs).items()}
    tests = [_batch(rng, topic, appeal) for _ in range(16)]

    def readings() -> Iterator[tuple[RankingBatch, list[Representations]]]:
        for batch in tests:
            with torch.no_grad():
                yield batch, model.read(batch, *model.look_up(batch, tables))

    spread, without = Ablation(model).measure(readings)
    labels = torch.cat([batch.labels[:, 0] for batch in tests]).numpy()
    whole = torch.cat([model.score_rows(batch, tables)[:, 0] for batch in tests]).numpy()
    best = auc(labels, whole)
    return spread, {part: best - auc(labels, scores[:, 0].numpy()) for part, scores in without.items()}, best


def test_every_part_of_a_trained_sarm_differs_between_authors_and_users() -> None:
    spread, lost, best = _trained(SMALL)
    assert best > 0.75
    for part in ("sarm: [CLS]", "sarm: [TAR]", "sarm: [UIN]"):
        assert spread[part] >= 0.2, f"{part} is nearly a constant"
    assert lost["sarm: [TAR]"] > 0.01 and lost["sarm: [UIN]"] > 0.01


@pytest.mark.parametrize("author, name", [("cls", "[CLS]"), ("tar", "[TAR]")])
@pytest.mark.parametrize("reads", ["cls", "tar"])
def test_each_part_is_missed_where_no_other_says_the_same(author: str, name: str, reads: str) -> None:
    """[CLS] and [TAR] read one anchor and can stand in for each other, so one is left out of the ranker."""
    spread, lost, _ = _trained(replace(SMALL, representations=(author, "uin"), interest_reads=reads))
    for part in (f"sarm: {name}", "sarm: [UIN]"):
        assert spread[part] >= 0.2 and lost[part] > 0.01, part


def test_the_paper_s_cls_is_nearly_a_constant() -> None:
    """Why [CLS] is pooled: as the state of position 0 it says nearly the same of every author."""
    spread, _, _ = _trained(replace(SMALL, cls="position"))
    assert spread["sarm: [CLS]"] < 0.2
