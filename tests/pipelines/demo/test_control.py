"""The control of the demo's anchors: another author's frames, in a store of its own."""

from collections.abc import Iterator

import pytest

from pipelines.demo import control
from pipelines.demo.config import DemoConfig
from pipelines.pages import report_json
from pipelines.semantics import agreement, author_day
from pipelines.settings import Settings
from pipelines.tables.storage import Storage, StorageConfig
from pipelines.world import world
from pipelines.world.config import WorldConfig
from tests.pipelines.jobs import run_job

COUNT = 40
DAY = "2026-01-02"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """A world of two days."""
    root = tmp_path_factory.mktemp("control")
    settings = Settings(
        seed=21,
        run_dir=str(root / "run"),
        storage=StorageConfig(root=str(root / "store")),
        world=WorldConfig(num_days=2, num_authors=90, num_users=10, impressions_per_day=20, impressions=False),
    )
    run_job(world, settings)
    return settings


def test_each_author_has_the_frames_of_the_next_and_keeps_all_else(made: Settings) -> None:
    storage = Storage.open(made.storage.root)
    derived = control.store_of(storage)
    assert control.derive(storage, derived, made.seed, COUNT) == DAY
    other = control.swaps(storage, DAY, made.seed, COUNT)
    assert len(other) >= 20 and sorted(other) == sorted(other.values()) and all(a != b for a, b in other.items())
    real, swapped = (dict(author_day.stream(store, DAY)) for store in (storage, derived))
    assert sorted(swapped) == sorted(other)
    for author, rows in swapped.items():
        frames = [row["frames"] for row in real[other[author]]]
        assert [row["frames"] for row in rows] == [frames[i % len(frames)] for i in range(len(rows))]
        assert [row | {"frames": []} for row in rows] == [row | {"frames": []} for row in real[author]]


def test_profiles_are_those_of_the_authors(made: Settings) -> None:
    storage = Storage.open(made.storage.root)
    derived = control.store_of(storage)
    control.derive(storage, derived, made.seed, COUNT)
    assert [derived.read("authors", d) for d in derived.days("authors")] == [
        storage.read("authors", d) for d in storage.days("authors")
    ]


def test_what_is_derived_already_is_left_alone(made: Settings) -> None:
    storage = Storage.open(made.storage.root)
    derived = control.store_of(storage)
    control.derive(storage, derived, made.seed, COUNT)
    before = derived.commit_of("segments", DAY)
    control.derive(storage, derived, made.seed, COUNT)
    assert derived.commit_of("segments", DAY) == before
    control.derive(storage, derived, made.seed + 1, COUNT)
    assert derived.commit_of("segments", DAY) != before


def test_frames_of_one_author_cannot_be_swapped() -> None:
    with pytest.raises(ValueError, match="wanted 0, or at least 2 authors"):
        DemoConfig(swapped_frames=1)


@pytest.fixture(scope="module")
def done(made: Settings, ray_cluster: None) -> Iterator[Settings]:
    control.run(made.anchors, made.open(), COUNT)
    yield made


@pytest.mark.ray
def test_with_swapped_frames_scene_and_format_are_the_other_author_s(done: Settings) -> None:
    """What is in the pixels follows the frames; what is said does not."""
    storage = Storage.open(done.storage.root, oracle=True)
    truth = agreement.by_author(storage.read("oracle_anchors", DAY).to_pylist())
    written = agreement.by_author(control.store_of(storage).read("anchors", DAY).to_pylist())
    other = control.swaps(storage, DAY, done.seed, COUNT)
    own = agreement.agreement(written, truth, written)
    shown = agreement.agreement(written, {author: truth[other[author]] for author in written})
    assert len(written) >= 20
    assert min(shown["scene"], shown["format"], own["theme"]) >= 0.85
    assert own["scene"] <= 0.4 and own["format"] <= 0.5


@pytest.mark.ray
def test_the_demo_s_own_tables_and_report_know_nothing_of_it(done: Settings) -> None:
    assert Storage.open(done.storage.root).days("anchors") == []
    assert "anchors" not in report_json.read(done.run_dir)
    assert report_json.read(f"{done.run_dir}/{control.FOLDER}")["anchors"]["days_done"] == 1
