"""The shape of the code, as rules that fail: who may import whom, how long files and functions may grow, bad names."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("models", "pipelines", "serve")

# Imports point down: pipelines -> models <- serve.
FORBIDDEN = {
    "models": {"pipelines", "serve", "tests"},
    "pipelines": {"serve", "tests"},
    "serve": {"pipelines", "tests", "vllm"},
}
LIBRARIES_OF_MODELS = {"torch", "numpy", "tokenizers", "safetensors", "huggingface_hub"}

MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 80
DRAWERS = {"utils", "common", "helpers", "base", "misc"}


def sources(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


def imported_roots(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Line and top-level package of every absolute import, also of those inside functions."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name.partition(".")[0]) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            yield node.lineno, node.module.partition(".")[0]


def imports_of(package: str) -> list[tuple[str, str]]:
    """("file:line", imported root) for a whole package."""
    found = []
    for path in sources(package):
        for line, root in imported_roots(ast.parse(path.read_text(encoding="utf-8"))):
            found.append((f"{path.relative_to(ROOT)}:{line}", root))
    return found


@pytest.mark.parametrize("package", PACKAGES)
def test_imports_point_down(package: str) -> None:
    wrong = [f"{place} imports {root}" for place, root in imports_of(package) if root in FORBIDDEN[package]]
    assert not wrong, f"{package}/ must not import {sorted(FORBIDDEN[package])}: {wrong}"


def test_models_are_pure_pytorch() -> None:
    allowed = {"models"} | LIBRARIES_OF_MODELS | sys.stdlib_module_names
    wrong = [f"{place} imports {root}" for place, root in imports_of("models") if root not in allowed]
    assert not wrong, f"models/ may import the standard library and {sorted(LIBRARIES_OF_MODELS)} only: {wrong}"


@pytest.mark.parametrize("package", PACKAGES)
def test_every_folder_of_code_is_a_package(package: str) -> None:
    folders = {path.parent for path in sources(package)}
    missing = [str(folder.relative_to(ROOT)) for folder in folders if not (folder / "__init__.py").exists()]
    assert folders and not missing, f"no __init__.py in {missing or package}"


@pytest.mark.parametrize("package", PACKAGES)
def test_files_stay_short(package: str) -> None:
    lengths = [(path, len(path.read_text(encoding="utf-8").splitlines())) for path in sources(package)]
    long = {str(path.relative_to(ROOT)): lines for path, lines in lengths if lines > MAX_FILE_LINES}
    assert not long, f"over {MAX_FILE_LINES} lines, split by idea: {long}"


@pytest.mark.parametrize("package", PACKAGES)
def test_functions_stay_short(package: str) -> None:
    long = []
    for path in sources(package):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = (node.end_lineno or node.lineno) - node.lineno + 1
                if lines > MAX_FUNCTION_LINES:
                    long.append(f"{path.relative_to(ROOT)}:{node.lineno} {node.name}: {lines} lines")
    assert not long, f"over {MAX_FUNCTION_LINES} lines: {long}"


@pytest.mark.parametrize("package", PACKAGES)
def test_no_drawers(package: str) -> None:
    wrong = [str(path.relative_to(ROOT)) for path in (ROOT / package).rglob("*") if path.stem in DRAWERS]
    assert not wrong, f"name each file after its one idea: {wrong}"


def test_every_level_of_the_tests_is_a_package() -> None:
    """Without this, tests/models would be imported as `models`."""
    folders = {path.parent for path in (ROOT / "tests").rglob("*.py")}
    missing = [str(folder.relative_to(ROOT)) for folder in folders if not (folder / "__init__.py").exists()]
    assert not missing, f"no __init__.py in {missing}"
