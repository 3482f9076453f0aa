"""Configuration: YAML to dataclasses and back, with errors that list what is valid."""

import ast
import dataclasses
import inspect
import os
import re
import typing
from collections.abc import Iterator, Mapping
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from pipelines.ranking.plan import SourceModels
from pipelines.runtime import config
from pipelines.runtime.config import ConfigError
from pipelines.settings import Settings, read_settings
from pipelines.studies.config import inherit_train

ROOT = Path(__file__).resolve().parents[3]
CONFIGS = sorted((ROOT / "pipelines" / "configs").rglob("*.yaml"))


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Inner:
    rate: float = 0.1
    sizes: tuple[int, ...] = ()


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Outer:
    name: str = "a"
    count: int = 1
    day: date = date(2026, 1, 1)
    limit: int | None = None
    inner: Inner = dataclasses.field(default_factory=Inner)


def written(tmp_path: Path, text: str, name: str = "c.yaml") -> Path:
    file = tmp_path / name
    file.parent.mkdir(exist_ok=True)
    file.write_text(text)
    return file


def sections(hint: Any) -> list[type]:
    """Every dataclass that a type is made of, itself included."""
    if not dataclasses.is_dataclass(hint):
        return [found for inner in typing.get_args(hint) for found in sections(inner)]
    return [typing.cast(type, hint), *(f for inner in typing.get_type_hints(hint).values() for f in sections(inner))]


def test_there_are_configs_to_load():
    assert len(CONFIGS) > 10


def test_base_is_a_word_of_files_and_no_section():
    assert config.BASE not in {field.name for field in dataclasses.fields(Settings)}


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_every_config_that_ships_loads_and_comes_back_from_its_dump(path: Path, tmp_path: Path):
    settings = read_settings(path)
    config.dump(settings, tmp_path / "c.yaml")
    assert read_settings(tmp_path / "c.yaml") == settings


