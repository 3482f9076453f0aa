"""The set-up: pins and lock files agree, the CPU environment stays free of CUDA, and torchvision imports beside it."""

import importlib.util
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from types import ModuleType

import pytest

from pipelines.settings import read_settings

ROOT = Path(__file__).resolve().parents[1]
REQUIREMENTS = ROOT / "requirements"
EXTRAS = ("cpu", "gpu")
PIN = re.compile(r"(?P<name>[A-Za-z0-9._-]+)(\[[a-z0-9,]+\])?==(?P<version>[A-Za-z0-9.+]+)")


def pins(lines: list[str]) -> dict[str, str]:
    """Normalised name -> version; fails on a line that is no exact pin."""
    found = {}
    for line in lines:
        match = PIN.fullmatch(line)
        assert match, f"{line!r} is no exact pin NAME==VERSION"
        found[re.sub(r"[-_.]+", "-", match["name"]).lower()] = match["version"]
    return found


def locked(extra: str) -> dict[str, str]:
    lines = (REQUIREMENTS / f"{extra}.txt").read_text(encoding="utf-8").splitlines()
    return pins([line for line in lines if not line.startswith("#")])


def required(extra: str) -> dict[str, str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    optional = project["optional-dependencies"]
    return pins(project["dependencies"]) | pins(optional["dev"]) | pins(optional["aws"]) | pins(optional[extra])


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, REQUIREMENTS / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def python(code: str) -> str:
    """Output of `code` in a fresh process of this environment."""
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.strip()


@pytest.mark.parametrize("extra", EXTRAS)
def test_the_lock_file_has_every_pin_of_the_project(extra: str) -> None:
    lock = locked(extra)
    assert {name: lock.get(name) for name in required(extra)} == required(extra)


def test_every_dependency_says_why_it_is_there() -> None:
    lines = (ROOT / "pyproject.toml").read_text(encoding="utf-8").splitlines()
    entries = [line for line in lines if re.match(r'\s+"[^"]+==[^"]+",', line)]
    optional = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    # For those who read a topic, or have a server of MLflow; no lock has them.
    unlocked = pins(optional["kafka"]) | pins(optional["mlflow"])
    everything = required("cpu").keys() | required("gpu").keys() | unlocked.keys()
    assert len(entries) == len(everything) + 1  # torch is named twice
    assert not [line for line in entries if not re.search(r'",\s+# \w', line)]


def test_the_cpu_lock_holds_no_cuda() -> None:
    lock = locked("cpu")
    assert not [name for name in lock if re.search("nvidia|cuda|cupy|^triton", name)]
    assert lock["torch"].endswith("+cpu")


def test_packages_that_break_transformers_on_cpu_are_left_out() -> None:
    assert not {"torchaudio", "torchcodec"} & locked("cpu").keys()


def test_the_gpu_lock_holds_a_cuda_build() -> None:
    lock = locked("gpu")
    assert "+" not in lock["torch"]
    assert [name for name in lock if name.startswith("nvidia-")]


def test_refreshing_the_lock_keeps_what_is_left_out_out() -> None:
    versions = {"torchaudio": "1", "zlib-ng": "2", "triton": "3", "torch": "4+cpu", "torchvision": "5+cpu"}
    lines = load("lock").lock_text(versions, "cpu").splitlines()
    assert lines[0].startswith("# ") and "make lock" in lines[0]
    assert lines[1:] == ["torch==4+cpu", "torchvision==5", "zlib-ng==2"]


def test_torchvision_imports_whatever_it_is_linked_to() -> None:
    """Also a second pass of the hook, after the operators are there, must change nothing."""
    code = (
        "import torch, torchvision, torchvision.transforms.v2.functional as F, torchvision_ops as hook;"
        "hook.DeclareMissingOperators.find_spec('torchvision._meta_registrations');"
        "print(tuple(F.resize(torch.zeros(3, 8, 8), [4, 4]).shape))"
    )
    assert python(f"import sys; sys.path.append({str(REQUIREMENTS)!r}); {code}") == "(3, 4, 4)"


def test_starting_python_imports_no_torch() -> None:
    assert python("import sys; print('torch' in sys.modules)") == "False"


def test_the_hook_answers_no_import_itself() -> None:
    hook = load("torchvision_ops").DeclareMissingOperators
    assert hook.find_spec("torchvision") is None
    assert hook.find_spec("json") is None


@pytest.mark.parametrize(("extra", "wanted"), [("cpu", False), ("gpu", True)])
def test_the_demo_uses_the_gpu_where_there_is_one(extra: str, wanted: bool) -> None:
    """As `make` would start it: engine, distillation and training, all on one GPU."""
    command = ["make", "-n", "demo", f"EXTRA={extra}"]
    told = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    (line,) = [line for line in told.splitlines() if "pipelines demo" in line]
    settings = read_settings(ROOT / "pipelines" / "configs" / "demo.yaml", re.findall(r"--set (\S+)", line))
    scaling = settings.distil.scaling, settings.train.scaling
    assert [each.use_gpu for each in (settings.anchors.engine, *scaling)] == [wanted] * 3
    if wanted:
        assert settings.anchors.engine.num_engines == 1
        assert [each.num_workers for each in scaling] == [1, 1]
