"""Histories that come out empty: how many, and how many of them although the user had clicked before."""

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from models.history import HISTORY_PAD
from pipelines.runtime.shares import is_worth_saying, share

Ints = NDArray[np.int64]


class EmptyHistories:
    """Counts the examples of days that come in order."""

    def __init__(self) -> None:
        self.examples = self.empty = self.lost = 0
        """Seen so far, those without a history, and those of these whose user had clicked before."""
        self._users = np.zeros(0, np.int64)
        self._first_ms = np.zeros(0, np.int64)

    def clicked(self, user_id: Ints, ts_ms: Ints) -> None:
        """Clicks, [n] each; give those of a day before its examples."""
        users, ts = np.concatenate([self._users, user_id]), np.concatenate([self._first_ms, ts_ms])
        order = np.lexsort((ts, users))
        self._users, first = np.unique(users[order], return_index=True)
        self._first_ms = ts[order][first]

    def count(self, examples: pa.Table) -> None:
        """Rows with user_id, ts_ms and history_author_ids."""
        history = examples["history_author_ids"].combine_chunks()
        if not len(examples):
            return
        is_empty = (history.flatten().to_numpy().reshape(len(examples), -1) == HISTORY_PAD).all(axis=1)
        user_id, ts_ms = examples["user_id"].to_numpy()[is_empty], examples["ts_ms"].to_numpy()[is_empty]
        self.examples += len(examples)
        self.empty += len(user_id)
        if len(self._users):
            at = np.minimum(np.searchsorted(self._users, user_id), len(self._users) - 1)
            self.lost += int(((self._users[at] == user_id) & (self._first_ms[at] < ts_ms)).sum())

    def warnings(self) -> list[str]:
        """[] where all is as one would expect."""
        if self.examples and self.empty == self.examples and not self.lost:
            return [
                f"empty histories: all {self.examples:,}, as no user had clicked before; see that the label click and "
                "the user ids are right, and bring more days"
            ]
        if not is_worth_saying(self.lost, self.examples):
            return []
        return [
            f"empty histories: {share(self.lost, self.examples)} although the user clicked before; those clicks are "
            "older than examples.history_days or newer than examples.delay_s: change these two"
        ]
