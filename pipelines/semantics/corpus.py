"""The days that tokenizers and codebooks learn from: known before those that rankers are scored on."""

from collections.abc import Iterator, Sequence

from pipelines.tables.anchor_text import field_texts
from pipelines.tables.contract import FIELDS, ContractError
from pipelines.tables.storage import Storage, batches


def corpus_days(
    storage: Storage, *, until: str | None, test_days: int, table: str = "anchors", job: str = "anchors"
) -> list[str]:
    """Days of a table, which `job` writes, up to and including `until`.

    For None, those before the newest `test_days` days of impressions; where nobody was shown anything yet, that is
    every day. Raises ContractError where there is none.
    """
    found, shown = storage.listing(table), storage.days("impressions")
    before = shown[max(0, len(shown) - test_days)] if until is None and test_days and shown else None
    days = found.up_to(before=before, until=until)
    if days:
        return days
    where = f"before {before}, the first day that is scored" if before else f"up to {until or 'today'}"
    remedy = "name one of them as `until` to read it" if found.days else f"run the job {job} first"
    raise ContractError(
        f"table {table}: wanted at least one day {where}, got {', '.join(found.days[:3]) or 'none'}; {remedy}"
    )


def corpus(storage: Storage, days: Sequence[str]) -> Iterator[list[str]]:
    """The fields' texts of every anchor of `days`, as the tokenizer reads them."""
    for day in days:
        for table in batches(storage.dataset("anchors", day), 4096, list(FIELDS)):
            for row in table.to_pylist():
                yield field_texts(row)
