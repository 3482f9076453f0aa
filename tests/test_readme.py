"""What the README quotes is what the studies found."""

import importlib.util
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def test_the_readmes_tables_are_those_of_docs_studies() -> None:
    spec = importlib.util.spec_from_file_location("quote", ROOT / "docs" / "studies" / "quote.py")
    assert spec is not None and spec.loader is not None
    quote = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(quote)
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    names = [name for _, name, _ in quote.BLOCK.findall(readme)]
    assert sorted(names) == sorted(folder.parent.name for folder in (ROOT / "docs" / "studies").glob("*/table.json"))
    assert quote.quoted(readme) == readme, "run `make readme`"
