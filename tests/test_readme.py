"""What the pages quote is what the studies found."""

import importlib.util
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def test_the_pages_tables_are_those_of_docs_studies() -> None:
    spec = importlib.util.spec_from_file_location("quote", ROOT / "docs" / "studies" / "quote.py")
    assert spec is not None and spec.loader is not None
    quote = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(quote)
    names = set()
    for path in quote.PAGES:
        page = path.read_text(encoding="utf-8")
        assert quote.quoted(page) == page, f"{path.name}: run `make readme`"
        names |= {name for _, name, *_ in quote.BLOCK.findall(page)}
    assert names == {str(file.parent.relative_to(quote.STUDIES)) for file in quote.STUDIES.rglob("table.json")}
