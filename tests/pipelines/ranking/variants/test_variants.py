"""The registry of sources, and that nobody outside it asks which one a ranker has."""

import ast
from pathlib import Path

import pytest

from pipelines.ranking.variants import BASE, SOURCES, ranker_label, ranker_name, sources_of

ROOT = Path(__file__).resolve().parents[4]
NAMES = {BASE, *SOURCES}


def test_a_ranker_is_named_after_its_sources() -> None:
    assert ranker_name(()) == "base" and ranker_name(("sarm", "tags")) == "sarm+tags"
    assert sources_of("base") == () and sources_of("sarm+tags") == ("sarm", "tags")
    assert ranker_label("base") == "Base" and ranker_label("sarm+tags") == "SARM + tags"
    with pytest.raises(ValueError, match="unknown source.*larm.*sarm"):
        sources_of("sarm+larm")


@pytest.mark.parametrize("name", SOURCES)
def test_a_source_has_defaults_for_every_choice(name: str) -> None:
    module = SOURCES[name].module
    author, user = module.dims(module.Config())
    assert author + user > 0 and SOURCES[name].name == name and SOURCES[name].reads


def questions(path: Path) -> list[str]:
    """Comparisons with a ranker's or a source's name, which only the registry may know."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.Compare):
            continue
        sides = [node.left, *node.comparators]
        constants = {c.value for side in sides for c in ast.walk(side) if isinstance(c, ast.Constant)}
        # SARMConfig.tokens has a choice "base" of its own: the base tokenizer.
        if constants & NAMES and not any(isinstance(s, ast.Attribute) and s.attr == "tokens" for s in sides):
            found.append(f"{path.relative_to(ROOT)}:{node.lineno} {ast.unparse(node)}")
    return found


def test_nobody_outside_the_registry_asks_which_ranker_it_is() -> None:
    variants = ROOT / "pipelines" / "ranking" / "variants"
    files = [p for package in ("models", "pipelines", "serve") for p in (ROOT / package).rglob("*.py")]
    wrong = [question for path in files if variants not in path.parents for question in questions(path)]
    assert not wrong, f"ask the source itself, by a method of its protocol: {wrong}"
