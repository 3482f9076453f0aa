"""Plain files as tables: what each column becomes, what is refused and why, and a bank published from two of them."""

import csv
import dataclasses
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines import __main__ as door
from pipelines.runtime import config
from pipelines.runtime.config import ConfigError
from pipelines.settings import Settings, read_settings
from pipelines.sources import csv as job
from pipelines.sources.rows import stable_id
from pipelines.tables import rejections
from pipelines.tables.contract import ContractError
from pipelines.tables.storage import Storage
from tests.pipelines.jobs import run_job
from tests.serve.conftest import watcher_of

NOON = 1_769_947_200  # 2026-02-01T12:00:00Z
DAY = 86_400
BEFORE = "2026-01-31"
ITEMS = [
    ["item_id", "title", "text", "genre", "tags"],
    [1, "Late night talk", "Two friends talk | and laugh", "talk", "late night|friends"],
    [2, "Noodle soup", "", "", ""],
    [3, "", "", "food", ""],
]
SHOWN = [
    ["user_id", "item_id", "time", "click", "watched"],
    [7, 1, NOON, 1, 30.5],
    [8, 2, NOON + DAY, 0, 0],
    [7, 3, NOON + DAY + 1, "true", 29],
]


def _file(path: Path, rows: Sequence[Sequence[Any]], delimiter: str = ",") -> str:
    with path.open("w", encoding="utf-8", newline="") as out:
        csv.writer(out, delimiter=delimiter).writerows(rows)
    return str(path)


