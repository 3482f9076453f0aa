"""Tables of two-stage sources as of a moment."""

import shutil
from datetime import date
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from models.catalog import Catalog
from models.two_stage import SemanticIdsConfig
from pipelines.ranking.variants.source import Context, State
from pipelines.ranking.variants.two_stage import FrozenEmbeddings, PhraseCodes, SemanticIdCodes, TagCodes
from pipelines.tables import contract
from pipelines.tables.artifacts import Artifacts
from pipelines.tables.contract import ContractError
from pipelines.tables.storage import Storage


def _write(storage: Storage, day: str, tags: dict[int, list[str] | None]) -> None:
    rows = [
        {"author_id": a, "profile": "", "category": None, "tags": t, "first_live_day": date(2026, 1, 1)}
        for a, t in tags.items()
    ]
    storage.write("authors", day, [pa.Table.from_pylist(rows, schema=contract.spec("authors").schema)])


def _catalog(ids: list[int]) -> Catalog:
    return Catalog.build(user_ids=[1], user_profile=[[0]], author_ids=ids, author_category=[0] * len(ids))


def test_tags_are_those_of_the_newest_row_before_the_day(tmp_path: Path) -> None:
    storage = Storage.open(str(tmp_path))
    _write(storage, "2026-01-01", {5: ["cooking", "outdoor"], 7: []})
    _write(storage, "2026-01-02", {7: ["games"], 9: ["cooking"]})
    _write(storage, "2026-01-03", {5: ["games"]})
    tags = TagCodes(_context(storage, [5, 7, 9], ["2026-01-02", "2026-01-03"]))
    assert tags.facts.num_codes == 4  # none, cooking, games, outdoor
    assert _table(tags, "2026-01-02").tolist() == [[0, 0], [1, 3], [0, 0], [0, 0]]
    assert _table(tags, "2026-01-03").tolist() == [[0, 0], [1, 3], [2, 0], [1, 0]]
    assert _table(tags, "2026-01-04").tolist() == [[0], [2], [2], [1]]


def test_a_tag_that_training_never_saw_counts_as_none(tmp_path: Path) -> None:
    storage = Storage.open(str(tmp_path))
    _write(storage, "2026-01-01", {5: ["cooking"]})
    _write(storage, "2026-01-02", {5: ["travel", "cooking"]})
    tags = TagCodes(_context(storage, [5], ["2026-01-01", "2026-01-02"]))
    assert tags.facts.num_codes == 2
    assert _table(tags, "2026-01-03").tolist() == [[0], [1]]


def test_before_the_first_day_nobody_has_tags(tmp_path: Path) -> None:
    storage = Storage.open(str(tmp_path))
    _write(storage, "2026-01-02", {5: ["cooking"]})
    tags = TagCodes(_context(storage, [5], ["2026-01-02"]))
    assert tags.facts.num_codes == 1 and _table(tags, "2026-01-02").tolist() == [[0], [0]]


def _anchor(storage: Storage, day: str, phrases: dict[int, dict[str, list[str]]]) -> None:
    schema = contract.spec("anchors").schema
    empty = {f.name: [] if pa.types.is_list(f.type) else "" if pa.types.is_string(f.type) else 0 for f in schema}
    rows = [empty | {"author_id": author} | fields for author, fields in phrases.items()]
    storage.write("anchors", day, [pa.Table.from_pylist(rows, schema=schema)])


def test_phrases_are_those_of_the_newest_anchor_of_a_day_strictly_before(tmp_path: Path) -> None:
    storage = Storage.open(str(tmp_path))
    _anchor(storage, "2026-01-01", {5: {"theme": ["chess"], "topic": ["chess", "clubs"]}, 7: {"theme": ["games"]}})
    _anchor(storage, "2026-01-02", {5: {"theme": ["games"]}})
    _anchor(storage, "2026-01-03", {5: {"theme": ["chess"]}, 7: {"theme": ["chess"]}})
    phrases = PhraseCodes(_context(storage, [5, 7, 9], ["2026-01-02", "2026-01-03"]))
    assert phrases.facts.num_codes == 5  # none; theme: chess, games; topic: chess, clubs
    assert _table(phrases, "2026-01-02").tolist() == [[0, 0, 0], [1, 3, 4], [2, 0, 0], [0, 0, 0]]
    assert _table(phrases, "2026-01-03").tolist() == [[0], [2], [2], [0]]
    assert _table(phrases, "2026-01-04").tolist() == [[0], [1], [1], [0]]


def test_a_phrase_first_seen_after_the_training_days_counts_as_none(tmp_path: Path) -> None:
    storage = Storage.open(str(tmp_path))
    _anchor(storage, "2026-01-01", {5: {"theme": ["chess"]}})
    # Written on the last day of training: it is in force on the day after, which is not trained on.
    _anchor(storage, "2026-01-02", {5: {"theme": ["fishing"], "scene": ["kitchen"], "topic": ["chess"]}})
    phrases = PhraseCodes(_context(storage, [5], ["2026-01-01", "2026-01-02"]))
    assert phrases.facts.num_codes == 2
    assert _table(phrases, "2026-01-02").tolist() == [[0], [1]]
    assert _table(phrases, "2026-01-03").tolist() == [[0], [0]]


def test_a_published_ranker_keeps_the_codes_of_its_phrases(tmp_path: Path) -> None:
    storage = Storage.open(str(tmp_path))
    _anchor(storage, "2026-01-01", {5: {"theme": ["chess"]}, 7: {"theme": ["fishing"]}})
    PhraseCodes(_context(storage, [5, 7], ["2026-01-02"])).save(tmp_path)
    _anchor(storage, "2026-01-02", {7: {"theme": ["cooking"]}})
    later = PhraseCodes(_context(storage, [5, 7], ["2026-01-02", "2026-01-04"], learnt=tmp_path))
    assert later.facts.num_codes == 3 and _table(later, "2026-01-02").tolist() == [[0], [1], [2]]


