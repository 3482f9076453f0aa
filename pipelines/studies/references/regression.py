"""Logistic regression over sparse features, by scikit-learn: what the same data say without a network."""

import logging
from functools import partial
from typing import Any

import numpy as np

from models.metrics import gauc
from pipelines.samples.batches import read_examples
from pipelines.studies.references.features import AnchorTerms, features
from pipelines.studies.references.reference import Material, Ranked

log = logging.getLogger(__name__)
GRID = (0.01, 0.03, 0.1, 0.3)
"""Inverse strengths of L2 regularisation that are tried, as scikit-learn's C."""


def rank(given: Material, terms: str | None) -> Ranked:
    """One model per task. C is the one of GRID with the best click GAUC on the last training day, for all tasks.

    The model that chooses has not seen that day; the one that scores is trained on it too. `terms` is one of
    features.TERMS; None leaves the anchors out.
    """
    examples = {day: read_examples(given.storage, day) for day in given.days} | {given.day: given.columns}
    anchors = None if terms is None else AnchorTerms(given.storage, given.catalog, terms, given.days)
    rows = {
        day: features(given.catalog, columns, None if anchors is None else anchors.before(day, columns))
        for day, columns in examples.items()
    }
    inverse, tried = _choose(rows, examples, given.days)
    fitted = {task: _fit(rows, examples, given.days, task, inverse) for task in given.tasks}
    scores = {
        task: model.decision_function(rows[given.day]).astype(np.float32)
        for task, model in fitted.items()
        if model is not None
    }
    return Ranked(scores=scores, chosen={"C": inverse, "validation_click_gauc": tried})


def _choose(rows: Any, examples: Any, days: tuple[str, ...]) -> tuple[float, dict[str, float]]:
    """C, and the click GAUC of the last day under each one that was tried; the middle one where nothing can be told."""
    *earlier, last = days
    tried: dict[str, float] = {}
    for inverse in GRID:
        model = _fit(rows, examples, tuple(earlier), "click", inverse) if earlier else None
        if model is not None:
            columns = examples[last]
            tried[str(inverse)] = gauc(columns["click"], model.decision_function(rows[last]), columns["user_id"])
    known = {inverse: value for inverse, value in tried.items() if not np.isnan(value)}
    if not known:
        log.warning("study | regression: one training day is too few to choose C on, %s is taken", GRID[1])
        return GRID[1], {}
    return float(max(known, key=lambda inverse: known[inverse])), known


def _fit(rows: Any, examples: Any, days: tuple[str, ...], task: str, inverse: float) -> Any:
    """The model of a task; None where the days have one class only."""
    import scipy.sparse as sp
    from sklearn.linear_model import LogisticRegression

    labels = np.concatenate([examples[day][task] for day in days])
    if labels.min() == labels.max():
        return None
    model = LogisticRegression(C=inverse, solver="liblinear", tol=0.01, random_state=0)
    return model.fit(sp.vstack([rows[day] for day in days], format="csr"), labels)


ROWS = {
    "regression": partial(rank, terms=None),
    "regression_phrases": partial(rank, terms="phrases"),
    "regression_words": partial(rank, terms="words"),
}
"""By the name of the reference row."""
