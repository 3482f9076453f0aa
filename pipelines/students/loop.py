"""The fine-tuning loop: plain torch, one process or many, for the small student and for a downloaded Qwen-VL alike.

Knows nothing about Ray; `pipelines.students.distil` wires it to Ray Train.
"""

import math
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipelines.students.pairs import Collator, Pair


@dataclass(frozen=True, kw_only=True, slots=True)
class LoopConfig:
    """How long and how fast to fine-tune."""

    batch_size: int = 32
    """Pairs per step and worker."""
    max_steps: int = 3000
    """Stops after so many steps."""
    max_seconds: float | None = None
    """Stops after so much time, whichever comes first; makes a run depend on the machine's speed."""
    learning_rate: float = 2e-3
    """Peak of the schedule (warm-up, then cosine down to a twentieth)."""
    warmup_steps: int = 100
    """Steps of linear warm-up."""
    weight_decay: float = 0.01
    """AdamW's decoupled decay."""
    clip_norm: float = 1.0
    """Largest gradient norm."""
    summary_weight: float = 0.0
    """Weight of the whole answer, in any order, in the last token of its prompt: the vector that pooling LAST takes."""
    log_every: int = 50
    """Steps between log lines."""

    def __post_init__(self) -> None:
        for name in ("batch_size", "max_steps", "warmup_steps", "log_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"distil.loop.{name}: wanted at least 1, got {getattr(self, name)}")
        if self.summary_weight < 0:
            raise ValueError(f"distil.loop.summary_weight: wanted 0 or more, got {self.summary_weight}")
        if self.max_seconds is not None and self.max_seconds <= 0:
            raise ValueError(f"distil.loop.max_seconds: wanted more than 0 or null, got {self.max_seconds}")


def answer_loss(model: Any, batch: dict[str, Tensor], summary_weight: float = 0.0) -> Tensor:
    """Cross-entropy of the answers' tokens, and of the bags of words that `summary_weight` asks for.

    The head runs at those positions alone: most of a prompt has no label.
    """
    inputs = {key: value for key, value in batch.items() if key != "labels"}
    hidden = model.model(**inputs).last_hidden_state  # [B, T, D]
    targets = batch["labels"][:, 1:]
    chosen = targets != -100
    logits = model.lm_head(hidden[:, :-1][chosen])
    loss = torch.nn.functional.cross_entropy(logits.float(), targets[chosen])
    if summary_weight:
        last = chosen.int().argmax(dim=1)  # whose next token is the answer's first
        said = model.lm_head(hidden[torch.arange(len(hidden), device=hidden.device), last])
        loss = loss + summary_weight * bag_of_words(said.float(), targets)
    return loss


def bag_of_words(logits: Tensor, words: Tensor) -> Tensor:
    """Cross-entropy between what a vector says and the words of an answer, each as likely; the mean over vectors.

    Encoders for retrieval learn by such a bag-of-word prediction. Args: logits [B, V]; words [B, T], -100 where none.
    """
    held = words != -100
    said = torch.log_softmax(logits, dim=-1).gather(1, words.clamp(min=0))
    return -((said * held).sum(dim=1) / held.sum(dim=1)).mean()


class AnswerLoss(torch.nn.Module):
    """`answer_loss` as a module, so that DistributedDataParallel can wrap it."""

    def __init__(self, model: Any, summary_weight: float = 0.0) -> None:
        super().__init__()
        self.model, self.summary_weight = model, summary_weight

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        """Loss of one batch, scalar."""
        base = self.model.get_base_model() if hasattr(self.model, "get_base_model") else self.model
        return answer_loss(base, batch, self.summary_weight)


def order(num_pairs: int, config: LoopConfig, seed: int, rank: int, world_size: int) -> Iterator[NDArray[np.int64]]:
    """Indices of each step's pairs for one worker: every epoch is a fresh permutation, shared out without overlap.

    At least `max_steps` steps; what does not fill a step is left to the next epoch.
    """
    per_step = config.batch_size * world_size
    epochs = math.ceil(config.max_steps / max(1, num_pairs // per_step))
    for number in range(epochs):
        shuffled = np.random.default_rng([seed, number]).permutation(num_pairs)
        if num_pairs < per_step:
            shuffled = np.resize(shuffled, per_step)
        for first in range(0, len(shuffled) - per_step + 1, per_step):
            start = first + rank * config.batch_size
            yield shuffled[start : start + config.batch_size]


def train(
    module: torch.nn.Module,
    collate: Collator,
    pairs: Sequence[Pair],
    config: LoopConfig,
    *,
    seed: int,
    rank: int = 0,
    world_size: int = 1,
    device: str = "cpu",
    report: Callable[[dict[str, float]], None] = lambda _: None,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, float]:
    """Fine-tunes in place and returns {steps, seconds, loss}; `report` gets one dict every `log_every` steps.

    A loss is the mean over the last `log_every` steps. `clock` tells the seconds that `max_seconds` counts.
    """
    trained = [p for p in module.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=config.learning_rate, weight_decay=config.weight_decay, fused=True)
    module.train()
    started, step = clock(), 0
    recent: deque[float] = deque(maxlen=config.log_every)
    for index in order(len(pairs), config, seed, rank, world_size):
        progress = _progress(step, clock() - started, config)
        if world_size > 1:
            progress = _of_rank_0(progress, device)
        if progress >= 1:
            break
        for group in optimizer.param_groups:
            group["lr"] = config.learning_rate * _schedule(step, progress, config)
        batch = {k: v.to(device) for k, v in collate([pairs[i] for i in index]).items()}
        loss = module(batch)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, config.clip_norm)
        optimizer.step()
        recent.append(loss.item())
        step += 1
        if step % config.log_every == 0:
            seconds = clock() - started
            report({"step": step, "progress": progress, "loss": float(np.mean(recent)), "seconds": seconds})
    return {"steps": step, "seconds": clock() - started, "loss": float(np.mean(recent))}


def _progress(step: int, seconds: float, config: LoopConfig) -> float:
    by_time = seconds / config.max_seconds if config.max_seconds else 0.0
    return max(step / config.max_steps, by_time)


def _of_rank_0(progress: float, device: str) -> float:
    """Rank 0's progress, for all: clocks differ, and a worker that stopped alone would leave the others waiting."""
    shared = torch.tensor(progress, dtype=torch.float64, device=device)
    torch.distributed.broadcast(shared, src=0)
    return shared.item()


def _schedule(step: int, progress: float, config: LoopConfig) -> float:
    warm = min(1.0, (step + 1) / config.warmup_steps)
    return warm * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * progress)))
