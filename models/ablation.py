"""What a ranker would lose without each thing that it reads: the thing is replaced by its mean, nothing is retrained.

The parts are what every source says, by the names that the source gives, and what the base ranker itself reads: the
user's and the author's id vector, the profile, and the interest that target attention reads from the history.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from models.batch import RankingBatch
from models.composed import ComposedRanker
from models.ranker import Ranker
from models.sources import Representations

Readings = Callable[[], Iterable[tuple[RankingBatch, list[Representations]]]]
"""Gives the batches to score, each with what the sources say of it; called for the means, and again to score."""


class _Tap:
    """One vector on its way: watched, replaced by the mean of what was watched, or left alone."""

    def __init__(self) -> None:
        self.state = "watch"
        self.count, self.squares = 0, 0.0
        self.total: Tensor | None = None

    def __call__(self, vectors: Tensor) -> Tensor:
        """vectors [B, D] -> the same, or their mean in every row."""
        if self.state == "watch":
            self.count += len(vectors)
            self.squares += float(vectors.double().square().sum())
            total = vectors.double().sum(dim=0)
            self.total = total if self.total is None else self.total + total
        return self.mean.to(vectors.dtype).expand_as(vectors) if self.state == "replace" else vectors

    @property
    def mean(self) -> Tensor:
        """[D] float64."""
        assert self.total is not None, "nothing was watched"
        return self.total / self.count


class Ablation:
    """The parts of a ranker in evaluation mode, each of which can be replaced by its mean over the scored examples.

    What the tables of sources were made from stays as it is: an author's id vector is replaced where the base ranker
    reads it for the target, and not within [TAR] or among the items of a history.

    Example:
        >>> from models.catalog import CatalogSizes
        >>> from models.ranker import RankerConfig
        >>> sizes = CatalogSizes(num_users=2, num_authors=3, profile_cardinalities=(2,), num_categories=2)
        >>> Ablation(ComposedRanker(RankerConfig(), sizes).eval()).parts
        ['user id', 'author id', 'profile', 'history']
    """

    def __init__(self, model: ComposedRanker) -> None:
        if model.training:
            raise ValueError("an ablation wants model.eval(): in training mode the batch would change the scores")
        self._model = model
        self._said: list[tuple[list[_Tap], list[_Tap]]] = []
        self._taps: dict[str, list[_Tap]] = {}
        for spec in model.described.specs:
            names = spec.source.names(spec.typed_config())
            taps = ([_Tap() for _ in names[0]], [_Tap() for _ in names[1]])
            self._said.append(taps)
            for name, tap in zip([*names[0], *names[1]], [*taps[0], *taps[1]], strict=True):
                self._taps[f"{spec.name}: {name}"] = [tap]
        self._modules = {name: [(_Tap(), module) for module in of] for name, of in _read_by(model.ranker).items()}
        self._taps |= {name: [tap for tap, _ in pairs] for name, pairs in self._modules.items()}

    @property
    def parts(self) -> list[str]:
        """Names of what can be replaced: "source: part", then those of the base ranker."""
        return list(self._taps)

    def measure(self, readings: Readings) -> tuple[dict[str, float], dict[str, Tensor]]:
        """By part, the relative spread of its vector, and the probabilities [n, K] with its mean in its place.

        The spread is sqrt(mean ||v - mean v||^2) / sqrt(mean ||v||^2): 0 for a vector that says the same of everyone.
        """
        with torch.no_grad(), self._hooked():
            for batch, said in readings():
                self._logits(batch, said)
            self._all("pass")
            scores: dict[str, list[Tensor]] = {name: [] for name in self._taps}
            for batch, said in readings():
                for name, taps in self._taps.items():
                    for tap in taps:
                        tap.state = "replace"
                    scores[name].append(torch.sigmoid(self._logits(batch, said)).cpu())
                    self._all("pass")
        return {name: _spread(taps) for name, taps in self._taps.items()}, {n: torch.cat(s) for n, s in scores.items()}

    def _logits(self, batch: RankingBatch, said: list[Representations]) -> Tensor:
        passed = [
            Representations(
                *(
                    tuple(tap(part) for tap, part in zip(taps, parts, strict=True))
                    for taps, parts in zip(own, item, strict=True)
                )
            )
            for own, item in zip(self._said, said, strict=True)
        ]
        logits: Tensor = self._model(batch, passed)
        return logits

    def _all(self, state: str) -> None:
        for taps in self._taps.values():
            for tap in taps:
                tap.state = state

    @contextmanager
    def _hooked(self) -> Iterator[None]:
        """Puts the taps behind the modules of the base ranker, for as long as it lasts."""
        self._all("watch")
        pairs = [pair for pairs in self._modules.values() for pair in pairs]
        hooks = [module.register_forward_hook(_behind(tap)) for tap, module in pairs]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()


def _read_by(ranker: Ranker) -> dict[str, list[nn.Module]]:
    """The modules whose outputs are what the base ranker reads."""
    return {
        "user id": [ranker.users],
        "author id": [ranker.target],
        "profile": list(ranker.profile),
        "history": [ranker.target_attention],
    }


def _behind(tap: _Tap) -> Callable[[nn.Module, object, Tensor], Tensor]:
    def hook(module: nn.Module, inputs: object, output: Tensor) -> Tensor:
        return tap(output)

    return hook


def _spread(taps: list[_Tap]) -> float:
    squares = sum(tap.squares / tap.count for tap in taps)
    around = squares - sum(float(tap.mean.square().sum()) for tap in taps)
    return float((max(around, 0.0) / squares) ** 0.5) if squares else 0.0
