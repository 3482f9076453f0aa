"""What the published SARM has learnt (SARM 4.3): similar authors against the truth, gates, and what [TAR] reads.

Reads a published ranker with the source SARM, the anchors that are current before the day of evaluation and, where
the platform is simulated, the truth of those anchors; writes no table.
Run: python -m pipelines analyse --config pipelines/configs/demo.yaml
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from models.artifacts.manifest import ArtifactError
from models.config import DayText
from pipelines.analysis.neighbours import limits, nearest, precision
from pipelines.ranking import evaluate
from pipelines.runtime.run import Run
from pipelines.tables import contract, newest
from pipelines.tables.artifacts import Artifacts
from pipelines.tables.contract import ContractError
from pipelines.tables.storage import Storage

if TYPE_CHECKING:
    from models.catalog import Catalog
    from models.embeddings import IdTable
    from models.sarm.anchor_tokens import AnchorTokens
    from models.sarm.live_tokenizer.tokenizer import LiveStreamingTokenizer
    from models.sarm.model import SARM

log = logging.getLogger(__name__)
NEIGHBOURS = 10
"""k of precision@k."""
_NAMED = 5
"""Neighbours that are named of an author whose anchor is drawn."""
Rows = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, slots=True)
class AnalyseConfig:
    """How much is looked at."""

    ranker: str | None = None
    """Which ranker, by the names of its sources, of which SARM must be one; null = the only one that is published."""
    day: DayText | None = None
    """Day of examples whose anchors are looked at, as they were before it, YYYY-MM-DD; null = the newest."""
    authors: int = 2000
    """Most authors whose neighbours are looked up and whose tokens are weighed; drawn by the seed."""
    drawn: int = 4
    """Authors whose anchor is given word by word."""
    gate_terms: int = 10
    """Terms with the largest gates, and as many with the smallest."""
    frequent_terms: int = 30
    """Merged terms, the most frequent ones, whose gates are reported."""
    min_gate_tokens: int = 50
    """Tokens that a term must cover to be among them: a mean over few is noise."""

    def __post_init__(self) -> None:
        if self.authors < 1 or min(self.drawn, self.gate_terms, self.frequent_terms, self.min_gate_tokens) < 0:
            raise ValueError(f"wanted at least one author, and no negative number, got {self}")


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Subject:
    """The SARM that is analysed, and what it has read."""

    sarm: "SARM"
    ids: "IdTable"
    """The author vectors of its ranker."""
    catalog: "Catalog"
    tokenizer: "LiveStreamingTokenizer"
    tokens: "AnchorTokens"
    """Of all N + 1 author rows."""
    anchor_day: npt.NDArray[np.int32]
    """[N+1] day of each row's anchor, days since 1970, -1 where there is none."""
    written: Mapping[int, Mapping[str, Any]]
    """The current anchors, rows of `anchors` by author row."""
    bank: npt.NDArray[np.float32]
    """[N+1, 2, D] the vectors of those anchors, as evaluation uses them."""

    @classmethod
    def open(cls, storage: Storage, day: str, ranker: str | None) -> "Subject":
        """A published SARM with the anchors that are current before `day`. Raises ContractError where there are none,
        and ArtifactError where the ranker has no source SARM."""
        from models.sarm.model import SARM
        from pipelines.ranking import published
        from pipelines.ranking.variants.sarm import CurrentAnchors

        rows = newest.read(storage, "anchors", before=day, columns=contract.spec("anchors").schema.names).to_pylist()
        if not rows:
            raise ContractError(f"table anchors: wanted a day before {day}, got none; run the job anchors")
        artifacts = Artifacts(storage)
        trained = published.load(artifacts, published.chosen_ranker(ranker, artifacts))
        states = trained.states(storage, artifacts)
        reader = next((name for name, state in states.items() if isinstance(state, CurrentAnchors)), None)
        if reader is None:
            raise ArtifactError(
                f"analyse.ranker: wanted one that reads anchors, got {trained.name}; train one with SARM"
            )
        sarm, state = trained.model.source(reader), states[reader]
        assert isinstance(sarm, SARM) and isinstance(state, CurrentAnchors)
        at = trained.catalog.author_rows(np.array([row["author_id"] for row in rows], dtype=np.int64))
        ids = trained.model.ranker.authors
        return cls(
            sarm=sarm,
            ids=ids,
            catalog=trained.catalog,
            tokenizer=state.tokenizer,
            bank=sarm.table(state.advance(before=day), ids).numpy(),
            tokens=state.tokens,
            anchor_day=state.anchor_day,
            written={index: row for index, row in zip(at.tolist(), rows, strict=True) if index},
        )