def _cells(path: Path) -> list[list[str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.reader(file))


def _settings(root: Path, shown_file: str, items_file: str, **more: Any) -> Settings:
    section: dict[str, Any] = {
        "interactions": {
            "file": shown_file,
            "watch_time_s": "watched",
            "labels": {"click": {"column": "click"}, "long_view": {"column": "watched", "least": 30}},
        },
        "items": {
            "file": items_file, "name": "title", "text": {"theme": ["title"], "scene": ["text"]}, "category": "genre",
            "tags": "tags",
        },
    }  # fmt: skip
    places = {"run_dir": str(root / "run"), "storage": {"root": str(root / "store")}}
    return config.build(Settings, places | {"csv": config.merged(section, more)})


def _plain(
    root: Path, shown: Sequence[Sequence[Any]] = SHOWN, texts: Sequence[Sequence[Any]] = ITEMS, **more: Any
) -> Settings:
    """Both files below `root`; `more` changes keys of the section csv."""
    root.mkdir(exist_ok=True)
    return _settings(root, _file(root / "shown.csv", shown), _file(root / "items.csv", texts), **more)


def _rows(settings: Settings, name: str) -> list[dict[str, Any]]:
    storage = Storage.open(settings.storage.root)
    return storage.read_days(name, storage.days(name)).to_pylist()


def _refused(settings: Settings) -> dict[str, str]:
    return {row["key"]: row["detail"] for row in _rows(settings, rejections.TABLE)}


def test_interactions_become_impressions_of_their_days(tmp_path: Path) -> None:
    settings = _plain(tmp_path)
    counts = run_job(job, settings)
    assert counts["days"] == Storage.open(settings.storage.root).days("impressions") == ["2026-02-01", "2026-02-02"]
    first, second, third = _rows(settings, "impressions")
    ids = {"impression_id": 2, "user_id": 7, "author_id": 1, "live_id": 1, "ts_ms": NOON * 1000}
    assert first == ids | {"click": 1, "long_view": 1, "watch_time_s": 30.5}
    assert (second["user_id"], second["click"], second["long_view"]) == (8, 0, 0)
    assert (third["click"], third["long_view"], third["watch_time_s"]) == (1, 0, 29.0), "29 s are no long view"
    assert [row["user_id"] for row in _rows(settings, "users")] == [7, 8] and counts["rejections"] == 0


def test_labels_have_any_name(tmp_path: Path) -> None:
    labels = {"stay": {"column": "watched", "least": 29}, "click": {"column": "click"}}
    settings = _plain(tmp_path)
    own = dataclasses.replace(
        settings.csv.interactions, labels=config.build(job.InteractionsConfig, {"labels": labels}).labels
    )
    settings = dataclasses.replace(settings, csv=dataclasses.replace(settings.csv, interactions=own))
    run_job(job, settings)
    assert [(row["click"], row["stay"]) for row in _rows(settings, "impressions")] == [(1, 1), (0, 0), (1, 1)]
    assert "follow" not in _rows(settings, "impressions")[0]


def test_items_become_authors_and_their_text_anchors_of_the_day_before(tmp_path: Path) -> None:
    settings = _plain(tmp_path)
    run_job(job, settings)
    assert Storage.open(settings.storage.root).days("anchors") == [BEFORE]
    talk, soup = _rows(settings, "anchors")
    assert (talk["theme"], talk["scene"]) == (["Late night talk"], ["Two friends talk", "and laugh"])
    assert (soup["theme"], soup["scene"], soup["model"]) == (["Noodle soup"], [], "csv")
    assert talk["text"].startswith("point of interest: ; theme: Late night talk; topic: ")
    authors = _rows(settings, "authors")
    assert [(a["author_id"], a["profile"], a["category"]) for a in authors] == [
        (1, "Late night talk", "talk"), (2, "Noodle soup", None), (3, "", "food")
    ]  # fmt: skip
    assert authors[0]["tags"] == ["late night", "friends"] and authors[1]["tags"] == []


def test_phrases_beyond_what_a_field_holds_are_counted(tmp_path: Path) -> None:
    settings = _plain(tmp_path, items={"text": {"theme": ["title", "genre"], "topic": ["tags"]}})
    assert run_job(job, settings)["phrases_left_out"] == 1
    assert _rows(settings, "anchors")[0]["theme"] == ["Late night talk"]
    whole = _plain(tmp_path, items={"separator": "", "text": {"scene": ["text"]}, "tags": ""})
    run_job(job, whole)
    assert _rows(whole, "anchors")[0]["scene"] == ["Two friends talk | and laugh"]


@pytest.mark.parametrize(
    ("unit", "times"),
    [
        ("ms", [NOON * 1000, NOON * 1000 + 500]),
        ("s", [NOON, NOON + 0.5]),
        ("iso", ["2026-02-01T12:00:00", "2026-02-01 14:00:00.500+02:00"]),
    ],
)
def test_times_come_in_three_units(tmp_path: Path, unit: str, times: list[Any]) -> None:
    shown = [SHOWN[0], *([7, 1, time, 1, 0] for time in times)]
    settings = _plain(tmp_path, shown, interactions={"time_unit": unit})
    run_job(job, settings)
    assert [row["ts_ms"] for row in _rows(settings, "impressions")] == [NOON * 1000, NOON * 1000 + 500]


@pytest.mark.parametrize(("unit", "time"), [("ms", NOON), ("s", NOON * 1000), ("iso", NOON)])
def test_another_unit_than_stated_refuses_every_row_and_says_so(tmp_path: Path, unit: str, time: int) -> None:
    settings = _plain(tmp_path, [SHOWN[0], [7, 1, time, 1, 0]], interactions={"time_unit": unit})
    with pytest.raises(ContractError, match=rf"(?s)no row can be used.*time_unit: {unit}"):
        run_job(job, settings)


BAD = {
    (7, 1, "yesterday", 1, 0): "column time: wanted seconds since 1970",
    ("", 1, NOON, 1, 0): "column user_id: wanted an integer id (or csv.ids: text), got nothing",
    ("ann", 1, NOON, 1, 0): "column user_id: wanted an integer id (or csv.ids: text), got 'ann'",
    (7, 9, NOON, 1, 0): "column item_id: wanted an item of items.csv (add it there), got '9'",
    (7, 1, NOON, "maybe", 0): "column click: wanted a number, got 'maybe'",
    (7, 1, NOON, "", 0): "column click: wanted a number, got nothing",
    (7, 1, NOON, 1, -1): "column watched: wanted seconds watched, 0 or more, got '-1'",
    (7, 1, NOON, 1, "1e999"): "column watched: wanted a number, got '1e999'",
    (7, 1): "wanted 5 cells as in the header",
}


def test_bad_rows_are_refused_one_by_one_and_the_rest_goes_on(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    shown = [*SHOWN[:2], *BAD, *SHOWN[2:]]
    settings = _plain(tmp_path, shown)
    counts = run_job(job, settings)
    assert counts["impressions"] == 3 and counts["rejections"] == len(BAD)
    refused = _refused(settings)
    for number, wanted in enumerate(BAD.values(), 3):  # as a spreadsheet counts: the header is row 1
        detail = refused[f"shown.csv row {number}"]
        assert wanted in detail and detail.startswith(f"shown.csv, row {number}, ")
        assert "correct it and run the job csv again" in detail
    logged = [record.message for record in caplog.records if record.levelname == "WARNING"]
    assert sorted(line[:10] for line in logged) == 5 * ["csv | 1 ro"] + 2 * ["csv | 2 ro"], "one line for each kind"
    assert [row["impression_id"] for row in _rows(settings, "impressions")] == [2, 12, 13]


def test_a_cell_over_two_lines_is_one_row(tmp_path: Path) -> None:
    items = [*ITEMS[:2], [2, "Noodle\nsoup", "", "", ""], ["x", "bad", "", "", ""], ITEMS[3]]
    settings = _plain(tmp_path, texts=items)
    run_job(job, settings)
    assert _rows(settings, "anchors")[1]["theme"] == ["Noodle soup"]
    assert _refused(settings).keys() == {"items.csv row 4"}


def test_an_id_that_stands_twice_is_refused_and_the_first_kept(tmp_path: Path) -> None:
    settings = _plain(tmp_path, texts=[*ITEMS, [1, "Another", "", "", ""]])
    run_job(job, settings)
    assert [a["profile"] for a in _rows(settings, "authors")] == ["Late night talk", "Noodle soup", ""]
    assert "column item_id: wanted an id that no row above has, got '1'" in _refused(settings)["items.csv row 5"]


def test_corrected_files_replace_all_that_a_run_before_wrote(tmp_path: Path) -> None:
    settings = _plain(tmp_path, [*SHOWN, [7, 1, NOON - 9 * DAY, 1, 0], [7, 1, "never", 1, 0]])
    run_job(job, settings)
    assert Storage.open(settings.storage.root).days("rejections") == ["2026-01-22"]
    run_job(job, _plain(tmp_path))
    storage = Storage.open(settings.storage.root)
    assert storage.days("impressions") == ["2026-02-01", "2026-02-02"]
    assert storage.days("anchors") == storage.days("authors") == storage.days("users") == [BEFORE]
    assert storage.days("rejections") == []


def test_a_file_that_was_cut_replaces_nothing(tmp_path: Path) -> None:
    run_job(job, _plain(tmp_path))
    before = _rows(_plain(tmp_path), "impressions")
    cut = _plain(tmp_path, SHOWN[:2])
    with pytest.raises(ContractError, match=r"wanted at least 50% of the 3 rows there .*--set csv.replace=true"):
        run_job(job, cut)
    assert _rows(cut, "impressions") == before
    run_job(job, _plain(tmp_path, SHOWN[:2], replace=True))
    assert len(_rows(cut, "impressions")) == 1


def test_days_of_other_jobs_stay(tmp_path: Path) -> None:
    settings = _plain(tmp_path)
    run_job(job, settings)
    storage = Storage.open(settings.storage.root)
    storage.write("anchors", "2026-02-02", [storage.read("anchors", BEFORE)])
    rejections.replace(storage, BEFORE, "ingest", [{"key": "a", "reason": "bad_row", "detail": ""}])
    run_job(job, settings)
    assert storage.days("anchors") == [BEFORE, "2026-02-02"]
    assert rejections.of_stage(storage, BEFORE, "ingest").num_rows == 1


def test_ids_of_any_text_get_numbers_that_are_listed(tmp_path: Path) -> None:
    shown = [SHOWN[0], ["ann", "a1", NOON, 1, 0], ["Bob", "b 2", NOON + 1, 0, 0], ["", "a1", NOON, 1, 0]]
    items = [ITEMS[0], ["a1", "Talk", "", "", ""], ["b 2", "Soup", "", "", ""]]
    settings = _plain(tmp_path, shown, items, ids="text")
    assert run_job(job, settings)["rejections"] == 1
    assert [row["user_id"] for row in _rows(settings, "impressions")] == [stable_id("ann"), stable_id("Bob")]
    for name, texts in (("items", ["a1", "b 2"]), ("users", ["Bob", "ann"])):
        listed = _cells(tmp_path / "run" / "ids" / f"{name}.csv")
        assert listed == [["id", "text"], *([str(stable_id(text)), text] for text in texts)]


def test_other_delimiters_than_commas(tmp_path: Path) -> None:
    files = [_file(tmp_path / f"{name}.tsv", rows, "\t") for name, rows in (("shown", SHOWN), ("items", ITEMS))]
    assert run_job(job, _settings(tmp_path, *files, delimiter="\t"))["impressions"] == 3


def test_users_may_have_profiles(tmp_path: Path) -> None:
    people = [["who", "age", "sex"], [8, "30-39", "f"], [9, "18-29", ""], [8, "0", "m"]]
    users = {"file": _file(tmp_path / "people.csv", people), "user": "who"}
    settings = _plain(tmp_path, users=users | {"profile": {"age_band": "age", "gender": "sex"}})
    counts = run_job(job, settings)
    assert counts["profile_codes"] == {"age_band": ["18-29", "30-39"], "gender": ["f"]}
    rows = [(u["user_id"], u["age_band"], u["gender"], u["region"]) for u in _rows(settings, "users")]
    assert rows == [(7, -1, -1, -1), (8, 1, 0, -1), (9, 0, -1, -1)]
    assert "people.csv row 4" in _refused(settings)


def test_parquet_gives_the_same_tables(tmp_path: Path) -> None:
    plain = _plain(tmp_path / "a")
    shown = pa.table(
        {
            "user_id": [7, 8, 7],
            "item_id": pa.array([1, 2, 3], pa.int32()),
            "time": pa.array([NOON, NOON + DAY, NOON + DAY + 1], pa.timestamp("s")),
            "click": [True, False, True],
            "watched": [30.5, 0.0, 29.0],
        }
    )
    items = pa.table(
        {
            "item_id": [1, 2, 3],
            "title": ["Late night talk", "Noodle soup", None],
            "text": [["Two friends talk", "and laugh"], [], None],
            "genre": ["talk", None, "food"],
            "tags": [["late night", "friends"], None, []],
        }
    )
    (tmp_path / "b").mkdir()
    files = [tmp_path / "b" / "shown.parquet", tmp_path / "b" / "items.parquet"]
    for file, table in zip(files, (shown, items), strict=True):
        pq.write_table(table, file)
    parquet = _settings(tmp_path / "b", *map(str, files), interactions={"time_unit": "iso"})
    run_job(job, plain)
    run_job(job, parquet)
    for name in ("authors", "anchors", "users", "impressions"):
        rows = _rows(plain, name)
        if name == "impressions":  # whose ids are rows of the file, and a Parquet file has no header
            rows = [row | {"impression_id": row["impression_id"] - 1} for row in rows]
        assert _rows(parquet, name) == rows


def test_what_cannot_be_used_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"csv.items.file: wanted a CSV or Parquet file, got 'nowhere.csv'"):
        run_job(job, _plain(tmp_path, items={"file": "nowhere.csv"}))
    with pytest.raises(ContractError, match=r"wanted column\(s\) clicked, got user_id, item_id, time, click, watched"):
        run_job(job, _plain(tmp_path, interactions={"labels": {"click": {"column": "clicked"}}}))
    with pytest.raises(ContractError, match=r"wanted column\(s\) user_id,item_id"):
        run_job(job, _plain(tmp_path, interactions={"user": "user_id,item_id"}))
    (tmp_path / "latin.csv").write_bytes("item_id,title,text,genre,tags\n1,Caf\xe9,,,\n".encode("latin-1"))
    with pytest.raises(ContractError, match="write it as UTF-8 CSV with a header, or as Parquet"):
        run_job(job, _plain(tmp_path, items={"file": str(tmp_path / "latin.csv")}))
    with pytest.raises(ContractError, match="the file has no rows"):
        run_job(job, _plain(tmp_path, SHOWN[:1]))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"ids": "uuid"}, "ids: wanted one of integer, text"),
        ({"delimiter": ";;"}, "delimiter: wanted one character"),
        ({"interactions": {"time_unit": "h"}}, "time_unit: wanted one of s, ms, iso"),
        ({"interactions": {"labels": {"like": {"column": "like"}}}}, "labels: wanted click and others"),
        (
            {"interactions": {"labels": {"click": {"column": "c"}, "live_id": {"column": "c"}}}},
            "none called like another",
        ),
        ({"items": {"text": {"title": ["title"]}}}, "text: wanted columns for some of point_of_interest"),
        ({"items": {"text": {}}}, "text: wanted columns for some of"),
        ({"users": {"profile": {"age": "age"}}}, "profile: wanted some of age_band"),
    ],
)
def test_wrong_sections_are_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        config.build(Settings, {"csv": wrong})


