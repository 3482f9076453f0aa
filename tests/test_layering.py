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
LIBRARIES_OF_ROOMS = {"models/artifacts/": {"pyarrow"}, "models/online/": {"lmdb", "redis"}}
"""models/artifacts alone knows file systems: jobs and deployments read and write what is published through it. What the
online store is kept in, models/online alone knows."""

# Rooms of pipelines/, in order: each imports only those before it. A chain's config is told apart from the chain, as
# settings holds it.
ROOMS = (
    "pages",
    "tables",
    "runtime",
    "samples",
    "semantics",
    "sources",
    "world",
    "students",
    "ranking",
    "retrieval",
    "analysis",
    "serving",
    "studies.config",
    "demo.config",
    "settings",
    "daily",
    "studies",
    "demo",
    "__main__",
)
BY_NAME = {
    ("pipelines.serving.serve", "serve.app"),
    ("pipelines.serving.serve", "serve.args"),
    ("pipelines.serving.fast_path", "serve.admission"),
}
"""Who reaches over by name: the job that hands Ray Serve its import paths, and has its arguments checked."""
MAX_FILES_OF_ITS_OWN = 6

MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 60
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


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


MODULES = {module_of(path): path for package in PACKAGES for path in sources(package)}


def modules_imported(path: Path) -> set[str]:
    """Modules of the project that a file imports: anywhere in it, under TYPE_CHECKING, and by name at run time."""
    found = set[str]()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            # What importlib is given, and what Ray is told to import: "serve.app:build".
            found.add(node.value.partition(":")[0])
    return {name for name in found if name in MODULES and MODULES[name].name != "__init__.py"} - {module_of(path)}


def room_of(module: str) -> str:
    parts = module.split(".")[1:]
    return next(room for room in (".".join(parts[:2]), parts[0]) if room in ROOMS)


def test_a_room_imports_only_rooms_before_it() -> None:
    wrong = []
    for module, path in MODULES.items():
        if not module.startswith("pipelines."):
            continue
        if path.name == "__init__.py" and path.parent.parent.name == "pipelines":
            continue
        for other in modules_imported(path):
            if other.startswith("pipelines.") and ROOMS.index(room_of(other)) > ROOMS.index(room_of(module)):
                wrong.append(f"{module} imports {other}")
    assert not wrong, f"the order of rooms is {', '.join(ROOMS)}: {wrong}"


def test_what_is_imported_by_name_is_listed() -> None:
    found = {
        (module, other)
        for module, path in MODULES.items()
        for other in modules_imported(path)
        if other.partition(".")[0] in FORBIDDEN[module.partition(".")[0]]
    }
    assert found == BY_NAME


def test_no_imports_in_circles() -> None:
    imports = {module: modules_imported(path) for module, path in MODULES.items()}
    while leaves := [module for module, others in imports.items() if not others & imports.keys()]:
        for module in leaves:
            del imports[module]
    circles = {module: sorted(others & imports.keys()) for module, others in imports.items()}
    assert not circles, f"these import each other, or what does: {circles}"


def test_the_way_in_stays_narrow() -> None:
    own = sorted(path.name for path in (ROOT / "pipelines").glob("*.py"))
    assert len(own) <= MAX_FILES_OF_ITS_OWN, f"pipelines/ holds stages; put {own} into their rooms"


@pytest.mark.parametrize("package", PACKAGES)
def test_imports_point_down(package: str) -> None:
    wrong = [f"{place} imports {root}" for place, root in imports_of(package) if root in FORBIDDEN[package]]
    assert not wrong, f"{package}/ must not import {sorted(FORBIDDEN[package])}: {wrong}"


def test_models_are_pure_pytorch() -> None:
    allowed = {"models"} | LIBRARIES_OF_MODELS | sys.stdlib_module_names
    wrong = [
        f"{place} imports {root}"
        for place, root in imports_of("models")
        if root
        not in allowed
        | set().union(*(libraries for room, libraries in LIBRARIES_OF_ROOMS.items() if place.startswith(room)))
    ]
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
