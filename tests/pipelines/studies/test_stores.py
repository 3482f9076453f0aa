"""Stores of a study that are there already: linked, coded, with examples of its own, and trained on."""

import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipelines.retrieval.towers_plan import TowersConfig, make_plan
from pipelines.runtime.config import ConfigError
from pipelines.runtime.run import Run
from pipelines.semantics.codes import CodesConfig
from pipelines.settings import Settings
from pipelines.studies import stores
from pipelines.studies.config import StudyConfig, Variant
from pipelines.studies.trial import run_trial
from pipelines.studies.trials import plan_trial
from pipelines.tables.artifacts import Artifacts
from pipelines.tables.contract import ContractError
from pipelines.tables.fingerprint import digest
from pipelines.tables.storage import Storage
from tests.pipelines.conftest import tiny_settings, tiny_train
from tests.pipelines.retrieval.little_platform import little, trained
from tests.pipelines.samples.screens import code_the_lives
from tests.pipelines.semantics.embedded import row, write

VARIANTS = {"base": Variant(train=tiny_train(())), "llm_codes": Variant(train=tiny_train(("sarm", "llm_codes")))}


def embed_the_lives(storage: Storage) -> None:
    """Vectors that say the theme of a live, at the moments at which `code_the_lives` has codes."""
    code_the_lives(storage, (2,))
    rng = np.random.default_rng(0)
    for day in storage.days("segment_codes"):
        segments = storage.read("segment_codes", day).to_pylist()
        own = ("author_id", "live_id", "segment", "end_ts_ms")
        vectors = [row(0, 0, rng.normal(size=8) + 3 * (of["live_id"] % 5)) | {k: of[k] for k in own} for of in segments]
        write(storage, day, vectors)
        storage.filesystem.delete_dir(storage.folder("segment_codes", day))