PAGE = Path(__file__).resolve().parents[3] / "docs" / "data.md"
QUICKLY = "--set=train.base=false"


@pytest.mark.ray
def test_the_page_leads_from_two_files_to_a_published_bank(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ray_cluster: None
) -> None:
    """What docs/data.md says, word by word: its files, its configuration, its commands up to the one that serves."""
    page = PAGE.read_text(encoding="utf-8")
    ((script,), (mine,)) = (re.findall(rf"```{kind}\n(.*?)```", page, re.DOTALL) for kind in ("python", "yaml"))
    commands = re.findall(r"^    \.venv/bin/python -m pipelines (\w+) --config my.yaml$", page, re.MULTILINE)
    assert commands == ["csv", "base_tokenizer", "validate", "daily", "serve"]
    monkeypatch.chdir(tmp_path)
    exec(compile(script, str(PAGE), "exec"), {})
    Path("my.yaml").write_text(mine)
    for word in (*commands[:-1], "validate"):
        assert door.main([word, "--config", "my.yaml", QUICKLY]) == 0, word
    figures = {word: json.loads(Path(f"runs/mine/{word}.json").read_text()) for word in commands[:-1]}
    assert figures["csv"]["impressions"] == 6000 and figures["csv"]["rejections"] == 4
    assert figures["daily"]["anchors"] == {"how": "brought"} and figures["daily"]["vocabulary"]["merges"] > 0
    assert figures["validate"]["validate/warnings"] == []
    assert list(figures["daily"]["evaluate"]["metrics"]["sarm"]) == ["click", "long_view"]
    published = figures["daily"]["publish"]
    assert (published["authors_with_anchor"], published["users_with_history"]) == (200, 299)
    assert figures["daily"]["evaluate"]["metrics"]["sarm"]["click"]["auc"] > 0.55, "taste for topics is there to learn"
    assert watcher_of(tmp_path / "runs" / "mine" / "store").current.version == published["run_id"]


def test_the_file_to_copy_has_every_key_of_the_section_that_the_page_names() -> None:
    ships = read_settings(PAGE.parents[1] / "pipelines" / "configs" / "csv.yaml")
    assert (ships.csv.interactions.file, ships.csv.items.file, ships.csv.users.file) == (
        "interactions.csv", "items.csv", ""
    )  # fmt: skip
    text = (PAGE.parents[1] / "pipelines" / "configs" / "csv.yaml").read_text(encoding="utf-8")
    for section in (ships.csv, ships.csv.interactions, ships.csv.items, ships.csv.users):
        assert not [key for key in dataclasses.asdict(section) if f"{key}:" not in text]
