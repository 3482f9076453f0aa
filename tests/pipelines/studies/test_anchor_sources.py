"""A study whose variants read anchors of different models, with the real engine over two tiny worlds."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from pipelines.runtime.config import ConfigError
from pipelines.semantics import agreement, anchors, engine
from pipelines.semantics.gather import Key
from pipelines.settings import Settings
from pipelines.studies import anchor_sources, study
from pipelines.studies.config import OWN, AnchorSource, StudyConfig, Variant
from pipelines.studies.table import table_markdown
from pipelines.tables import contract, rejections
from pipelines.tables.contract import FIELDS, ContractError
from pipelines.tables.storage import Storage
from tests.pipelines.conftest import tiny_settings, tiny_train

SEEDS = (1, 2)
STUDENT = AnchorSource(model="pipelines/world/student", made_by="make distil")
VARIANTS = {
    "base": Variant(label="Base", train=tiny_train(())),
    "student": Variant(anchors="student", label="anchors of the student", train=tiny_train()),
    "truth": Variant(train=tiny_train()),
}
DAY = "2026-01-01"


def _settings(root: Path, tiny_store: Path, **changes: Any) -> Settings:
    """Tiny worlds in which as much is recorded of a live as the student was taught to read."""
    settings = tiny_settings(root)
    config = StudyConfig(
        name="tiny4", seeds=len(SEEDS), variants=VARIANTS, anchor_sources={"student": STUDENT}, references=()
    )
    return replace(
        settings,
        world=replace(settings.world, recorded_segments=6, frame_size=64, num_points=300),
        vocabulary=replace(settings.vocabulary, base_tokenizer=str(tiny_store / "tokenizer.json")),
        study=replace(config, **changes),
    )


@pytest.fixture(scope="module")
def asked() -> Iterator[list[int]]:
    """Requests of every time that the engine was started."""
    starts: list[int] = []
    real = engine.answers

    def counted(root: str, keys: list[Key], *rest: Any) -> Iterator[pa.Table]:
        starts.append(len(keys))
        return real(root, keys, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine, "answers", counted)
        yield starts


@pytest.fixture(scope="module")
def done(
    tiny_store: Path, tmp_path_factory: pytest.TempPathFactory, ray_cluster: None, asked: list[int]
) -> Iterator[Settings]:
    settings = _settings(tmp_path_factory.mktemp("study4"), tiny_store)
    study.run(settings)
    yield settings


def _store(settings: Settings, seed: int, source: str = "") -> Storage:
    return Storage.open(f"{settings.storage.root}/seed-{seed}{source and '-' + source}", oracle=True)


def _table(settings: Settings) -> dict[str, Any]:
    return json.loads((Path(settings.run_dir) / "table.json").read_text())


def _trial(settings: Settings, variant: str, seed: int) -> dict[str, Any]:
    return json.loads(Path(_table(settings)["trials"][variant][SEEDS.index(seed)]).read_text())


@pytest.mark.ray
def test_each_world_s_authors_are_asked_about_once(done: Settings, asked: list[int]) -> None:
    authors = {
        seed: sum(
            len(set(_store(done, seed).read("segments", day, ["author_id"])["author_id"].to_pylist()))
            for day in _store(done, seed).days("segments")
        )
        for seed in SEEDS
    }
    assert asked == list(authors.values())


@pytest.mark.ray
def test_each_world_s_anchors_are_of_its_own_lives(done: Settings) -> None:
    """Author ids are the same in all worlds: what is said of them must be this world's truth."""
    for seed in SEEDS:
        own, other = (_store(done, s) for s in (seed, sum(SEEDS) - seed))
        day = own.days("segments")[-1]
        written = agreement.by_author(_store(done, seed, "student").read("anchors", day).to_pylist())
        assert {row["model"] for row in written.values()} == {"student"}
        shares = []
        for world in (own, other):
            truth = agreement.by_author(world.read("oracle_anchors", day).to_pylist())
            shares.append(agreement.agreement(written, truth, written.keys() & truth.keys()))
        assert min(shares[0]["theme"], shares[0]["format"], shares[0]["scene"]) >= 0.9
        assert max(shares[1]["theme"], shares[1]["scene"]) <= 0.5


@pytest.mark.ray
def test_all_else_is_the_world_s_and_its_own_anchors_stay(done: Settings) -> None:
    for seed in SEEDS:
        world, derived = _store(done, seed), _store(done, seed, "student")
        for name in set(contract.TABLES) - {*anchor_sources.DERIVED, "newest_anchors", "newest_anchor_embeddings"}:
            assert derived.days(name) == world.days(name)
            assert all(derived.fingerprint(name, d) == world.fingerprint(name, d) for d in world.days(name))
        day = world.days("anchors")[0]
        assert set(world.read("anchors", day, ["model"])["model"].to_pylist()) == {"oracle"}


