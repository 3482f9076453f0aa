"""`--set a.b=c`: the type of the field decides how the value is read."""

import dataclasses
from pathlib import Path

import pytest

from models.config import DayText, PathText
from pipelines.runtime import config
from pipelines.runtime.config import ConfigError


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Inner:
    name: str = "a"
    root: PathText = "store"
    until: DayText | None = None
    rate: float = 0.1
    days: tuple[DayText, ...] = ()


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Outer:
    count: int = 1
    quick: bool = False
    inner: Inner = dataclasses.field(default_factory=Inner)
    other: Inner | None = None
    by_name: dict[str, Inner] = dataclasses.field(default_factory=dict)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "c.yaml"
    path.write_text("inner: {name: from the file, until: 2026-01-01}\n")
    return path


@pytest.mark.parametrize(
    "typed",
    ["My Store #1", "a: b", "[x", "%20", " spaces ", "*", "&a", "no", "5", "null", "it's", "{", "a=b", "- a", ""],
)
def test_a_text_is_taken_as_it_is_typed(file: Path, typed: str):
    assert config.load(Outer, file, [f"inner.name={typed}"]).inner.name == typed
    assert config.load(Outer, file, [f"other.name={typed}"]).other == Inner(name=typed)
    assert config.load(Outer, file, [f"by_name.b.name={typed}"]).by_name == {"b": Inner(name=typed)}


@pytest.mark.parametrize("typed", ["'My Store #1'", '"My Store #1"'])
def test_quotes_around_all_of_a_text_are_taken_away(file: Path, typed: str):
    assert config.load(Outer, file, [f"inner.name={typed}"]).inner.name == "My Store #1"


def test_the_home_folder_is_expanded_in_paths_alone(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    inner = config.load(Outer, file, ["inner.root=~/My Store #1", "inner.name=~/x"]).inner
    assert (inner.root, inner.name) == (f"{tmp_path}/My Store #1", "~/x")
    with pytest.raises(ConfigError, match="config.inner.root: wanted a path, got '~nobody-of-that-name/x'"):
        config.load(Outer, file, ["inner.root=~nobody-of-that-name/x"])


@pytest.mark.parametrize("typed", ["2026-01-31", "'2026-01-31'", '"2026-01-31"'])
def test_days_may_be_quoted_or_not(file: Path, typed: str):
    inner = config.load(Outer, file, [f"inner.until={typed}", f"inner.days=[{typed}]"]).inner
    assert (inner.until, inner.days) == ("2026-01-31", ("2026-01-31",))


@pytest.mark.parametrize("typed", ["2026-02-30", "2026-1-5", "20260131", "2026-W05-6", "yesterday"])
def test_what_is_no_day_is_named_with_its_key(file: Path, typed: str):
    with pytest.raises(ConfigError, match=rf"inner.until: wanted a day \(YYYY-MM-DD\), got '{typed}'"):
        config.load(Outer, file, [f"inner.until={typed}"])
    with pytest.raises(ConfigError, match=rf"inner.days\[0\]: wanted .*{typed}"):
        config.load(Outer, file, [f"inner.days=[{typed}]"])


@pytest.mark.parametrize("typed", ["", "null", "~"])
def test_a_text_that_may_be_missing_can_be_taken_away(file: Path, typed: str):
    assert config.load(Outer, file, [f"inner.until={typed}"]).inner.until is None


def test_other_fields_read_yaml(file: Path):
    outer = config.load(Outer, file, ["count= 5", "quick=yes", "inner.rate=1e-3", "other={name: x}"])
    assert outer == Outer(
        count=5, quick=True, inner=dataclasses.replace(outer.inner, rate=0.001), other=Inner(name="x")
    )


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("inner=", "--set inner=: wanted a value, or a section"),
        ("inner=x", "wanted a mapping of Inner's keys, got 'x'"),
        ("=5", "wanted KEY=VALUE"),
        ("inner..rate=1", "wanted KEY=VALUE"),
        ("inner.rte=1", r"unknown key\(s\) rte; did you mean rate\? valid keys are name, root"),
        ("count=1e3", "wanted int, got 1000.0 .float.; write its digits"),
        ("count='5'", "wanted int, got '5' .str.; write it without quotes"),
        ("count=010", "wanted int, got '010'"),
        ("count=1:30", "wanted int, got '1:30'"),
        ("quick=y", "wanted bool, got 'y' .str.; write true or false"),
        ("inner.days=2026-01-01", r"wanted a list, such as \[a, b\]"),
    ],
)
def test_a_bad_override_says_what_to_write(file: Path, override: str, message: str):
    with pytest.raises(ConfigError, match=message) as error:
        config.load(Outer, file, [override])
    assert "\n" not in str(error.value)


def test_a_very_long_value_is_shortened_in_its_error(file: Path):
    with pytest.raises(ConfigError, match=r"10,002 characters") as error:
        config.load(Outer, file, [f"count={'x' * 10_000}"])
    assert len(str(error.value)) < 600


def test_the_last_of_two_equal_keys_wins_and_says_so(file: Path, caplog: pytest.LogCaptureFixture):
    assert config.load(Outer, file, ["count=2", "count=3"]).count == 3
    assert "--set count=3: replaces --set count=2" in caplog.text
