"""A very small student and its corpus, for the tests of distillation."""

from pathlib import Path

from pipelines.semantics.author_day import PromptConfig
from pipelines.students import pairs as distil_data
from pipelines.students import student
from pipelines.students.pairs import Pair
from pipelines.students.student import StudentConfig
from pipelines.tables.storage import Storage

CONFIG = StudentConfig(vocab_size=900, hidden_size=64, num_layers=1, vision_hidden_size=32, vision_depth=1)
PROMPT = PromptConfig(num_frames=1, num_comments=2)


def pairs_of(tiny_store: Path) -> list[Pair]:
    """All author-days of the tiny store, about 60."""
    return distil_data.load(Storage.open(str(tiny_store / "store")), PROMPT)


def create(pairs: list[Pair], folder: Path, seed: int = 0) -> Path:
    """An untrained student in `folder`."""
    student.create(CONFIG, distil_data.vocabulary_texts(pairs), seed, folder)
    return folder