def run(config: AnalyseConfig, run: Run) -> dict[str, Any]:
    """Analyses the published model with the anchors that evaluation used."""
    from pipelines.analysis.gates import MeanGates

    storage = run.storage
    day = evaluate.day_of(config.day, storage)
    subject = Subject.open(storage, day, config.ranker)
    chosen = np.random.default_rng([run.seed, 13]).permutation(sorted(subject.written))[: config.authors]
    gates = MeanGates.of(subject.sarm.encoder, subject.tokens, subject.tokenizer.rows.num_live_rows)
    a2a = similar_authors(subject, true_themes(storage, subject), chosen)
    if a2a is not None:
        precisions = ", ".join(
            f"[{name.upper()}] {by_how['whitened']:.4f} (plain {by_how['plain']:.4f})"
            for name, by_how in a2a["precision_at_10"].items()
        )
        log.info("author to author, precision@10 | %s | chance %.4f", precisions, a2a["chance"])
    return {
        "day": day,
        "a2a": a2a,
        "gates": gates.extremes(subject.tokenizer, config.gate_terms, config.min_gate_tokens),
        "frequent_gates": gates.most_frequent(subject.tokenizer, config.frequent_terms),
        "importance": token_importance(subject, chosen, config.drawn),
    }


def true_themes(storage: Storage, subject: Subject) -> dict[int, frozenset[str]]:
    """The true themes of each current anchor, by author row: those of the day that the anchor was written on.

    Empty where the platform is not simulated. No training job may read them.
    """
    from pipelines.tables.days import day_number

    oracle = storage.with_oracle()
    themes: dict[int, frozenset[str]] = {}
    written_on = set(subject.anchor_day.tolist())
    for day in oracle.days("oracle_anchors"):
        if day_number(day) not in written_on:
            continue
        table = oracle.read("oracle_anchors", day, ["author_id", "theme"])
        rows = subject.catalog.author_rows(table["author_id"].to_numpy())
        for row, themes_of_author in zip(rows.tolist(), table["theme"].to_pylist(), strict=True):
            if row and subject.anchor_day[row] == day_number(day):
                themes[row] = frozenset(themes_of_author)
    return themes


def similar_authors(subject: Subject, themes: Mapping[int, frozenset[str]], chosen: Rows) -> dict[str, Any] | None:
    """{authors, queries, precision_at_10, chance, ceiling} of author-to-author retrieval; None where no truth is known.

    Each query's 10 nearest by cosine, among all authors with an anchor; a hit shares at least one true theme with it.
    By [CLS] and by [TAR], each as it is (as the paper's Fig. 7) and whitened (as it is served).
    """
    from models.sarm.model import BANKED
    from models.whitening import Whitening

    if not themes:
        return None
    rows = np.array(sorted(themes), dtype=np.int64)
    by_position = [themes[row] for row in rows.tolist()]
    queries = np.flatnonzero(np.isin(rows, chosen))
    precisions = {}
    for part, name in enumerate(BANKED):
        plain = subject.bank[rows, part]
        by_how = {"plain": plain, "whitened": Whitening.fit([plain])(plain)}
        precisions[name] = {
            how: precision(nearest(vectors, queries, NEIGHBOURS)[0], queries, by_position)
            for how, vectors in by_how.items()
        }
    chance, ceiling = limits(queries, by_position, NEIGHBOURS)
    return {
        "authors": len(rows),
        "queries": len(queries),
        "precision_at_10": precisions,
        "chance": chance,
        "ceiling": ceiling,
    }


def token_importance(subject: Subject, chosen: Rows, drawn: int) -> dict[str, Any] | None:
    """{authors, parts, drawn}: what [TAR] reads, by part of the anchor, and word by word for the first few of `chosen`.

    None for a model of live tokens alone, whose tokens are not those of the text.
    """
    from pipelines.analysis import importance

    if subject.sarm.config.tokens != "base":
        return None
    weights = importance.of_authors(subject.sarm, subject.ids, subject.tokens, chosen)
    anchors = [subject.written[row] for row in chosen.tolist()]
    similar = _similar(subject, chosen[:drawn])
    return {
        "authors": len(chosen),
        "parts": importance.by_part(anchors, weights, subject.tokenizer),
        "drawn": [
            {"author_id": anchor["author_id"], **importance.by_word(anchor, shares, subject.tokenizer), "similar": near}
            for anchor, shares, near in zip(anchors, weights, similar, strict=False)
        ],
    }


def _similar(subject: Subject, rows: Rows) -> list[list[dict[str, Any]]]:
    """The nearest authors of each row by whitened [CLS], with the theme that was written of them."""
    from models.whitening import Whitening

    candidates = np.array(sorted(subject.written), dtype=np.int64)
    k, cls = min(_NAMED, len(candidates) - 1), subject.bank[candidates, 0]
    positions, cosines = nearest(Whitening.fit([cls])(cls), np.searchsorted(candidates, rows), k)
    return [
        [
            {"author_id": anchor["author_id"], "cosine": float(cosine), "theme": ", ".join(anchor["theme"])}
            for anchor, cosine in zip(
                [subject.written[row] for row in candidates[near].tolist()], cosine_row, strict=True
            )
        ]
        for near, cosine_row in zip(positions, cosines, strict=True)
    ]
