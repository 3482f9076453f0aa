"""A study of retrieval over a small platform: every row is trained once and measured, rows with codes read those of the
row that they name, and the table and page say it."""

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from models.artifacts.codebook import Codebook
from models.artifacts.towers import Towers
from pipelines.retrieval.recall import RecallConfig
from pipelines.runtime.config import to_dict
from pipelines.semantics.codes import CodesConfig
from pipelines.settings import Settings
from pipelines.studies import stores, trials
from pipelines.studies.config import StudyConfig, TowersRow
from pipelines.studies.retrieval import rows, study, table
from pipelines.studies.retrieval.neighbours import neighbours
from pipelines.studies.retrieval.report import render
from pipelines.tables.artifacts import Artifacts
from pipelines.tables.storage import Storage, StorageConfig
from tests.pipelines.retrieval import little_platform
from tests.pipelines.retrieval.little_platform import DAYS, little, theme_of

SEEDS = (1, 2)


def row(label: str, parts: str, codes_of: str | None = None) -> TowersRow:
    config = little(epochs=4, codes=None if codes_of is None else "item_codes")
    return TowersRow(label=label, codes_of=codes_of, towers=replace(config, model=replace(config.model, parts=parts)))


ROWS = {"id": row("Two-Tower", "id"), "gated": row("gated", "gated"), "coded": row("codes", "gated", "gated")}


def tell_the_truth(storage: Storage) -> None:
    """What every segment shows."""
    for number, day in enumerate(DAYS[:3]):
        told = []
        for of in little_platform.segments(number):
            theme = theme_of(of["author_id"], of["segment"])
            where = {name: of[name] for name in ("author_id", "live_id", "segment")}
            told.append(
                where | {"act": theme, "theme": f"t{theme}", "category": f"c{theme % 2}", "scene": "", "intensity": 0}
            )
        data = little_platform.table("oracle_segments", told)
        storage.write("oracle_segments", day, [data])


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    folder = tmp_path_factory.mktemp("study")
    for seed in SEEDS:
        run = little_platform.write(folder / "given" / str(seed))
        tell_the_truth(Storage.open(run.storage.url, oracle=True))
    given = str(folder / "given" / "{seed}" / "store")
    return Settings(
        seed=1, run_dir=str(folder / "run"), storage=StorageConfig(root=str(folder / "made")),
        codes=CodesConfig(clusters=(6, 4), sample=2000), recall=RecallConfig(ks=(1, 3)),
        study=StudyConfig(name="little", seeds=2, reference="id", towers=ROWS, stores=given),
    )  # fmt: skip


@pytest.fixture(autouse=True)
def here(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Without Ray; what was run."""
    done: list[Any] = []

    def one_by_one(
        work: Callable[..., Any], arguments: Mapping[Any, tuple[Any, ...]], limit: object, max_calls: int = 0
    ) -> Iterator[Any]:
        for key, given in arguments.items():
            done.append(work)
            yield key, work(*given)

    for module in (stores, rows, trials):
        monkeypatch.setattr(module, "side_by_side", one_by_one)
    monkeypatch.setattr(study, "connected", lambda _: nullcontext())
    return done


def test_rows_are_trained_once_measured_and_told(settings: Settings, here: list[Any]) -> None:
    Path(settings.run_dir).mkdir(parents=True)
    assert study.run(settings)["trials"] == 6
    told = json.loads((Path(settings.run_dir) / "table.json").read_text())
    assert [of["row"] for of in told["rows"]] == [name for name in ROWS for _ in range(8)]
    cells = {(of["row"], of["search"], of["k"]): of for of in told["rows"]}
    assert cells["gated", "on_air", 3]["mean"] > cells["id", "on_air", 3]["mean"]
    gated, plain = (np.array(cells[name, "on_air", 3]["seeds"]) for name in ("gated", "id"))
    assert cells["gated", "on_air", 3]["delta"] == pytest.approx((gated - plain).mean())
    assert told["training"]["id"]["gate"] == 0.0 < told["training"]["gated"]["gate"] < 1.0
    near = {(of["row"], of["label"]): of for of in told["neighbours"]}
    assert near["gated", "theme"]["mean"] > near["id", "theme"]["mean"]
    assert {(of["table"], of["level"]) for of in told["purity"]} == {
        (name, level) for name in ("segment_codes", "item_codes") for level in (1, 2)
    }
    assert all(of["purity"] > of["chance"] for of in told["purity"])
    # Rows with codes have read those of the vectors of the row that they name.
    coded = Storage.open(f"{settings.storage.root}/seed-1-gated-1")
    book = Codebook.load(Artifacts(coded).fetch("codebook.items"))
    assert book.model == Path(told["trials"]["gated"][0]).stem
    towers = Towers.load(rows.towers_of(Path(told["trials"]["coded"][0])))
    assert towers.codebook == Artifacts(coded).current("codebook.items")
    # Nothing is done twice.
    here.clear()
    before = (Path(settings.run_dir) / "table.json").read_text()
    study.run(settings)
    assert rows.run_trial not in here and (Path(settings.run_dir) / "table.json").read_text() == before


def test_table_and_page_for_people(settings: Settings) -> None:
    told = json.loads((Path(settings.run_dir) / "table.json").read_text())
    text = table.markdown(told)
    assert "| Two-Tower | " in text and "@3 cold, overall" in text and "(chance" in text
    page = render(told, to_dict(settings))
    assert page == render(told, to_dict(settings)) and "The platform is simulated" in page
    assert all(f'id="{part}"' in page for part in ("quality", "gate", "neighbours", "codes")) and "nan" not in page


def test_neighbours_of_two_kinds_that_are_mixed() -> None:
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(400, 8)).astype(np.float32)
    found = neighbours(vectors, {"kind": np.arange(400) % 4})["kind"]
    assert found["chance"] == pytest.approx(99 / 399) and abs(found["share"] - found["chance"]) < 0.03
    with pytest.raises(ValueError, match="more than 10 authors, got 10"):
        neighbours(vectors[:10], {})


@pytest.mark.parametrize(
    ("towers", "error"),
    [
        ({"gated": ROWS["gated"]}, "wanted the reference 'id' among them"),
        ({"id": ROWS["id"], "coded": ROWS["coded"]}, "towers.coded: wanted codes_of to be null, or one of id"),
        ({"id": replace(ROWS["id"], codes_of="id")}, "with towers.codes item_codes"),
    ],
)
def test_rows_that_do_not_fit(towers: dict[str, TowersRow], error: str) -> None:
    with pytest.raises(ValueError, match=error):
        StudyConfig(reference="id", towers=towers)


def test_the_truth_is_not_needed(settings: Settings) -> None:
    told = json.loads((Path(settings.run_dir) / "table.json").read_text())
    page = render(told | {"neighbours": [], "purity": []}, None)
    assert "The platform is simulated" not in page and 'id="codes"' not in page and 'id="gate"' in page