def _context(storage: Storage, ids: list[int], days: list[str], learnt: Path | None = None) -> Context:
    return Context(
        storage=storage,
        artifacts=Artifacts(storage),
        catalog=_catalog(ids),
        days=tuple(days),
        made_from={},
        learnt=learnt,
    )


def _table(state: State, before: str) -> torch.Tensor:
    (table,) = state.advance(before)
    return table


def _embed(storage: Storage, day: str, vectors: dict[int, list[float]]) -> None:
    for name in ("anchors", "anchor_embeddings"):
        schema = contract.spec(name).schema
        empty = {field.name: [] if pa.types.is_list(field.type) else 0 for field in schema}
        texts = {field.name: "" for field in schema if pa.types.is_string(field.type)}
        rows = [empty | texts | {"author_id": a, "embedding": v} for a, v in vectors.items()]
        storage.write(name, day, [pa.Table.from_pylist(rows, schema=schema)])


def test_embeddings_are_those_of_the_newest_anchor_before_the_day(tmp_path: Path) -> None:
    storage = Storage.open(str(tmp_path))
    _embed(storage, "2026-01-01", {5: [1.0, 0.0], 7: [0.0, 1.0], 8: [9.0, 9.0]})  # 8 is in no catalog
    _embed(storage, "2026-01-02", {5: [0.0, 2.0]})
    made = FrozenEmbeddings(_context(storage, [5, 7, 9], ["2026-01-02"]))
    assert made.facts.embedding_dim == 2
    assert _table(made, "2026-01-02").tolist() == [[0, 0], [1, 0], [0, 1], [0, 0]]
    assert _table(made, "2026-01-03").tolist() == [[0, 0], [0, 2], [0, 1], [0, 0]]


def test_days_without_embeddings_are_named(tmp_path: Path) -> None:
    storage = Storage.open(str(tmp_path))
    _embed(storage, "2026-01-01", {5: [1.0, 0.0]})
    shutil.rmtree(tmp_path / "tables" / "anchor_embeddings")
    with pytest.raises(ContractError, match="anchor_embeddings: wanted day 2026-01-01.*job embed"):
        FrozenEmbeddings(_context(storage, [5], ["2026-01-02"]))
    _embed(storage, "2026-01-01", {})
    with pytest.raises(ContractError, match="at least one row"):
        FrozenEmbeddings(_context(storage, [5], ["2026-01-02"]))


def test_semantic_ids_are_equal_for_equal_embeddings_and_levels_have_their_own(tmp_path: Path) -> None:
    storage = Storage.open(str(tmp_path))
    rng, ids = np.random.default_rng(0), list(range(1, 101))
    vectors = {a: rng.normal(size=4).tolist() for a in ids}
    vectors[2] = vectors[1]
    _embed(storage, "2026-01-01", vectors)
    _embed(storage, "2026-01-02", {3: vectors[4]})
    codes = SemanticIdCodes(SemanticIdsConfig(), _context(storage, [*ids, 500], ["2026-01-02"]))
    table = _table(codes, "2026-01-02").clone()
    assert codes.facts.num_codes == 1 + 3 * 64 and table.shape == (102, 3)
    assert table[0].tolist() == table[101].tolist() == [0, 0, 0]
    assert table[1].tolist() == table[2].tolist() != table[3].tolist()
    assert all((1 + 64 * level <= table[1:101, level]).all() for level in range(3))
    assert all((table[1:101, level] <= 64 * (level + 1)).all() for level in range(3))
    newer = _table(codes, "2026-01-03")
    assert newer[3].tolist() == table[4].tolist() and newer[4].tolist() == table[4].tolist()


def test_what_was_learnt_comes_back_with_the_ranker(tmp_path: Path) -> None:
    """A published ranker's codes stay those that it was trained with, whatever became of the tables."""
    storage, other = Storage.open(str(tmp_path / "then")), Storage.open(str(tmp_path / "now"))
    ids, rng = list(range(1, 81)), np.random.default_rng(0)
    for store, names in ((storage, ["cooking", "games"]), (other, ["animals", "cooking", "games"])):
        _write(store, "2026-01-01", {a: names for a in ids})
        _embed(store, "2026-01-01", {a: rng.normal(size=4).tolist() for a in ids})
    contexts = [_context(s, ids, ["2026-01-02"], learnt) for s, learnt in ((storage, None), (other, tmp_path))]
    trained = TagCodes(contexts[0])
    trained.save(tmp_path)
    published = TagCodes(contexts[1])
    assert published.facts == trained.facts and _table(published, "2026-01-02")[1].tolist() == [1, 2]
    codes = SemanticIdCodes(SemanticIdsConfig(), contexts[0])
    codes.save(tmp_path)
    again = SemanticIdCodes(SemanticIdsConfig(), contexts[1])
    levels = zip(again._quantizer.centroids, codes._quantizer.centroids, strict=True)
    assert all(torch.equal(*both) for both in levels)


def test_a_moment_of_a_day_knows_only_the_days_before(tmp_path: Path) -> None:
    storage = Storage.open(str(tmp_path))
    _write(storage, "2026-01-01", {5: ["cooking"]})
    _write(storage, "2026-01-02", {5: ["games"]})
    tags = TagCodes(_context(storage, [5], ["2026-01-02", "2026-01-03"]))
    assert _table(tags, "2026-01-02T23:30:00").tolist() == _table(tags, "2026-01-02").tolist() == [[0], [1]]
