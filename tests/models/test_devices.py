"""That the second device catches what a GPU would refuse, and computes what the CPU computes."""

from __future__ import annotations

import io
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from tests.models.devices import DeviceMix, second_device

MIXES: dict[str, Callable[[Tensor, torch.device], object]] = {
    "a sum": lambda x, _: x + torch.ones(3),
    "a sum in place": lambda x, _: torch.ones(3).add_(x),
    "an index": lambda x, _: x[torch.tensor([0, 1])],
    "a mask": lambda x, _: x[torch.ones(3, dtype=torch.bool)],
    "an assignment by index": lambda x, _: x.__setitem__(torch.tensor([0, 1]), 1.0),
    "index_select": lambda x, _: x.index_select(0, torch.tensor([0])),
    "an embedding": lambda x, _: nn.functional.embedding(torch.tensor([0]), x[:, None]),
    "a scatter": lambda x, _: torch.zeros(3).scatter_(0, x.long(), x),
    "tensors in a list": lambda x, _: torch.cat([x, torch.ones(3)]),
    "a factory without a device": lambda x, _: x * torch.arange(len(x)),
    "a generator": lambda x, device: torch.randn(3, device=device, generator=torch.Generator()),
    "a gradient": lambda x, _: x.requires_grad_().sin().backward(torch.ones(3)),
}


@pytest.mark.parametrize("mix", MIXES)
def test_a_mix_is_refused(mix: str) -> None:
    with second_device() as device, pytest.raises((DeviceMix, RuntimeError)):
        MIXES[mix](torch.arange(3.0).to(device), device)


def test_numpy_wants_the_cpu() -> None:
    with second_device() as device:
        x = torch.ones(2).to(device)
        with pytest.raises(RuntimeError, match="numpy"):
            x.numpy()
        assert x.cpu().numpy().tolist() == [1.0, 1.0]


def test_one_number_may_meet_anything() -> None:
    with second_device() as device:
        total = torch.arange(3.0, device=device) + torch.tensor(1.0)
        assert total.device == device and total.tolist() == [1.0, 2.0, 3.0]


def test_copies_pass_from_one_to_the_other() -> None:
    with second_device() as device:
        there, here = torch.zeros(2, device=device), torch.ones(2)
        there.copy_(here)
        assert there.sum().item() == 2.0
        assert here.copy_(2 * there).tolist() == [2.0, 2.0] and here.device.type == "cpu"
        assert torch.zeros_like(there, device="cpu").device.type == "cpu"


def test_what_is_made_from_a_tensor_is_on_its_device() -> None:
    with second_device() as device:
        x = torch.tensor([2, 0, 2]).to(device)
        values, counts = torch.unique(x, return_counts=True)
        alike = (values, counts, x.new_zeros(1), torch.zeros_like(x), x.nonzero(), x[x > 0], x.double())
        literals = (x.new_tensor([4]), torch.tensor([4], device=device))
        assert all(tensor.device == device for tensor in alike + literals)
        assert all(tensor.tolist() == [4] for tensor in literals)
        assert values.tolist() == [0, 2] and counts.tolist() == [1, 2] and int(x.max()) == 2


def test_writing_into_a_view_writes_into_the_whole() -> None:
    with second_device() as device:
        x = torch.zeros(2, 2, device=device)
        x[:, 1] = 1.0
        x[torch.tensor([0]).to(device)] += 1.0
        assert x.tolist() == [[1.0, 2.0], [0.0, 1.0]]


def test_a_module_learns_there_what_it_learns_on_the_cpu() -> None:
    losses = []
    with second_device() as device:
        for place in (torch.device("cpu"), device):
            torch.manual_seed(0)
            layer, x = nn.Linear(3, 1).to(place), torch.ones(2, 3, device=place)
            optimizer = torch.optim.Adam(layer.parameters(), lr=0.1, fused=True)
            for _ in range(3):
                optimizer.zero_grad()
                layer(x).square().mean().backward()
                optimizer.step()
            losses.append(layer(x).square().mean().item())
    assert losses[0] == losses[1]


def test_what_is_stored_there_is_read_anywhere() -> None:
    stored = io.BytesIO()
    with second_device() as device:
        torch.save({"x": torch.ones(2, device=device)}, stored)
    stored.seek(0)
    assert torch.load(stored, weights_only=True)["x"].tolist() == [1.0, 1.0]