@pytest.fixture
def settings(tiny_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """One seed, whose world and vectors are there."""

    def here(work: Callable[..., Any], arguments: Mapping[int, tuple[Any, ...]], limit: object) -> Iterator[Any]:
        return ((key, work(*given)) for key, given in arguments.items())

    monkeypatch.setattr(stores, "side_by_side", here)
    shutil.copytree(tiny_store / "store", tmp_path / "given" / "1")
    embed_the_lives(Storage.open(str(tmp_path / "given" / "1")))
    tiny = tiny_settings(tmp_path / "study")
    vocabulary = replace(tiny.vocabulary, base_tokenizer=str(tiny_store / "tokenizer.json"))
    study = StudyConfig(name="tiny", seeds=1, variants=VARIANTS, stores=str(tmp_path / "given" / "{seed}"))
    codes = CodesConfig(clusters=(5, 3), sample=2000)
    return replace(tiny, vocabulary=vocabulary, study=study, codes=codes)


def files(folder: Path) -> dict[str, int]:
    return {str(file.relative_to(folder)): file.stat().st_size for file in folder.rglob("*") if file.is_file()}


def test_tables_that_are_there_are_linked_coded_and_trained_on(settings: Settings, tmp_path: Path) -> None:
    given = tmp_path / "given" / "1"
    before = files(given)
    (store,) = stores.prepare(settings, [1]).values()
    assert files(given) == before, "the store that was given is as it was"
    storage = store.open().storage
    assert storage.root.endswith("seed-1") and store.examples.codes == ("segment_codes",)
    commit = storage.commit_of("examples", "2026-01-03")
    assert commit is not None and commit.made_from["segment_codes/codebook"]
    stamps = {day: storage.fingerprint("examples", day) for day in storage.days("examples")}
    again = stores.prepare(settings, [1])[1].open().storage
    assert {day: again.fingerprint("examples", day) for day in again.days("examples")} == stamps
    keys = {name: plan_trial(store, of, "code").key for name, of in VARIANTS.items()}
    assert len(set(keys.values())) == 2
    record, arrays = run_trial(store, VARIANTS["llm_codes"])
    assert record["kind"] == "sarm+llm_codes" and np.isfinite(arrays["scores"]).all()
    assert {"llm_codes: author", "llm_codes: user"} <= {row["part"] for row in record["ablation"]}
    assert record["buckets"] and all("gauc" in bucket["model"] for bucket in record["buckets"])


def test_item_codes_come_from_towers_beside_that_see_no_codes(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs: list[str] = []

    def without_ray(config: TowersConfig, run: Run) -> dict[str, Any]:
        runs.append(run.storage.url)
        _, made_from = make_plan(config, run)
        run_id = f"t-{digest(made_from)}"
        if Artifacts(run.storage).current("towers") != run_id:
            _, folders = trained(run, config, tmp_path / f"towers-{len(runs)}")
            Artifacts(run.storage).publish("towers", folders[-1], run_id, made_from)
        return {"run_id": run_id}

    monkeypatch.setattr(stores.towers, "run", without_ray)
    variants = {"base": VARIANTS["base"], "larm_codes": Variant(train=tiny_train(("larm_codes",)))}
    larm = replace(settings, study=replace(settings.study, variants=variants), towers=little(epochs=1))
    (store,) = stores.prepare(larm, [1]).values()
    storage = store.open().storage
    assert store.examples.codes == ("item_codes",) and not storage.days("segment_codes")
    beside = Storage.open(f"{storage.url}-towers")
    assert runs == [beside.url] and "item_codes" not in beside.dataset("examples", "2026-01-03").schema.names
    commit = storage.commit_of("examples", "2026-01-03")
    current = Artifacts(storage).current("codebook.items")
    assert commit is not None and commit.made_from["item_codes/codebook"] == current
    assert current == Artifacts(beside).current("codebook.items")
    key = plan_trial(store, variants["larm_codes"], "code").key
    record, _ = run_trial(store, variants["larm_codes"])
    assert record["kind"] == "larm_codes"
    (again,) = stores.prepare(larm, [1]).values()
    assert plan_trial(again, variants["larm_codes"], "code").key == key, "a study that is run again goes on"
    assert len(list(tmp_path.glob("towers-*"))) == 1


def test_a_study_that_reads_no_codes_makes_none(settings: Settings) -> None:
    plain = replace(settings, study=replace(settings.study, variants={"base": VARIANTS["base"]}))
    (store,) = stores.prepare(plain, [1]).values()
    assert store.examples.codes == () and not store.open().storage.days("segment_codes")


def test_vectors_that_came_without_segments_are_coded_as_they_are(settings: Settings, tmp_path: Path) -> None:
    """As KuaiLive-M3's: nothing can be embedded, and no row reads words, so no base tokenizer is asked for."""
    root = tmp_path / "given" / "1"
    shutil.rmtree(root / "tables" / "segments")
    variants = {"base": VARIANTS["base"], "llm_codes": Variant(train=tiny_train(("llm_codes",)))}
    there = replace(
        settings,
        storage=replace(settings.storage, root=str(root)),
        vocabulary=replace(settings.vocabulary, base_tokenizer=""),
        study=StudyConfig(name="tiny", seeds=2, data="store", variants=variants),
    )
    storage = Storage.open(str(root))
    given = {day: storage.fingerprint("segment_embeddings", day) for day in storage.days("segment_embeddings")}
    made = stores.prepare(there, [1, 2])
    assert {day: storage.fingerprint("segment_embeddings", day) for day in given} == given
    assert [of.storage.root for of in made.values()] == [str(root)] * 2 and storage.days("segment_codes") == [*given]
    assert run_trial(made[2], variants["llm_codes"])[0]["kind"] == "llm_codes"
    shutil.rmtree(root / "tables" / "segment_embeddings")
    with pytest.raises(ContractError, match="table segments: wanted at least one day"):
        stores.prepare(there, [1, 2])


def test_a_store_that_is_not_there_is_told(settings: Settings, tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"config.study.stores: wanted a store with impressions of seed 7, got .*given/7"
    ):
        stores.prepare(settings, [7])
    empty = StudyConfig(name="tiny", data="store", variants=VARIANTS)
    with pytest.raises(ConfigError, match=r"config.storage.root: wanted a store with impressions.*kuailive"):
        stores.prepare(replace(settings, study=empty), [1])
    with pytest.raises(ValueError, match="stores: wanted a place with {seed} in it"):
        replace(settings.study, stores=str(tmp_path))
