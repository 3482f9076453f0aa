"""The tokenizer's job: trained, left alone, extended, and its errors."""

from dataclasses import replace

import pytest

from models.sarm.live_tokenizer.tokenizer import LiveStreamingTokenizer
from pipelines.semantics import vocabulary
from pipelines.semantics.corpus import corpus
from pipelines.settings import Settings
from pipelines.tables.anchor_text import canonical_text, field_texts
from pipelines.tables.artifacts import Artifacts
from pipelines.tables.contract import FIELDS, ContractError
from pipelines.tables.storage import Storage
from tests.pipelines.jobs import run_job


def _published(settings: Settings) -> LiveStreamingTokenizer:
    return LiveStreamingTokenizer.load(Artifacts(Storage.open(settings.storage.root)).fetch("tokenizer"))


def _again(settings: Settings, **changes: object) -> Settings:
    return replace(settings, vocabulary=replace(settings.vocabulary, **changes))


def test_a_second_run_leaves_the_tokenizer_alone(tiny: Settings) -> None:
    before = _published(tiny).fingerprint
    metrics = run_job(vocabulary, tiny)
    assert metrics["how"] == "current" and _published(tiny).fingerprint == before


def test_metrics_count_what_the_tokenizer_does(tiny: Settings) -> None:
    metrics, tokenizer = run_job(vocabulary, tiny), _published(tiny)
    storage = Storage.open(tiny.storage.root)
    fields = list(corpus(storage, storage.days("anchors")))
    base = [sum(len(tokenizer.base_ids(text)) for text in anchor) for anchor in fields]
    live = [sum(len(tokenizer.live_ids(text)) for text in anchor) for anchor in fields]
    assert metrics["anchors"] == len(fields)
    assert metrics["base_tokens_mean"] == pytest.approx(sum(base) / len(base))
    assert metrics["live_tokens_mean"] == pytest.approx(sum(live) / len(live))
    assert 0 < metrics["merges"] == tokenizer.rows.num_live_rows - 1
    assert metrics["live_tokens_mean"] < metrics["base_tokens_mean"]


def test_examples_are_merged_terms(tiny: Settings) -> None:
    metrics, tokenizer = run_job(vocabulary, tiny), _published(tiny)
    terms = {tokenizer.live_text(row).strip() for row in range(1, tokenizer.rows.num_live_rows)}
    assert metrics["examples"] and set(metrics["examples"]) <= terms


def test_the_name_of_a_field_is_one_token_and_never_part_of_a_merged_one(tiny: Settings) -> None:
    run_job(vocabulary, tiny)
    tokenizer = _published(tiny)
    anchor = {field: ["home cooking"] for field in FIELDS}
    ids = [tokenizer.base_ids(text) for text in field_texts(anchor)]
    names = [field[0] for field in ids]
    assert len(set(names)) == len(FIELDS) and names == [max(field) for field in ids]
    assert len({tuple(field[1:]) for field in ids}) == 1
    assert [tokenizer.live_ids(text)[0] for text in field_texts(anchor)] == names
    merged = [
        tokenizer.decode_live([tokenizer.base_vocabulary + row]) for row in range(tokenizer.rows.num_live_rows - 1)
    ]
    assert merged and not set(names) & {index for piece in merged for index in piece}


def test_a_tokenizer_of_an_older_format_is_trained_anew(tiny: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("models.sarm.live_tokenizer.tokenizer.FORMAT", "live-streaming-tokenizer/9")
    assert run_job(vocabulary, tiny)["how"] == "trained"


def test_newer_days_extend_and_rows_never_move(tiny: Settings) -> None:
    first = Storage.open(tiny.storage.root).days("anchors")[0]
    assert run_job(vocabulary, _again(tiny, until=first, min_frequency=19))["how"] == "trained"
    old = _published(tiny)
    assert run_job(vocabulary, _again(tiny, min_frequency=19))["how"] == "extended"
    new = _published(tiny)
    assert new.rows.num_live_rows > old.rows.num_live_rows
    assert new.rows.num_base_rows == old.rows.num_base_rows
    assert [new.live_text(r) for r in range(1, old.rows.num_live_rows)] == [
        old.live_text(r) for r in range(1, old.rows.num_live_rows)
    ]


def test_another_threshold_trains_anew(tiny: Settings) -> None:
    before = _published(tiny).rows.num_live_rows
    metrics = run_job(vocabulary, _again(tiny, min_frequency=10))
    assert metrics["how"] == "trained" and metrics["merges"] + 1 > before


def test_changed_anchors_train_anew(tiny: Settings) -> None:
    storage = Storage.open(tiny.storage.root)
    day = storage.days("anchors")[0]
    storage.write("anchors", day, [storage.read("anchors", day).slice(1)])
    assert run_job(vocabulary, tiny)["how"] == "trained"


def test_the_corpus_is_the_fields_of_the_canonical_text(tiny: Settings) -> None:
    storage = Storage.open(tiny.storage.root)
    day = storage.days("anchors")[0]
    rows = storage.read("anchors", day).to_pylist()
    assert ["; ".join(fields) for fields in corpus(storage, [day])] == [row["text"] for row in rows]
    assert "; ".join(field_texts(rows[0])) == canonical_text(rows[0])


def test_a_missing_base_tokenizer_is_named(tiny: Settings) -> None:
    with pytest.raises(ContractError, match="nowhere.json"):
        run_job(vocabulary, _again(tiny, base_tokenizer="nowhere.json"))


def test_no_anchors_is_an_error_that_says_what_to_run(tiny: Settings) -> None:
    with pytest.raises(ContractError, match="run the job anchors"):
        run_job(vocabulary, _again(tiny, until="2000-01-01"))
