"""Questions about one segment, and a teacher's answers: the second task that a student may learn (LARM 2.1).

The teacher, a large model or a simulated live world with its truth, fills the table `segment_answers`.
"""

from itertools import groupby
from typing import Any

from pipelines.semantics import author_day
from pipelines.semantics.author_day import PromptConfig
from pipelines.students.pairs import Pair
from pipelines.tables.contract import ContractError
from pipelines.tables.storage import Storage

TABLE = "segment_answers"
_KEY = ("author_id", "live_id", "segment")


def load(storage: Storage, config: PromptConfig, count: int) -> list[Pair]:
    """At most `count` pairs of each segment that was asked about, oldest day first.

    Segments start at different questions, so that all are learnt alike. About 3 kB a pair are held in memory.
    Raises ContractError where no day has answers.
    """
    days = storage.days(TABLE)
    if not days:
        raise ContractError(
            f"table {TABLE} of {storage.url}: wanted a teacher's answers about segments, got no day; write them, or "
            "set distil.questions to 0"
        )
    pairs: list[Pair] = []
    for day in days:
        found = _by_segment(storage, day)
        for author_id, rows in author_day.stream(storage, day):
            for segment in rows:
                asked = found.get(tuple(segment[name] for name in _KEY), [])
                if not asked:
                    continue
                gathered, first = author_day.gather("", [segment], config), len(pairs)
                for at in range(min(count, len(asked))):
                    question, answer = asked[(first + at) % len(asked)]
                    pairs.append(Pair(author_id=author_id, day=gathered, answer=answer, question=question))
    return pairs


def _by_segment(storage: Storage, day: str) -> dict[Any, list[tuple[str, str]]]:
    """Questions and answers of each segment, questions in alphabetical order."""
    order = [(name, "ascending") for name in (*_KEY, "question")]
    rows = storage.read(TABLE, day).sort_by(order).to_pylist()
    groups = groupby(rows, key=lambda row: tuple(row[name] for name in _KEY))
    return {key: [(row["question"], row["answer"]) for row in group] for key, group in groups}
