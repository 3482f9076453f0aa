"""The fine-tuning loop: its shares of the data, its loss, its schedule and its end."""

import copy
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from pipelines.students import loop as distil_loop
from pipelines.students import pairs as distil_data
from pipelines.students.loop import AnswerLoss, LoopConfig, answer_loss, bag_of_words, order, train
from pipelines.students.pairs import Pair
from tests.pipelines import little_student as students

FAST: dict[str, Any] = {"warmup_steps": 1, "log_every": 1}


@pytest.fixture(scope="module")
def pairs(tiny_store: Path) -> list[Pair]:
    return students.pairs_of(tiny_store)[:32]


@pytest.fixture(scope="module")
def student(pairs: list[Pair], tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, distil_data.Collator]:
    """An untrained model and its collator."""
    from transformers import AutoModelForImageTextToText, AutoProcessor

    folder = students.create(pairs, tmp_path_factory.mktemp("student"))
    processor = AutoProcessor.from_pretrained(folder)
    return AutoModelForImageTextToText.from_pretrained(folder), distil_data.Collator(processor)


class Distance(nn.Module):
    """Squared distance of a point to the batch; the least is at the data's mean."""

    def __init__(self) -> None:
        super().__init__()
        self.point = nn.Parameter(torch.tensor(5.0))

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        return (self.point - batch["x"]).square().mean()


def as_batch(values: Any) -> Any:
    return {"x": torch.tensor(values, dtype=torch.float32)}


def run(
    config: LoopConfig, count: int = 40, seed: int = 0, **rest: Any
) -> tuple[dict[str, float], list[dict[str, float]]]:
    rows: list[dict[str, float]] = []
    values: Any = np.linspace(-1, 1, count).tolist()
    collate: Any = rest.pop("collate", as_batch)
    return train(
        rest.pop("module", None) or Distance(), collate, values, config, seed=seed, report=rows.append, **rest
    ), rows


@given(st.integers(1, 60), st.integers(1, 8), st.integers(1, 4), st.integers(1, 12))
def test_workers_share_every_pass_without_overlap(num_pairs: int, batch_size: int, world_size: int, max_steps: int):
    config = LoopConfig(batch_size=batch_size, max_steps=max_steps)
    shares = [list(order(num_pairs, config, 3, rank, world_size)) for rank in range(world_size)]
    assert len({len(share) for share in shares}) == 1
    assert len(shares[0]) >= max_steps, "the data ran out before the steps"
    per_step = batch_size * world_size
    steps = [np.concatenate(step) for step in zip(*shares, strict=True)]
    assert all(len(step) == per_step and 0 <= step.min() <= step.max() < num_pairs for step in steps)
    if num_pairs < per_step:
        assert all(set(step) == set(range(num_pairs)) for step in steps)
        return
    per_pass = num_pairs // per_step
    for first in range(0, len(steps), per_pass):
        seen = np.concatenate(steps[first : first + per_pass])
        assert len(set(seen)) == len(seen) == per_pass * per_step > num_pairs - per_step


def test_the_order_changes_with_pass_and_seed_alone():
    config = LoopConfig(batch_size=8, max_steps=4)
    one, same, other = (np.concatenate(list(order(16, config, seed, 0, 1))) for seed in (1, 1, 2))
    assert (one == same).all() and (one != other).any()
    assert (one[:16] != one[16:32]).any()


def test_the_loss_is_the_models_own(student: tuple[Any, distil_data.Collator], pairs: list[Pair]):
    model, collate = student
    batch = collate(pairs[:5])
    with torch.no_grad():
        wanted = model(**batch).loss
        assert abs(float(answer_loss(model, batch) - wanted)) < 1e-5
        assert abs(float(AnswerLoss(model)(batch) - wanted)) < 1e-5
    assert 3 < float(wanted) < 10, "an untrained student guesses"


def test_a_bag_of_words_counts_each_word_of_an_answer_alike():
    logits = torch.tensor([[0.0, 1.0, 2.0], [3.0, 0.0, 0.0]])
    words = torch.tensor([[2, -100, 1], [-100, 0, -100]])
    own = [math.log(1 + math.e + math.e**2) - 1.5, math.log(math.e**3 + 2) - 3]
    assert float(bag_of_words(logits, words)) == pytest.approx(sum(own) / 2, rel=1e-6)
    assert torch.autograd.gradcheck(lambda x: bag_of_words(x, words), logits.double().requires_grad_())


def test_the_summary_is_of_the_last_token_before_the_answer(
    student: tuple[Any, distil_data.Collator], pairs: list[Pair]
):
    model, collate = student
    batch = collate(pairs[:3])
    with torch.no_grad():
        without, with_it = (float(answer_loss(model, batch, weight)) for weight in (0.0, 0.5))
        said = []
        for pair in pairs[:3]:
            prompt_alone = collate([pair], with_answer=False)
            last = model(**prompt_alone).logits[0, -1]
            (labels,) = collate([pair])["labels"]
            said.append(-float(torch.log_softmax(last, -1)[labels[labels != -100]].mean()))
    assert with_it - without == pytest.approx(0.5 * sum(said) / 3, rel=1e-4)


