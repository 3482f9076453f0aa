"""Logistic regression over sparse features, by scikit-learn: what the same data say without a network."""

import logging
from collections.abc import Mapping
from functools import partial
from typing import Any, TypeVar

import numpy as np

from models.metrics import gauc
from pipelines.samples.batches import read_examples
from pipelines.studies.references.features import AnchorTerms, Joined, features, ways_to_join
from pipelines.studies.references.reference import Material, Ranked
from pipelines.tables.columns import Columns

log = logging.getLogger(__name__)
GRID = (0.01, 0.03, 0.1, 0.3)
"""Inverse strengths of L2 regularisation that are tried, as scikit-learn's C."""
_MIDDLE = GRID[1]
Key = TypeVar("Key")
Rows = Mapping[str, Any]
"""Sparse features [n, F] by day."""
Examples = Mapping[str, Columns]


def rank(given: Material, terms: str | None) -> Ranked:
    """One model per task, with what is best by click GAUC on the last training day: how profile columns are joined,
    under the middle C of GRID, and then C.

    Models that choose have not seen that day; the one that scores is trained on it too. `terms` is one of
    features.TERMS; None leaves the anchors out.
    """
    examples = {day: read_examples(given.storage, day) for day in given.days} | {given.day: given.columns}
    anchors = None if terms is None else AnchorTerms(given.storage, given.catalog, terms, given.days)
    of_anchor = {day: None if anchors is None else anchors.before(day, of) for day, of in examples.items()}

    def rows(joined: Joined) -> Rows:
        return {day: features(given.catalog, of, of_anchor[day], joined) for day, of in examples.items()}

    ways = ways_to_join(len(given.catalog.profile_cardinalities))
    by_way = {way: _validated(rows(joined), examples, given.days, _MIDDLE) for way, joined in ways.items()}
    way = _best(by_way)
    chosen = rows(ways[way])
    by_c = {inverse: _validated(chosen, examples, given.days, inverse) for inverse in GRID}
    inverse = _best(by_c, otherwise=_MIDDLE)
    fitted = {task: _fit(chosen, examples, given.days, task, inverse) for task in given.tasks}
    scores = {
        task: model.decision_function(chosen[given.day]).astype(np.float32)
        for task, model in fitted.items()
        if model is not None
    }
    tried = {"joined": by_way, "C": {str(key): value for key, value in by_c.items()}}
    return Ranked(scores=scores, chosen={"C": inverse, "joined": way, "validation_click_gauc": tried})


def _validated(rows: Rows, examples: Examples, days: tuple[str, ...], inverse: float) -> float | None:
    """Click GAUC of the last day by a model of the days before; None where nothing can be told."""
    *earlier, last = days
    model = _fit(rows, examples, tuple(earlier), "click", inverse) if earlier else None
    if model is None:
        log.warning("study | regression: %d training day(s) are too few to choose on, defaults are taken", len(days))
        return None
    columns = examples[last]
    value = gauc(columns["click"], model.decision_function(rows[last]), columns["user_id"])
    return None if np.isnan(value) else value


def _best(values: Mapping[Key, float | None], otherwise: Key | None = None) -> Key:
    """The key of the greatest value; `otherwise`, or the first key, where there is no value."""
    known = {key: value for key, value in values.items() if value is not None}
    if known:
        return max(known, key=lambda key: known[key])
    return next(iter(values)) if otherwise is None else otherwise


def _fit(rows: Rows, examples: Examples, days: tuple[str, ...], task: str, inverse: float) -> Any:
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
