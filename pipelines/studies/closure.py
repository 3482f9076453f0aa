"""The code that a module runs: itself and every module of the project that it imports, however deep, as one digest.

Imports are read from the source and not followed by importing, so those inside functions count too. What is no code
that runs is left out: comments, docstrings, and everything under `if TYPE_CHECKING:`.
"""

import ast
import hashlib
from collections.abc import Iterator, Mapping
from functools import cache
from importlib.util import resolve_name
from pathlib import Path

from pipelines.tables.fingerprint import digest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("models", "pipelines", "serve")
"""The project's own top-level packages."""


def code_digest(module: str, root: Path = ROOT) -> str:
    """Digest of the closure of `module`: another one as soon as the code of any of its modules changes.

    Raises ValueError where the project below `root` has no such module.
    """
    return digest(sorted(closure(module, root).items()))


def closure(module: str, root: Path = ROOT) -> dict[str, str]:
    """{name: SHA-256 of its code} of `module` and of every module of the project that it imports.

    A package counts with its modules: `import a.b` runs a/__init__.py. Modules may also be named in strings, as
    "models.ranker" or "models.ranker:Ranker", for what is loaded by name; and a package whose __init__.py imports
    pkgutil loads all of its modules. Raises ValueError where the project has no such module.
    """
    files = {_name(path, root): path for package in PACKAGES for path in (root / package).rglob("*.py")}
    if module not in files:
        raise ValueError(f"wanted a module of {', '.join(PACKAGES)} below {root}, got {module!r}")
    code: dict[str, str] = {}
    waiting = [module]
    while waiting:
        name = waiting.pop()
        if name not in code:
            package = name if files[name].name == "__init__.py" else name.rpartition(".")[0]
            code[name], mentioned = _read(files[name].read_text(encoding="utf-8"), package)
            waiting += _modules(mentioned | {name}, files)
            if package == name and any(other.partition(".")[0] == "pkgutil" for other in mentioned):
                waiting += [other for other in files if other.startswith(f"{name}.")]
    return code


def _name(path: Path, root: Path) -> str:
    return ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__")


def _modules(names: set[str], files: Mapping[str, Path]) -> Iterator[str]:
    """The project's modules among dotted names and what they begin with: of a.b.Class, a and a.b."""
    for name in names:
        parts = name.split(".")
        yield from files.keys() & {".".join(parts[:length]) for length in range(1, len(parts) + 1)}


@cache
def _read(source: str, package: str) -> tuple[str, set[str]]:
    """SHA-256 of the code of a module in `package`, and the dotted names that it imports or holds as strings."""
    tree = _Running().visit(ast.parse(source))
    mentioned = set[str]()
    for node in ast.walk(tree):
        match node:
            case ast.Import(names=names):
                mentioned |= {alias.name for alias in names}
            case ast.ImportFrom(module=module, names=names, level=level):
                origin = resolve_name("." * level + (module or ""), package)
                mentioned |= {f"{origin}.{alias.name}" for alias in names}
            case ast.Constant(value=str(text)):
                mentioned.add(text.partition(":")[0])
    return hashlib.sha256(ast.dump(tree).encode()).hexdigest(), mentioned


class _Running(ast.NodeTransformer):
    """Takes from a module what never runs."""

    def visit_Expr(self, node: ast.Expr) -> ast.Expr | None:
        """Drops strings that stand alone: docstrings, of fields too."""
        text = isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
        return None if text else node

    def visit_If(self, node: ast.If) -> ast.AST | list[ast.stmt]:
        """Of `if TYPE_CHECKING:` keeps what stands under `else:`."""
        self.generic_visit(node)
        return node.orelse if ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING") else node