def test_the_student_learns_and_equal_seeds_give_equal_losses(
    student: tuple[Any, distil_data.Collator], pairs: list[Pair]
):
    model, collate = student
    config = LoopConfig(batch_size=8, max_steps=15, log_every=5, warmup_steps=3, learning_rate=5e-3)
    losses: list[list[float]] = []
    for seed in (0, 0, 1):
        rows: list[dict[str, float]] = []
        figures = train(AnswerLoss(copy.deepcopy(model)), collate, pairs, config, seed=seed, report=rows.append)
        losses.append([row["loss"] for row in rows])
        assert figures["steps"] == 15 and figures["loss"] == rows[-1]["loss"]
    assert len(losses[0]) == 3
    assert losses[0][-1] < 0.85 * losses[0][0]
    assert losses[0] == losses[1] != losses[2]


@pytest.mark.parametrize(("count", "batch_size"), [(40, 8), (40, 7), (40, 30), (3, 8)])
def test_it_takes_exactly_the_steps_asked_for(count: int, batch_size: int):
    figures, rows = run(LoopConfig(batch_size=batch_size, max_steps=10, **FAST), count)
    assert figures["steps"] == 10
    assert [row["step"] for row in rows] == list(range(1, 11))


def test_fewer_steps_than_a_log_line_still_give_a_loss():
    figures, rows = run(LoopConfig(batch_size=8, max_steps=3, log_every=50))
    assert rows == [] and math.isfinite(figures["loss"])


def test_a_loss_is_the_mean_over_the_steps_since_the_last():
    _, each = run(LoopConfig(batch_size=8, max_steps=6, **FAST))
    _, some = run(LoopConfig(batch_size=8, max_steps=6, warmup_steps=1, log_every=3))
    single = [row["loss"] for row in each]
    assert [row["loss"] for row in some] == pytest.approx([np.mean(single[:3]), np.mean(single[3:])])
    assert [row["step"] for row in some] == [3, 6]


def test_time_ends_it_too():
    """A step of a second each, by the clock that the loop is given."""
    seconds = 0.0

    def slow(values: Any) -> Any:
        nonlocal seconds
        seconds += 1.0
        return as_batch(values)

    config = LoopConfig(batch_size=8, max_steps=10**6, max_seconds=8.0, **FAST)
    figures, rows = run(config, collate=slow, clock=lambda: seconds)
    assert figures["steps"] == figures["seconds"] == 8
    assert [row["progress"] for row in rows] == [step / 8 for step in range(8)]
    assert [row["seconds"] for row in rows] == list(range(1, 9))


@pytest.fixture
def rates(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[float]]:
    """The learning rate of every step."""
    seen: list[float] = []

    class Watched(torch.optim.AdamW):
        def step(self, closure: Any = None) -> Any:
            seen.append(self.param_groups[0]["lr"])
            return super().step(closure)

    monkeypatch.setattr(torch.optim, "AdamW", Watched)
    yield seen


def test_the_schedule_warms_up_and_falls_to_a_twentieth(rates: list[float]):
    run(LoopConfig(batch_size=8, max_steps=200, warmup_steps=10, learning_rate=0.1, log_every=50))
    assert len(rates) == 200 and all(0 < rate <= 0.1 for rate in rates)
    assert rates[0] == pytest.approx(0.01)
    assert max(rates) == max(rates[8:11]) > 0.099
    assert rates[:10] == sorted(rates[:10]) and rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[-1] == pytest.approx(0.005, rel=0.01)
    assert rates[100] == pytest.approx(0.1 * (1 + 0.05) / 2, rel=0.01)


def test_gradients_are_clipped_and_frozen_weights_stay():
    class Both(Distance):
        def __init__(self) -> None:
            super().__init__()
            self.frozen = nn.Parameter(torch.tensor(1.0), requires_grad=False)

        def forward(self, batch: dict[str, Tensor]) -> Tensor:
            return super().forward(batch) * 1e6 * self.frozen

    module = Both()
    norms: list[float] = []
    hooked: Any = module.point
    hooked.register_hook(lambda gradient: norms.append(float(gradient.abs())))
    run(
        LoopConfig(batch_size=8, max_steps=5, clip_norm=0.5, weight_decay=0.0, learning_rate=0.01, **FAST),
        module=module,
    )
    assert min(norms) > 1e6
    assert module.frozen.item() == 1.0
    assert module.point.grad is not None and float(module.point.grad.abs()) <= 0.5001
    assert 4.9 < module.point.item() < 5.0


@pytest.mark.parametrize(
    "wrong", [{"batch_size": 0}, {"max_steps": 0}, {"warmup_steps": 0}, {"log_every": 0}, {"max_seconds": 0.0}]
)
def test_a_wrong_setting_is_named(wrong: dict[str, Any]):
    with pytest.raises(ValueError, match=f"{next(iter(wrong))}: wanted .* got"):
        LoopConfig(**wrong)


def test_all_workers_stop_when_the_first_does(monkeypatch: pytest.MonkeyPatch):
    """Rank 1 of 2, whose own clock has hardly moved: what it hears of rank 0 ends it, and sets its schedule."""
    heard = iter([0.0, 0.25, 0.5, 0.75, 1.0])

    def of_rank_0(shared: Tensor, src: int) -> None:
        assert src == 0
        shared.fill_(next(heard))

    monkeypatch.setattr(torch.distributed, "broadcast", of_rank_0)
    config = LoopConfig(batch_size=4, max_steps=1000, max_seconds=600.0, **FAST)
    figures, rows = run(config, rank=1, world_size=2)
    assert figures["steps"] == 4
    assert [row["progress"] for row in rows] == [0.0, 0.25, 0.5, 0.75]


def test_the_loop_knows_nothing_of_ray():
    source = Path(distil_loop.__file__).read_text()
    assert "import ray" not in source and "from ray" not in source
