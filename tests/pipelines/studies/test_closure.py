"""The code that a trial runs, by its imports: all of it, and no other, is in the trial's key."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from textwrap import dedent

import pytest

from pipelines.runtime.config import to_dict
from pipelines.settings import Settings
from pipelines.studies.closure import PACKAGES, ROOT, closure, code_digest
from pipelines.studies.config import Variant
from pipelines.studies.trial import run_trial
from tests.pipelines.conftest import tiny_train

TRIAL = run_trial.__module__
OUTSIDE = (
    "pipelines.studies.report",
    "pipelines.studies.table",
    "pipelines.world.world",
    "serve.app",
    "pipelines.daily",
)
RUN_TRIALS = """
import json, sys
from pathlib import Path
from types import SimpleNamespace
from pipelines.ranking.evaluate import EvaluateConfig
from pipelines.runtime.cluster import ClusterConfig
from pipelines.runtime.config import build
from pipelines.runtime.run import Run
from pipelines.studies.config import Variant
from pipelines.studies.trial import run_trial
from pipelines.tables.storage import Storage

root, variants = json.loads(sys.argv[1])
settings = SimpleNamespace(
    evaluate=EvaluateConfig(),
    open=lambda: Run(seed=1, folder=Path(root), storage=Storage.open(root), cluster=ClusterConfig()),
)
for variant in variants:
    run_trial(settings, build(Variant, variant))
print(json.dumps(sorted(sys.modules)))
"""


def test_the_closure_of_a_trial_holds_every_module_that_trials_load(tiny: Settings) -> None:
    """The whole Settings would load every job, which a trial does not run: it gets a stand-in with what it reads."""
    variants = [to_dict(Variant(train=tiny_train(sources))) for sources in ((), ("tags",), ("sarm",))]
    process = subprocess.run(
        [sys.executable, "-c", RUN_TRIALS, json.dumps([tiny.storage.root, variants])],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert process.returncode == 0, process.stderr
    loaded = {name for name in json.loads(process.stdout.splitlines()[-1]) if name.partition(".")[0] in PACKAGES}
    assert {"models.sarm.model", "models.home", "pipelines.ranking.loop", "pipelines.tables.storage"} <= loaded
    assert loaded <= set(closure(TRIAL)), "closure.py does not see how these are imported"


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the project's code, to change."""
    root = tmp_path_factory.mktemp("copy")
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*.py"):
            target = root / path.relative_to(ROOT)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, target)
    return root


def _file(root: Path, module: str) -> Path:
    path = root.joinpath(*module.split("."))
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


@pytest.mark.parametrize("module", sorted(closure(TRIAL)))
def test_a_change_of_any_module_of_the_closure_changes_the_digest(copy: Path, module: str) -> None:
    before, file = code_digest(TRIAL, copy), _file(copy, module)
    source = file.read_text()
    file.write_text(f"{source}\n0\n")
    assert code_digest(TRIAL, copy) != before
    file.write_text(source)
    assert code_digest(TRIAL, copy) == before == code_digest(TRIAL)


@pytest.mark.parametrize("module", OUTSIDE)
def test_a_change_elsewhere_does_not(copy: Path, module: str) -> None:
    before, file = code_digest(TRIAL, copy), _file(copy, module)
    source = file.read_text()
    file.write_text(f"{source}\n0\n")
    assert code_digest(TRIAL, copy) == before
    file.write_text(source)


def _project(root: Path, sources: dict[str, str]) -> Path:
    """Modules of a project by path, with an empty __init__.py where a package is given none."""
    for name, source in sources.items():
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        for folder in Path(name).parents[:-1]:
            (root / folder / "__init__.py").touch()
        file.write_text(dedent(source))
    return root


IMPORTS = {
    "import models.a.b": {"models.a", "models.a.b"},
    "import models.a.b as b, numpy": {"models.a", "models.a.b"},
    "from models.a import b": {"models.a", "models.a.b"},
    "from models.a.b import Thing": {"models.a", "models.a.b"},
    "from models import a": {"models.a"},
    "from . import other": {"pipelines.other"},
    "from .other import thing": {"pipelines.other"},
    "def run():\n    from models.a import b": {"models.a", "models.a.b"},
    "load('models.a.b')": {"models.a", "models.a.b"},
    "WHERE = 'models.a.b:Thing'": {"models.a", "models.a.b"},
    "WHERE = 'models.a.b.Thing'": {"models.a", "models.a.b"},
    "'''models.a.b'''": set(),
    "WHERE = 'read models.a.b'": set(),
    "if TYPE_CHECKING:\n    from models.a import b": set(),
    "if typing.TYPE_CHECKING:\n    import models.a\nelse:\n    import models.c": {"models.c"},
    "from models import every": {"models.every", "models.every.one", "models.every.two", "models.c"},
}


@pytest.mark.parametrize("source", IMPORTS)
def test_ways_to_import(tmp_path: Path, source: str) -> None:
    names = ("models/a/b.py", "models/c.py", "models/every/two.py", "pipelines/other.py")
    sources = dict.fromkeys(names, "") | {
        "models/every/__init__.py": "import pkgutil",
        "models/every/one.py": "import models.c",
        "pipelines/job.py": source,
    }
    modules = set(closure("pipelines.job", _project(tmp_path, sources)))
    assert modules - {"models", "pipelines", "pipelines.job"} == IMPORTS[source]


def test_imports_are_followed_through_modules_and_circles(tmp_path: Path) -> None:
    sources = {"models/a.py": "import models.b", "models/b.py": "import models.c", "models/c.py": "import models.a"}
    assert set(closure("models.a", _project(tmp_path, sources))) == {"models", "models.a", "models.b", "models.c"}


def test_what_does_not_run_does_not_count(tmp_path: Path) -> None:
    plain = "class A:\n    size: int = 1\n    def f(self):\n        return 1\n"
    sources = {
        "plain": plain,
        "comment": f'"""A module."""\n\n# Why.\n{plain}',
        "docstrings": plain.replace("= 1\n", '= 1\n    """A."""\n').replace("self):\n", 'self):\n        """B."""\n'),
        "types": f"{plain}if TYPE_CHECKING:\n    import models.b\n",
        "other": plain.replace("return 1", "return 2"),
    }
    digests = {
        name: code_digest("models.a", _project(tmp_path / name, {"models/a.py": source}))
        for name, source in sources.items()
    }
    other = digests.pop("other")
    assert set(digests.values()) == {digests["plain"]} != {other}


def test_a_module_that_is_not_the_projects_is_refused() -> None:
    with pytest.raises(ValueError, match="wanted a module of models, pipelines, serve below .*, got 'numpy'"):
        closure("numpy")
