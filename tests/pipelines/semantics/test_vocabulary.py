"""The tokenizer's job: trained, left alone, extended, and its errors."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from models.sarm.live_tokenizer.tokenizer import LiveStreamingTokenizer
from pipelines.runtime.config import ConfigError
from pipelines.semantics import base_tokenizer, vocabulary
from pipelines.semantics.base_tokenizer import BaseTokenizerConfig
from pipelines.semantics.corpus import corpus
from pipelines.semantics.vocabulary import Counted, VocabularyConfig
from pipelines.settings import Settings, read_settings
from pipelines.tables.anchor_text import canonical_text, field_texts
from pipelines.tables.artifacts import Artifacts
from pipelines.tables.contract import FIELDS, ContractError
from pipelines.tables.storage import Storage, StorageConfig
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
    fields = list(corpus(storage, metrics["days"]))
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


def _family(kind: str) -> Tokenizer:
    """Small tokenizers of families that live merges cannot extend."""
    letters = {letter: index for index, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    made = {
        "Unigram": lambda: models.Unigram([("<unk>", 0.0), ("a", -1.0)], unk_id=0),
        "WordPiece": lambda: models.WordPiece({"[UNK]": 0, "a": 1}, unk_token="[UNK]"),
        "WordLevel": lambda: models.WordLevel({"[UNK]": 0}, unk_token="[UNK]"),
        "byte_fallback": lambda: models.BPE(letters, [], byte_fallback=True),
        "ignore_merges": lambda: models.BPE(letters, [], ignore_merges=True),
        "prefix": lambda: models.BPE(letters, []),
    }
    tokenizer = Tokenizer(made[kind]())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=kind == "prefix")
    return tokenizer


@pytest.mark.parametrize("kind", ["Unigram", "WordPiece", "WordLevel", "byte_fallback", "ignore_merges", "prefix"])
def test_a_family_that_cannot_be_extended_is_refused(tiny: Settings, tmp_path: Path, kind: str) -> None:
    file = tmp_path / "other.json"
    _family(kind).save(str(file))
    with pytest.raises(
        ConfigError, match=f"^vocabulary.base_tokenizer {file}: .*{kind}.* job base_tokenizer"
    ) as caught:
        run_job(vocabulary, _again(tiny, base_tokenizer=str(file)))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n", "Git-LFS pointer"),
        (b'{"version": "1.0", "model": {"type": "BPE", "vocab": {"a"', "cannot be read"),
        (b"\x80\x81 no text", "cannot be read"),
        (b"", "cannot be read"),
    ],
)
def test_a_file_that_is_no_tokenizer_is_refused_by_key_and_file(
    tiny: Settings, tmp_path: Path, content: bytes, said: str
) -> None:
    file = tmp_path / "tokenizer.json"
    file.write_bytes(content)
    with pytest.raises(ConfigError, match=f"^vocabulary.base_tokenizer {file}: .*{said}"):
        run_job(vocabulary, _again(tiny, base_tokenizer=str(file)))


def test_no_anchors_is_an_error_that_says_what_to_run(tiny: Settings, tmp_path: Path) -> None:
    with pytest.raises(ContractError, match="up to 2000-01-01, got 2026-01-01, .* name one of them as `until`"):
        run_job(vocabulary, _again(tiny, until="2000-01-01"))
    empty = replace(tiny, storage=StorageConfig(root=str(tmp_path / "empty")))
    for job in (vocabulary, base_tokenizer):
        with pytest.raises(ContractError, match="run the job anchors"):
            run_job(job, empty)


def test_anchors_of_the_days_that_are_scored_are_not_read(tiny: Settings) -> None:
    storage = Storage.open(tiny.storage.root)
    days = storage.days("anchors")
    assert days == storage.days("impressions")
    assert run_job(vocabulary, tiny)["days"] == days[:-1]
    assert run_job(vocabulary, _again(tiny, test_days=2))["days"] == days[:-2]
    assert run_job(vocabulary, _again(tiny, test_days=0))["days"] == days
    assert run_job(vocabulary, _again(tiny, until=days[-1]))["days"] == days
    with pytest.raises(ContractError, match=f"before {days[0]}, the first day that is scored"):
        run_job(vocabulary, _again(tiny, test_days=3))


def test_train_says_which_days_are_scored(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("train: {test_days: 2}\nvocabulary: {min_frequency: 7}\n")
    settings = read_settings(tmp_path / "c.yaml")
    assert settings.vocabulary == VocabularyConfig(min_frequency=7, test_days=2)
    assert settings.base_tokenizer.test_days == 2
    assert read_settings(tmp_path / "c.yaml", ["vocabulary.test_days=1"]).vocabulary.test_days == 1
    assert read_settings(tmp_path / "c.yaml", ["train.test_days=3"]).vocabulary.test_days == 3


def test_nothing_merged_is_said_with_what_would_merge(tiny: Settings, caplog: pytest.LogCaptureFixture) -> None:
    run_job(vocabulary, _again(tiny, min_frequency=10**9, max_tokens=1000))
    (warning,) = [record.message for record in caplog.records if record.levelname == "WARNING"]
    most, suggested = (int(re.search(pattern, warning)[1]) for pattern in (r"at most (\d+)", r"for example (\d+)"))
    merges = {n: run_job(vocabulary, _again(tiny, min_frequency=n))["merges"] for n in (most + 1, most, suggested)}
    assert merges[most + 1] == 0 < merges[most] < merges[suggested]


def test_cut_anchors_are_counted_with_what_would_keep_them(tiny: Settings, caplog: pytest.LogCaptureFixture) -> None:
    run_job(vocabulary, _again(tiny, max_tokens=30))
    (warning,) = [record.message for record in caplog.records if record.levelname == "WARNING"]
    days, tokenizer = Storage.open(tiny.storage.root).days("anchors")[:-1], _published(tiny)
    anchors = list(corpus(Storage.open(tiny.storage.root), days))
    assert f"{tokenizer.encode(anchors).num_truncated} of {len(anchors)} (" in warning
    enough = int(re.search(r"set it to (\d+)", warning)[1])
    caplog.clear()
    run_job(vocabulary, _again(tiny, max_tokens=enough))
    assert _published(tiny).encode(anchors).num_truncated <= 0.01 * len(anchors)
    assert not [record for record in caplog.records if record.levelname == "WARNING"]
    run_job(vocabulary, _again(tiny, max_tokens=enough - 1))
    assert _published(tiny).encode(anchors).num_truncated > 0.01 * len(anchors)


def test_an_extension_counts_the_lengths_of_all_days(tiny: Settings) -> None:
    first = Storage.open(tiny.storage.root).days("anchors")[0]
    run_job(vocabulary, _again(tiny, until=first))
    run_job(vocabulary, tiny)
    counted = Counted.load(Artifacts(Storage.open(tiny.storage.root)).fetch("tokenizer"))
    storage = Storage.open(tiny.storage.root)
    wanted = _published(tiny).lengths(corpus(storage, storage.days("anchors")[:-1]))
    assert sorted(counted.lengths.elements()) == sorted(wanted.tolist())


def test_a_base_tokenizer_is_made_of_the_same_days(tiny: Settings) -> None:
    small = replace(tiny, base_tokenizer=BaseTokenizerConfig(size=300))
    made = run_job(base_tokenizer, small)
    storage = Storage.open(tiny.storage.root)
    assert made["days"] == storage.days("anchors")[:-1]
    assert made["tokenizer"] == str(Path(tiny.run_dir) / "tokenizer.json")
    tokenizer = Tokenizer.from_file(made["tokenizer"])
    assert tokenizer.get_vocab_size() == made["tokens"] == 300
    text = "zażółć 猫, used car"
    assert tokenizer.decode(tokenizer.encode(text).ids) == text, "every byte must be known"
    first = Path(made["tokenizer"]).read_bytes()
    run_job(base_tokenizer, small)
    assert Path(made["tokenizer"]).read_bytes() == first
    assert run_job(vocabulary, _again(tiny, base_tokenizer=made["tokenizer"]))["how"] == "trained"
    with pytest.raises(ValueError, match="size >= 256"):
        BaseTokenizerConfig(size=255)