@pytest.mark.ray
def test_the_benchmark_stands_beside_the_rows(done: Settings) -> None:
    table = _table(done)
    rows = {row["variant"]: row for row in table["anchors"]}
    assert set(rows) == {"student", "truth"}  # Base reads none
    assert rows["truth"]["agreement_mean"] == rows["truth"]["valid_rate"] == 1.0 and rows["truth"]["model"] is None
    student = rows["student"]
    assert student["model"] == STUDENT.model and [s["seed"] for s in student["seeds"]] == list(SEEDS)
    assert student["agreement_mean"] == pytest.approx(sum(student["agreement"][f] for f in FIELDS) / len(FIELDS))
    assert 0.8 < student["agreement_mean"] < 1 and student["agreement"]["point_of_interest"] < 1
    assert student["seeds"][0]["agreement"] == anchor_sources.score(_store(done, 1, "student"))["agreement"]
    text = (Path(done.run_dir) / "table.md").read_text()
    assert f"| anchors of the student | {100 * student['agreement_mean']:.1f} % |" in table_markdown(table)
    # The table, exposure, over users, ablation, the benchmark, convergence, cost.
    assert text.count("\n| anchors of the student |") == 7


@pytest.mark.ray
def test_only_the_variant_that_reads_them_changes(done: Settings) -> None:
    for seed in SEEDS:
        base, student, truth = (_trial(done, variant, seed) for variant in VARIANTS)
        assert student["plan"] == truth["plan"]
        assert student["metrics"]["click"]["gauc"] != truth["metrics"]["click"]["gauc"]
        assert student["oracle"] == truth["oracle"] == base["oracle"]


@pytest.mark.ray
def test_a_study_that_is_done_asks_the_engine_for_nothing(done: Settings, asked: list[int]) -> None:
    before, table = len(asked), _table(done)
    study.run(done)
    assert len(asked) == before and _table(done) == table


def test_a_missing_model_is_refused_before_a_world_is_made(tmp_path: Path, tiny_store: Path) -> None:
    missing = {"student": AnchorSource(model="runs/nowhere", made_by="python -m pipelines distil --config x.yaml")}
    settings = _settings(tmp_path, tiny_store, anchor_sources=missing)
    with pytest.raises(ConfigError, match="got runs/nowhere; make it first: python -m pipelines distil --config x"):
        study.run(settings)
    assert not Path(settings.storage.root).exists()


def test_a_derived_store_with_days_that_are_gone_is_refused(tiny: Settings, tmp_path: Path) -> None:
    data, derived = Storage.open(tiny.storage.root, oracle=True), Storage.open(str(tmp_path / "derived"))
    anchor_sources.derive(data, derived)
    derived.write("segments", "2027-01-01", [data.read("segments", data.days("segments")[0])])
    with pytest.raises(ContractError, match="got 2027-01-01 too; remove"):
        anchor_sources.derive(data, derived)


def _phrases(author_id: int, theme: str) -> dict[str, Any]:
    return {"author_id": author_id} | {field: [theme if field == "theme" else field] for field in FIELDS}


def test_a_rejected_anchor_is_invalid_and_wrong(tmp_path: Path) -> None:
    """Four authors: two right, one wrong in its theme, one rejected."""
    storage = Storage.open(str(tmp_path), oracle=True)
    extra = {"text": "", "model": "m", "prompt_hash": "", "schema_hash": "", "num_frames": 0, "num_comments": 0}
    for name, rows in (
        ("oracle_anchors", [_phrases(author, "a") for author in range(4)]),
        ("anchors", [_phrases(author, "b" if author == 2 else "a") | extra for author in range(3)]),
    ):
        storage.write(name, DAY, [pa.Table.from_pylist(rows, schema=contract.spec(name).schema)])
    rejections.replace(storage, DAY, anchors.STAGE, [{"key": "3", "reason": "invalid_json", "detail": ""}])
    rejections.replace(storage, DAY, "keyframes", [{"key": "1 x", "reason": "bad_image", "detail": ""}])
    score = anchor_sources.score(storage)
    assert score["author_days"] == 4 and score["valid_rate"] == 0.75
    assert score["agreement"] == {field: 0.5 if field == "theme" else 0.75 for field in FIELDS}
    assert score["agreement_mean"] == pytest.approx((5 * 0.75 + 0.5) / 6)


def test_without_a_known_truth_there_is_no_agreement(tiny: Settings, tmp_path: Path) -> None:
    storage = Storage.open(str(tmp_path / "real"))
    data = Storage.open(tiny.storage.root)
    storage.adopt("anchors", DAY, data)
    stores = {OWN: {1: replace(tiny, storage=replace(tiny.storage, root=storage.url))}}
    (row,) = anchor_sources.benchmark({"sarm": Variant()}, {}, stores)
    assert row["agreement"] is None and row["valid_rate"] == 1.0
    assert "| sarm | n/a | n/a |" in anchor_sources.markdown({"anchors": [row]})
