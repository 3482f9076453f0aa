"""How well the act of the next segment can be told from the one on screen: a figure of the job."""

from collections.abc import Iterable

import numpy as np

from pipelines.world.lives import LivePlan


class NextActs:
    """Counts over lives as they come; lives without acts count nothing."""

    def __init__(self) -> None:
        self._pairs = self._best = self._repeated = 0

    def see(self, plans: Iterable[LivePlan]) -> None:
        """All pairs of neighbouring segments of lives."""
        for course in (plan.course for plan in plans if plan.course is not None):
            acts = np.array(course.acts)
            self._pairs += len(acts) - 1
            self._best += int((course.programme.best_next[course.states[:-1]] == acts[1:]).sum())
            self._repeated += int((acts[:-1] == acts[1:]).sum())

    def figures(self) -> dict[str, float]:
        """Accuracy of knowing each author's law, and of repeating the act on screen; {} where nothing was seen."""
        if not self._pairs:
            return {}
        return {
            "next_act_best_accuracy": self._best / self._pairs,
            "next_act_repeat_accuracy": self._repeated / self._pairs,
        }
