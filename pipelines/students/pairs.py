"""Pairs to distil from: an author's day (segments) and the anchor a teacher wrote for it. questions.py has others."""

import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from pipelines.semantics import author_day, prompt
from pipelines.semantics.author_day import AuthorDay, PromptConfig
from pipelines.tables import newest
from pipelines.tables.contract import FIELDS
from pipelines.tables.storage import Storage


@dataclass(frozen=True, kw_only=True)
class Pair:
    """One training pair."""

    author_id: int
    day: AuthorDay
    answer: str
    question: str = prompt.INSTRUCTION
    """What is asked."""


def load(storage: Storage, config: PromptConfig, limit: int | None = None) -> list[Pair]:
    """All author-days of a corpus that have an anchor, oldest day first. About 6 kB each are held in memory."""
    pairs: list[Pair] = []
    for day in storage.days("anchors"):
        anchors = {row["author_id"]: row for row in storage.read("anchors", day, ["author_id", *FIELDS]).to_pylist()}
        people = newest.read(storage, "authors", until=day, columns=["author_id", "profile"])
        profiles = dict(zip(people["author_id"].to_pylist(), people["profile"].to_pylist(), strict=True))
        for author_id, rows in author_day.stream(storage, day):
            if author_id in anchors:
                gathered = author_day.gather(profiles.get(author_id, ""), rows, config)
                pairs.append(Pair(author_id=author_id, day=gathered, answer=_answer(gathered, anchors[author_id])))
            if limit is not None and len(pairs) >= limit:
                return pairs
    return pairs


def _answer(day: AuthorDay, anchor: Mapping[str, Sequence[str]]) -> str:
    """The teacher's answer, values in the order in which the prompt mentions them: a student can only learn that."""
    text = "\n".join([*day.speech, *day.comments])
    ordered = {f: sorted(anchor[f], key=lambda v: (text.find(v) < 0, text.find(v))) for f in FIELDS}
    return prompt.answer(ordered)


def vocabulary_texts(pairs: Sequence[Pair]) -> Iterator[str]:
    """Every text a student reads or writes, for training its tokenizer."""
    for pair in pairs:
        yield from (pair.day.profile, *pair.day.speech, *pair.day.comments, pair.answer)
        if pair.question != prompt.INSTRUCTION:  # which is one token
            yield pair.question


def messages(pair: Pair, *, with_answer: bool) -> list[dict[str, Any]]:
    """Chat messages of a pair in the form Hugging Face processors take."""
    turns: list[dict[str, Any]] = [{"role": "user", "content": prompt.with_marks(pair.day.content(pair.question))}]
    return [*turns, {"role": "assistant", "content": pair.answer}] if with_answer else turns


class Collator:
    """Pairs -> the model's keyword arguments, with labels on the answer only (or weighted on the prompt too)."""

    def __init__(self, processor: Any) -> None:
        self._processor = processor
        self._start = processor.tokenizer.encode("<|im_start|>assistant\n", add_special_tokens=False)

    def __call__(self, pairs: Sequence[Pair], *, with_answer: bool = True) -> dict[str, Any]:
        texts = [
            self._processor.apply_chat_template(
                messages(p, with_answer=with_answer), tokenize=False, add_generation_prompt=not with_answer
            )
            for p in pairs
        ]
        images = [Image.open(io.BytesIO(jpeg)).convert("RGB") for p in pairs for jpeg in p.day.frames]
        side = "right" if with_answer else "left"
        batch = dict(
            self._processor(text=texts, images=images or None, padding=True, padding_side=side, return_tensors="pt")
        )
        if with_answer:
            batch["labels"] = self._labels(batch["input_ids"], batch["attention_mask"])
        return batch

    def _labels(self, input_ids: Any, attention_mask: Any) -> Any:
        """-100 up to the end of the assistant's head, and on padding."""
        labels = input_ids.clone()
        labels[attention_mask == 0] = -100
        head = np.array(self._start)
        for row, ids in zip(labels, input_ids.numpy(), strict=True):
            windows = np.lib.stride_tricks.sliding_window_view(ids, len(head))
            position = int(np.flatnonzero((windows == head).all(axis=1))[-1])
            row[: position + len(head)] = -100
        return labels