def key_paths(keys: Mapping[str, Any], above: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for key, value in keys.items():
        yield (*above, key)
        if isinstance(value, Mapping):
            yield from key_paths(value, (*above, key))


def renamed(keys: Mapping[str, Any], path: tuple[str, ...]) -> dict[str, Any]:
    """`keys` with the last letter of one key changed."""
    key, *rest = path
    if rest:
        return {**keys, key: renamed(keys[key], tuple(rest))}
    return {(k if k != key else k[:-1] + ("x" if k[-1] != "x" else "y")): value for k, value in keys.items()}


NAMES_OF_ITS_OWN = re.compile(r"study\.(?:variants|towers)\.\w+|.*_labels\.\w+")
"""Rows of a table, which a study names as it likes, and labels of nodes."""


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_one_wrong_letter_in_any_key_is_refused(path: Path):
    keys = config.read_yaml(path)
    accepted = []
    for key in key_paths(keys):
        name = ".".join(key)
        if NAMES_OF_ITS_OWN.fullmatch(name):
            continue
        try:
            config.build(Settings, inherit_train(renamed(keys, key)))
        except ConfigError:
            continue
        accepted.append(name)
    assert accepted == []


def test_only_what_libraries_read_is_passed_on_unread():
    untyped = {
        f"{cls.__name__}.{name}"
        for cls in sections(Settings)
        for name, hint in typing.get_type_hints(cls).items()
        if Any in (hint, *typing.get_args(hint))
    }
    assert untyped == {
        "EngineConfig.engine_kwargs",  # vLLM's own
        "ServeConfig.app",  # checked and completed by serve/args.py when the section is made
    }


@pytest.mark.parametrize("cls", sections(Settings), ids=lambda c: c.__name__)
def test_every_field_is_documented(cls: type):
    """A string under each field of each class that holds fields, inherited ones in their own class."""
    # SourceModels is made from the registry of sources: its fields are their names.
    for owner in (c for c in cls.__mro__ if dataclasses.is_dataclass(c) and c is not SourceModels):
        body = next(n for n in ast.walk(ast.parse(inspect.getsource(owner))) if isinstance(n, ast.ClassDef)).body
        for node, after in zip(body, [*body[1:], None], strict=True):
            if isinstance(node, ast.AnnAssign):
                documented = isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
                assert documented, f"{owner.__name__}.{ast.unparse(node.target)} has no docstring"


def test_set_overrides_and_makes_sections(tmp_path: Path):
    file = written(tmp_path, "count: 1\ninner:\n")
    overrides = ["count=5", "inner.sizes=[1, 2]", "day=2026-03-04", "limit=null"]
    assert config.load(Outer, file, overrides) == Outer(count=5, day=date(2026, 3, 4), inner=Inner(sizes=(1, 2)))


def test_set_replaces_a_whole_section(tmp_path: Path):
    file = written(tmp_path, "inner: {rate: 3.0}\n")
    assert config.load(Outer, file, ["inner={sizes: [1]}"]).inner == Inner(sizes=(1,))


def test_a_base_is_read_before_the_file_and_below_set(tmp_path: Path):
    written(tmp_path, "name: first\ncount: 1\nlimit: 1\ninner: {rate: 1.0, sizes: [1, 2]}\n", "first.yaml")
    written(tmp_path, "base: ../first.yaml\ncount: 2\ninner: {rate: 2.0}\n", "deep/second.yaml")
    file = written(tmp_path, "base: deep/second.yaml\nlimit: null\ninner: {sizes: [3]}\n")
    assert config.load(Outer, file) == Outer(name="first", count=2, limit=None, inner=Inner(rate=2.0, sizes=(3,)))
    assert config.load(Outer, file, ["count=9"]).count == 9


def test_an_empty_section_means_what_the_base_says_or_defaults(tmp_path: Path):
    assert config.load(Outer, written(tmp_path, "inner:\n#  rate: 1.0\n", "base.yaml")) == Outer()
    written(tmp_path, "inner: {rate: 2.0}\n", "base.yaml")
    assert config.load(Outer, written(tmp_path, "base: base.yaml\ninner:\n")).inner == Inner(rate=2.0)


def test_bases_in_a_circle_are_an_error_that_names_them(tmp_path: Path):
    written(tmp_path, "base: b.yaml\n", "a.yaml")
    written(tmp_path, "base: a.yaml\n", "b.yaml")
    with pytest.raises(ConfigError, match=r"b.yaml: base a.yaml: .*circle: \S*/a.yaml -> \S*/b.yaml -> \S*/a.yaml$"):
        config.read_yaml(tmp_path / "a.yaml")


@pytest.mark.parametrize(
    ("base", "message"), [("none.yaml", "no such file"), (".", "folder"), ("[1]", "wanted the path")]
)
def test_a_base_that_cannot_be_read_is_an_error_of_the_file_that_names_it(tmp_path: Path, base: str, message: str):
    with pytest.raises(ConfigError, match=rf"c.yaml: base.*{message}"):
        config.read_yaml(written(tmp_path, f"base: {base}\n"))


@pytest.mark.parametrize(
    ("text", "override", "message"),
    [
        ("base: base.yaml\n", "", r"base.yaml: config.count: wanted int, got 'x'"),
        ("base: base.yaml\ncount: y\n", "", r"c.yaml: config.count: wanted int, got 'y'"),
        ("base: base.yaml\n", "count=z", r"^--set count=z: config.count: wanted int, got 'z'"),
        ("base: base.yaml\ncount: 1\ninner: {rat: 1}\n", "", r"c.yaml: config.inner: unknown key\(s\) rat;"),
        (
            "base: base.yaml\ncount: 1\n",
            "inner.sizes=[a]",
            r"^--set inner.sizes=\[a\]: config.inner.sizes\[0\]:",
        ),
        ("bse: base.yaml\n", "", r"c.yaml: config: unknown key\(s\) bse"),
    ],
)
def test_an_error_names_the_file_in_which_the_key_stands(tmp_path: Path, text: str, override: str, message: str):
    written(tmp_path, "count: x\ninner: {rate: 1.0}\n", "base.yaml")
    with pytest.raises(ConfigError, match=message) as error:
        config.load(Outer, written(tmp_path, text), [override] if override else [])
    assert str(error.value).count(".yaml") + str(error.value).count("--set") == 1


@pytest.mark.parametrize(
    "text", ["inner:\n  rate: 1.0\ncount: 1\ninner:\n  rate: 2.0\n", "{inner: 1,\n\n\n inner: 2}\n"]
)
def test_a_section_that_stands_twice_is_an_error(tmp_path: Path, text: str):
    with pytest.raises(ConfigError, match=r"c.yaml: .*the key inner stands twice, in lines 1 and 4; keep one"):
        config.read_yaml(written(tmp_path, text))


def test_a_folder_is_an_error_that_says_so(tmp_path: Path):
    with pytest.raises(ConfigError, match=f"--config {tmp_path}: wanted a YAML file, got a folder"):
        config.read_yaml(tmp_path)


def test_a_day_that_no_calendar_has_is_an_error(tmp_path: Path):
    with pytest.raises(ConfigError, match=r"c.yaml: config.day: wanted date \(YYYY-MM-DD\), got '2026-02-30'"):
        config.load(Outer, written(tmp_path, "day: 2026-02-30\n"))


@pytest.mark.parametrize(
    ("override", "message"),
    [("count", "wanted KEY=VALUE"), ("count.a=1", "count is not a section"), ("limit=[", "not YAML")],
)
def test_a_bad_override_is_an_error(tmp_path: Path, override: str, message: str):
    with pytest.raises(ConfigError, match=message):
        config.load(Outer, written(tmp_path, "count: 1\n"), [override])


@pytest.mark.parametrize("text", ["- a\n- b\n", "count: [\n", "just words"])
def test_a_file_that_is_no_mapping_is_an_error(tmp_path: Path, text: str):
    with pytest.raises(ConfigError, match="--config"):
        config.load(Outer, written(tmp_path, text), ["count=1"])


def test_a_missing_file_is_an_error(tmp_path: Path):
    with pytest.raises(ConfigError, match="no such file"):
        config.read_yaml(tmp_path / "none.yaml")


def test_a_dump_of_days_and_lists_comes_back_to_the_same(tmp_path: Path):
    raw = {"seed": 4, "ingest": {"day": date(2026, 5, 6)}, "validate": {"tables": ["users"]}}
    settings = config.build(Settings, raw)
    config.dump(settings, tmp_path / "deep" / "c.yaml")
    assert read_settings(tmp_path / "deep" / "c.yaml") == settings


def test_a_config_may_be_a_pipe_or_lie_at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    written(tmp_path, "count: 7\n")
    assert config.load(Outer, "~/c.yaml").count == 7
    read, write = os.pipe()
    os.write(write, b"count: 8\n")
    os.close(write)
    try:
        assert config.load(Outer, f"/dev/fd/{read}").count == 8
    finally:
        os.close(read)
