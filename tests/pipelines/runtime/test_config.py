"""Configuration: YAML to dataclasses and back, with errors that list what is valid."""

import ast
import dataclasses
import inspect
import json
import typing
from datetime import date
from pathlib import Path

import pytest
import yaml

from pipelines import __main__ as door
from pipelines.runtime import config
from pipelines.runtime.config import ConfigError
from pipelines.settings import Settings

ROOT = Path(__file__).resolve().parents[3]
CONFIGS = sorted((ROOT / "pipelines" / "configs").glob("*.yaml"))


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

    def __post_init__(self) -> None:
        if self.count < 0:
            raise ValueError(f"count: wanted 0 or more, got {self.count}")


def written(tmp_path: Path, text: str) -> Path:
    file = tmp_path / "c.yaml"
    file.write_text(text)
    return file


def sections(cls: type) -> list[type]:
    found = [cls]
    for hint in typing.get_type_hints(cls).values():
        if dataclasses.is_dataclass(hint):
            found.extend(sections(typing.cast(type, hint)))
    return found


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.name)
def test_every_config_that_ships_loads(path: Path):
    assert isinstance(config.build(Settings, config.read_yaml(path)), Settings)


def test_there_are_configs_to_load():
    assert CONFIGS


@pytest.mark.parametrize("cls", sections(Settings), ids=lambda c: c.__name__)
def test_every_field_is_documented(cls: type):
    """A string under each field of each class that holds fields, inherited ones in their own class."""
    for owner in (c for c in cls.__mro__ if dataclasses.is_dataclass(c)):
        body = next(n for n in ast.walk(ast.parse(inspect.getsource(owner))) if isinstance(n, ast.ClassDef)).body
        for node, after in zip(body, [*body[1:], None], strict=True):
            if isinstance(node, ast.AnnAssign):
                documented = isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
                assert documented, f"{owner.__name__}.{ast.unparse(node.target)} has no docstring"


def test_a_mapping_becomes_nested_dataclasses():
    built = config.build(Outer, {"count": 3, "inner": {"rate": 2, "sizes": [1, 2]}, "day": date(2026, 2, 3)})
    assert built == Outer(count=3, day=date(2026, 2, 3), inner=Inner(rate=2.0, sizes=(1, 2)))


def test_an_unknown_key_lists_the_valid_ones():
    with pytest.raises(ConfigError, match=r"config.inner: unknown key\(s\) speed; valid keys are rate, sizes"):
        config.build(Outer, {"inner": {"speed": 1}})


@pytest.mark.parametrize(
    ("key", "value", "wanted"),
    [
        ("count", "3", "wanted int"),
        ("count", True, "wanted int"),
        ("name", 3, "wanted str"),
        ("day", "x", "wanted date"),
    ],
)
def test_a_wrong_type_names_the_key(key: str, value: object, wanted: str):
    with pytest.raises(ConfigError, match=f"config.{key}: {wanted}"):
        config.build(Outer, {key: value})


def test_an_exponent_without_a_point_is_a_number():
    assert config.build(Inner, yaml.safe_load("rate: 1e-3")).rate == 0.001
    with pytest.raises(ConfigError, match="wanted float, got 'fast'"):
        config.build(Inner, {"rate": "fast"})


def test_a_failed_check_names_section_and_value():
    with pytest.raises(ConfigError, match="config: count: wanted 0 or more, got -1"):
        config.build(Outer, {"count": -1})


def test_set_overrides_and_makes_sections(tmp_path: Path):
    file = written(tmp_path, "count: 1\n")
    raw = config.read_yaml(file, ["count=5", "inner.sizes=[1, 2]", "day=2026-03-04", "limit=null"])
    assert config.build(Outer, raw) == Outer(count=5, day=date(2026, 3, 4), inner=Inner(sizes=(1, 2)))


@pytest.mark.parametrize(
    ("override", "message"),
    [("count", "wanted KEY=VALUE"), ("count.a=1", "count is not a section"), ("name=[", "not YAML")],
)
def test_a_bad_override_is_an_error(tmp_path: Path, override: str, message: str):
    with pytest.raises(ConfigError, match=message):
        config.read_yaml(written(tmp_path, "count: 1\n"), [override])


@pytest.mark.parametrize("text", ["- a\n- b\n", "count: [\n", "just words"])
def test_a_file_that_is_no_mapping_is_an_error(tmp_path: Path, text: str):
    with pytest.raises(ConfigError, match="--config"):
        config.read_yaml(written(tmp_path, text), ["count=1"])


def test_a_missing_file_is_an_error(tmp_path: Path):
    with pytest.raises(ConfigError, match="no such file"):
        config.read_yaml(tmp_path / "none.yaml")


def test_dump_and_read_come_back_to_the_same(tmp_path: Path):
    settings = config.build(
        Settings, {"seed": 4, "ingest": {"day": date(2026, 5, 6)}, "validate": {"tables": ["users"]}}
    )
    config.dump(settings, tmp_path / "deep" / "c.yaml")
    assert config.build(Settings, config.read_yaml(tmp_path / "deep" / "c.yaml")) == settings


def test_the_door_answers_2_for_what_cannot_be_used(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    file = written(tmp_path, f"run_dir: {tmp_path}/run\nstorage: {{root: {tmp_path}/store}}\n")
    assert door.main(["ingest", "--config", str(file), "--set", f"ingest.source={tmp_path}/none"]) == 2
    assert "error: ingest.source" in capsys.readouterr().err
    assert door.main(["ingest", "--config", str(file), "--set", "ingest.colour=red"]) == 2
    assert "unknown key(s) colour; valid keys are" in capsys.readouterr().err


def test_the_door_leaves_metrics_and_the_resolved_config(tmp_path: Path):
    from pipelines.tables.storage import Storage
    from tests.pipelines.tables.test_storage import users

    Storage.open(str(tmp_path / "store")).write("users", "2026-01-01", [users(1, 2)])
    file = written(tmp_path, f"run_dir: {tmp_path}/run\nstorage: {{root: {tmp_path}/store}}\n")
    assert door.main(["validate", "--config", str(file)]) == 0
    metrics = json.loads((tmp_path / "run" / "validate.json").read_text())
    assert metrics["validate/rows"] == 2
    assert "seconds" in metrics
    assert (tmp_path / "run" / "config" / "validate.yaml").is_file()
