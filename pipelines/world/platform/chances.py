"""The true probability of each label of an exposure."""

import numpy as np
from numpy.typing import NDArray

from pipelines.world.config import WorldConfig
from pipelines.world.platform.content import content_liking
from pipelines.world.platform.phrases import PhraseBook
from pipelines.world.platform.viewers import Viewers
from pipelines.world.tastes import Stage

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]

# Weights in the logits: intercept, content, single author, quality, being followed. All but click's are given a click.
LOGITS = {
    "click": (-2.0, 1.02, 0.4, 0.2, 0.8),
    "follow": (-6.1, 0.8, 2.0, 0.5, -np.inf),
    "long_view": (-2.9, 0.9, 0.6, 0.8, 0.6),
    "gift": (-8.8, 0.8, 2.0, 0.4, 3.0),
}


def chances(
    viewers: Viewers, stage: Stage, book: PhraseBook, config: WorldConfig,
    user: Ints, live: Ints, ts_ms: Ints, followed: NDArray[np.bool_],
) -> dict[str, Floats]:  # fmt: skip
    """P(click), and P(click) P(label | click) for the others, [n]. Nobody follows twice."""
    content = content_liking(viewers, stage, book, user, live, ts_ms)
    author = np.einsum("nf,nf->n", viewers.factors[user], stage.factors[live]) * np.float32(config.author_taste)
    quality = stage.quality[live]
    result: dict[str, Floats] = {}
    for task, (intercept, of_content, of_author, of_quality, if_followed) in LOGITS.items():
        logit = intercept + of_content * content + of_author * author + of_quality * quality
        if task in viewers.readiness:
            logit += viewers.readiness[task][user]
        logit = np.where(followed, logit + if_followed, logit)
        result[task] = (1 / (1 + np.exp(-logit))).astype(np.float32)
    return {task: p if task == "click" else p * result["click"] for task, p in result.items()}
