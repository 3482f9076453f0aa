"""A study over two tiny worlds: trials, their cache, and the table that they make."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipelines.ranking import evaluate
from pipelines.samples.batches import read_examples
from pipelines.settings import Settings, read_settings
from pipelines.studies import study
from pipelines.studies.config import StudyConfig, Variant
from pipelines.studies.table import METRICS, build_table, paired_interval, table_markdown
from pipelines.studies.trials import scores_of
from pipelines.tables.contract import TASKS_COLUMNS
from pipelines.tables.storage import Storage
from tests.pipelines.conftest import tiny_settings, tiny_train
from tests.pipelines.pages import Page

VARIANTS = {
    "base": Variant(label="Base", train=tiny_train(())),
    **{name: Variant(train=tiny_train((name,))) for name in ("tags", "sids", "mllm_target", "mllm_history")},
    "sae": Variant(train=tiny_train(representations=["cls", "tar"], aux_weight=0.0)),
    "sarm": Variant(label="SARM", train=tiny_train()),
}
REFERENCES = ("regression", "dcn", "oracle")
SHARED = ("simulated", "platform", "live")
"""What the studies start from, which are none themselves."""
SHIPPED = sorted(file for file in Path("pipelines/configs/studies").glob("*.yaml") if file.stem not in SHARED)


def _settings(root: Path, tiny_store: Path, **changes: Any) -> Settings:
    settings = tiny_settings(root)
    config = StudyConfig(
        name="tiny", seeds=2, variants=VARIANTS, paper={"sarm": {"click": [0.24, 0.32]}}, references=REFERENCES
    )
    vocabulary = replace(settings.vocabulary, base_tokenizer=str(tiny_store / "tokenizer.json"))
    return replace(settings, study=replace(config, **changes), vocabulary=vocabulary)


@pytest.fixture(scope="module")
def done(tiny_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    settings = _settings(tmp_path_factory.mktemp("study"), tiny_store)
    study.run(settings)
    return settings


def _table(settings: Settings) -> dict[str, Any]:
    return json.loads((Path(settings.run_dir) / "table.json").read_text())


def _trials(settings: Settings, variant: str) -> list[dict[str, Any]]:
    return [json.loads(Path(file).read_text()) for file in _table(settings)["trials"][variant]]


def test_every_variant_has_a_row_of_every_task_and_metric(done: Settings) -> None:
    table = _table(done)
    assert table["study"] == "tiny" and table["seeds"] == [1, 2] and table["data"] == "simulated world"
    found = {(row["variant"], row["task"], row["metric"]) for row in table["rows"]}
    wanted = {(v, t, m) for v in [*VARIANTS, *REFERENCES] for t in TASKS_COLUMNS for m in METRICS}
    assert found == wanted
    assert all(row["delta"] == 0 for row in table["rows"] if row["variant"] == "base")
    assert {row["variant"] for row in table["rows"] if not row.get("trained", True)} == set(REFERENCES)
    rows_of_all = (Path(done.run_dir) / "table.md").read_text().count("\n| ")
    # The table with all rows; over users without the reference; cost without the oracle; ablation, exposure and losses.
    assert rows_of_all == 6 + 6 * len(VARIANTS) + 3 + (2 - 1) + 2


def test_each_world_has_an_interval_over_its_users_beside_the_one_over_worlds(done: Settings) -> None:
    table = _table(done)
    assert table["interval_over"] == "worlds"
    found = {(row["variant"], row["task"], row["metric"], *row["seeds"]): row for row in table["users"]}
    others = [name for name in [*VARIANTS, *REFERENCES] if name not in ("base", "oracle")]
    metrics = ("gauc", "gauc_redrawn")
    assert set(found) == {(v, t, m, s) for v in others for t in TASKS_COLUMNS for m in metrics for s in (1, 2)}
    for metric in metrics:
        rows = [found["sarm", "click", metric, seed] for seed in (1, 2)]
        (main,) = [r for r in table["rows"] if (r["variant"], r["task"], r["metric"]) == ("sarm", "click", metric)]
        assert sum(row["delta"] for row in rows) / 2 == pytest.approx(main["delta"])
        assert all(row["ci_low"] < row["delta"] < row["ci_high"] for row in rows)


def test_each_part_s_loss_is_in_the_record_and_in_the_tables(done: Settings) -> None:
    own = ["sarm: [CLS]", "sarm: [TAR]", "sarm: [UIN]"]
    of_base = ["user id", "author id", "profile", "history"]
    for variant, parts in (("sarm", own), ("sae", own[:2]), ("tags", ["tags: author"]), ("base", [])):
        trials = _trials(done, variant)
        assert [row["part"] for row in trials[0]["ablation"]] == [*parts, *of_base]
        rows = [row for row in _table(done)["ablation"] if row["variant"] == variant]
        for row, *seeds in zip(rows, *(trial["ablation"] for trial in trials), strict=True):
            assert row["loss"] == pytest.approx(sum(part["loss"] for part in seeds) / 2)
            assert row["ci_low"] == min(part["ci_low"] for part in seeds) <= row["loss"] <= row["ci_high"]
            assert row["metric"] == "gauc_redrawn" and row["spread"] >= 0
    assert "| click GAUC lost without | " in (Path(done.run_dir) / "table.md").read_text()
    assert "Click GAUC lost without a part" in (Path(done.run_dir) / "report.html").read_text()


def test_the_scores_of_a_trial_stand_beside_it(done: Settings) -> None:
    file = Path(_table(done)["trials"]["sarm"][0])
    storage = Storage.open(f"{done.storage.root}/seed-1")
    columns = read_examples(storage, "2026-01-03")
    measured = evaluate.measure(columns, scores_of(file), TASKS_COLUMNS)
    assert measured["click"] == pytest.approx(
        {metric: json.loads(file.read_text())["metrics"]["click"][metric] for metric in ("auc", "gauc")}
    )


def test_a_reference_row_that_is_missing_is_made_again_and_others_are_not(done: Settings) -> None:
    folder = Path(done.run_dir) / "trials" / "references"
    before = {file: file.stat().st_mtime_ns for file in folder.glob("*.json")}
    assert len(before) == 2 * 2
    gone = next(file for file in before if file.name.startswith("regression-1-"))
    table = gone.read_text()
    gone.unlink()
    study.run(done)
    after = {file: file.stat().st_mtime_ns for file in folder.glob("*.json")}
    assert {file for file in after if after[file] != before.get(file)} == {gone}
    assert json.loads(gone.read_text())["metrics"] == json.loads(table)["metrics"]


def test_the_losses_of_the_epoch_are_compared_too(done: Settings) -> None:
    rows = _table(done)["convergence"]
    assert {(row["variant"], row["loss"]) for row in rows} == {
        (v, loss) for v in VARIANTS for loss in ("main_loss", "click_loss")
    }
    trials = _trials(done, "sarm")
    for key in ("main_loss", "click_loss"):
        (whole,) = [r for r in rows if (r["variant"], r["loss"], r["from"], r["to"]) == ("sarm", key, 0, 1)]
        wanted = []
        for trial in trials:
            steps = [0] + [point["step"] for point in trial["curve"]]
            sizes = [after - before for before, after in zip(steps, steps[1:], strict=False)]
            wanted.append(sum(p[key] * n for p, n in zip(trial["curve"], sizes, strict=True)) / steps[-1])
            assert trial["curve"][0]["click_loss"] < trial["curve"][0]["main_loss"]
        assert whole["mean"] == pytest.approx(sum(wanted) / 2)


def test_a_study_leaves_a_report_with_its_figures(done: Settings) -> None:
    text = (Path(done.run_dir) / "report.html").read_text()
    page = Page(text)
    assert page.open == [] and text.count("<svg ") == 4
    delta = next(r["delta"] for r in _table(done)["rows"] if (r["variant"], r["metric"]) == ("sarm", "auc"))
    assert page.row("SARM")[2].startswith(f"{delta:+.2f}".replace("-", "\N{MINUS SIGN}"))
    assert "seeds: 2" in text and "simulated" in text


def test_exposure_buckets_are_compared_too(done: Settings) -> None:
    rows = _table(done)["exposure"]
    assert {row["variant"] for row in rows} == set(VARIANTS)
    record = _trials(done, "sarm")
    first = next(row for row in rows if row["variant"] == "sarm" and row["metric"] == "auc")
    wanted = [b["model"]["auc"] for r in record for b in r["buckets"] if b["from"] == first["from"]]
    assert first["mean"] == pytest.approx(50 * sum(wanted))


def test_rows_are_what_the_trials_say(done: Settings) -> None:
    trials = _trials(done, "sarm")
    base = _trials(done, "base")
    assert len(trials) == len(base) == 2
    mean = [100 * sum(t["metrics"]["click"]["gauc"] for t in of) / 2 for of in (trials, base)]
    row = next(r for r in _table(done)["rows"] if (r["variant"], r["task"], r["metric"]) == ("sarm", "click", "gauc"))
    assert row["mean"] == pytest.approx(mean[0]) and row["delta"] == pytest.approx(mean[0] - mean[1])
    assert row["paper_delta"] == 0.32 and row["ci_low"] <= row["delta"] <= row["ci_high"]


def test_each_trial_says_what_it_cost(done: Settings) -> None:
    trials = [json.loads(file.read_text()) for file in (Path(done.run_dir) / "trials").glob("*.json")]
    costs = {(trial["kind"], trial["plan"]["seed"]): trial["cost"] for trial in trials}
    for trial in trials:
        cost, plan = trial["cost"], trial["plan"]
        assert 0.0 < cost["cpu_s"] and 0.05 < cost["peak_memory_gib"] < 8.0
        assert cost["examples"] == sum(plan["rows"])
        assert cost["id_parameters"] + cost["dense_parameters"] == trial["parameters"]
        encoded = cost["encoded"] / cost["examples"] * cost["flops_per_author"]
        assert cost["flops_per_trained"] == pytest.approx(cost["flops_per_impression"] + encoded)
        assert (cost["encoded"] > 0) == (cost["flops_per_author"] > 0) == (trial["kind"] == "sarm")
    found = {row["variant"]: row for row in _table(done)["cost"]["rows"]}
    assert list(found) == list(VARIANTS) and found["base"]["relative"] == 1.0
    ratios = [costs["tags", seed]["cpu_s"] / costs["base", seed]["cpu_s"] for seed in (1, 2)]
    assert found["tags"]["relative"] == pytest.approx(sum(ratios) / 2)


def test_each_seed_has_its_own_world_and_its_variants_share_it(done: Settings) -> None:
    days = {}
    for file in (Path(done.run_dir) / "trials").glob("*.json"):
        record, seed = json.loads(file.read_text()), int(file.name.split("-")[1])
        days.setdefault(seed, set()).add(record["oracle"]["click"]["gauc"])
    assert all(len(values) == 1 for values in days.values()) and days[1] != days[2]


def test_a_study_that_is_done_runs_nothing_and_says_the_same(done: Settings) -> None:
    folder = Path(done.run_dir) / "trials"
    before, table = {file: file.stat().st_mtime_ns for file in folder.iterdir()}, _table(done)
    study.run(done)
    assert {file: file.stat().st_mtime_ns for file in folder.iterdir()} == before
    assert _table(done) == table


def test_a_trial_that_is_missing_is_run_again_with_the_same_result(done: Settings) -> None:
    file = Path(_table(done)["trials"]["sae"][0])
    before = json.loads(file.read_text())
    file.unlink()
    study.run(done)
    after = json.loads(file.read_text())
    assert after["metrics"] == before["metrics"] and after["buckets"] == before["buckets"]
    losses = [[point["loss"] for point in record["curve"]] for record in (before, after)]
    assert losses[0] == losses[1]


def test_what_is_the_same_is_trained_once_and_studies_may_share_it(done: Settings, tmp_path: Path) -> None:
    twins = {"base": VARIANTS["base"]} | {name: replace(VARIANTS["sarm"], label=name) for name in ("one", "two")}
    folder = Path(done.run_dir) / "trials"
    before = set(folder.glob("*.json"))
    other = replace(done.study, name="other", variants=twins, paper={}, trials=str(folder))
    study.run(replace(done, run_dir=str(tmp_path), study=other))
    assert set(folder.glob("*.json")) == before
    table = json.loads((tmp_path / "table.json").read_text())
    assert table["trials"]["one"] == table["trials"]["two"] == _table(done)["trials"]["sarm"]


def test_another_model_is_another_trial(done: Settings) -> None:
    changed = dict(VARIANTS, sae=Variant(train=tiny_train(representations=["cls"], aux_weight=0.0)))
    count = len(list((Path(done.run_dir) / "trials").glob("*.json")))
    study.run(replace(done, study=replace(done.study, variants=changed, seeds=1)))
    assert len(list((Path(done.run_dir) / "trials").glob("*.json"))) == count + 1
    study.run(done)


def test_other_code_is_another_trial(done: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = Path(done.run_dir) / "trials"
    alone = replace(done.study, variants={"base": VARIANTS["base"]}, seeds=1, paper={})
    before = set(folder.glob("*.json"))
    monkeypatch.setattr(study, "code_digest", lambda module: f"other code of {module}")
    study.run(replace(done, study=alone))
    (new,) = set(folder.glob("*.json")) - before
    old = next(Path(file) for file in before if file.name.startswith(new.name.rsplit("-", 1)[0]))
    assert json.loads(new.read_text())["metrics"] == json.loads(old.read_text())["metrics"]
    monkeypatch.undo()
    study.run(done)


def test_what_reference_rows_do_not_rank_is_no_number_and_ceilings_are_what_the_way_is_measured_to() -> None:
    config = StudyConfig(name="x", variants={name: VARIANTS[name] for name in ("base", "sarm")})

    def record(gauc: float, tasks: tuple[str, ...] = tuple(TASKS_COLUMNS), **row: Any) -> dict[str, Any]:
        metrics = {task: {"auc": gauc, "gauc": gauc} for task in tasks}
        return {"seed": 1, "day": "d", "seconds": 1.0, "metrics": metrics, "buckets": []} | row

    trials = [record(0.60, variant="base"), record(0.65, variant="sarm")]
    others = [record(0.70, ("click",), reference="content_in_force"), record(0.62, reference="regression")]
    table = build_table(config, config.variants, [1], trials, others)
    rows = {(row["variant"], row["task"]): row for row in table["rows"] if row["metric"] == "gauc"}
    assert [name for name, task in rows if task == "click"] == ["base", "sarm", "regression", "content_in_force"]
    assert rows["sarm", "click"]["share_of_content"] == pytest.approx(0.5)
    assert rows["regression", "click"]["share_of_content"] == pytest.approx(0.2)
    assert rows["content_in_force", "gift"]["delta"] is None and rows["sarm", "gift"]["share_of_content"] is None
    text = table_markdown(table).splitlines()
    assert text[2].endswith("| click: way to the content in force |") and text[5].endswith("| +5.00 | 50 % |")
    assert text[6].startswith("| *logistic regression, no text* |") and text[6].endswith("| 20 % |")
    assert text[7].endswith("| +10.00 | n/a | n/a | n/a | 100 % |") and json.dumps(table, allow_nan=False)
    fewer = build_table(replace(config, references=("regression",)), config.variants, [1], trials, others)
    assert "content_in_force" not in {row["variant"] for row in fewer["rows"]}


def test_an_interval_is_students() -> None:
    # Differences 1, 2, 3: mean 2, standard error 1/sqrt(3), t(0.975, 2) = 4.302653.
    low, high = paired_interval([2.0, 4.0, 6.0], [1.0, 2.0, 3.0])
    assert low == pytest.approx(2 - 4.302653 / 3**0.5, abs=1e-5) and high == pytest.approx(
        2 + 4.302653 / 3**0.5, abs=1e-5
    )
    assert paired_interval([1.0], [0.5]) == (None, None)


def test_a_metric_that_a_seed_does_not_have_is_none_and_not_a_number() -> None:
    config = StudyConfig(name="x", variants=VARIANTS)
    rows = {name: VARIANTS[name] for name in ("base", "sarm")}

    def record(variant: str, seed: int, gift: float) -> dict[str, Any]:
        metrics = {task: {"auc": 0.6, "gauc": 0.5 + 0.01 * seed} for task in TASKS_COLUMNS}
        metrics["gift"] = {"auc": gift, "gauc": gift}
        return {"variant": variant, "seed": seed, "day": "d", "seconds": 1.0, "metrics": metrics, "buckets": []}

    records = [record(v, s, math.nan if s == 2 else 0.5) for v in rows for s in (1, 2)]
    table = build_table(config, rows, [1, 2], records)
    gift = [row for row in table["rows"] if row["task"] == "gift"]
    assert all(row["mean"] is None and row["delta"] is None and row["seeds"] == [50.0, None] for row in gift)
    assert "n/a" in table_markdown(table) and json.dumps(table, allow_nan=False)


def test_a_variant_says_only_what_differs_from_the_section_train(tmp_path: Path) -> None:
    file = tmp_path / "study.yaml"
    file.write_text(
        "train: {batch_size: 64, models: {sarm: {width: 16, num_layers: 2}}}\n"
        "study: {variants: {base: {train: {sources: []}}, one: {train: {models: {sarm: {num_layers: 1}}}}, two: {}}}\n"
    )
    variants = read_settings(file, ["train.lr_dense=0.5"]).study.variants
    assert [v.train.batch_size for v in variants.values()] == [64, 64, 64]
    assert {v.train.lr_dense for v in variants.values()} == {0.5}
    assert variants["base"].train.sources == () and variants["two"].train.sources == ("sarm",)
    sarm = [variants[name].train.models.sarm for name in ("one", "two")]
    assert [(config.width, config.num_layers) for config in sarm] == [(16, 1), (16, 2)]


@pytest.mark.parametrize("file", SHIPPED, ids=[file.stem for file in SHIPPED])
def test_the_shipped_studies_can_be_read(file: Path) -> None:
    settings = read_settings(file)
    assert settings.study.name == file.stem and settings.run_dir == f"runs/studies/{file.stem}"
    assert len(settings.study.variants) > 1 or len(settings.study.towers) > 1
