"""Gated alignment, eq. 1: by hand, against plain Python, and its gradients."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from models.larm.alignment import GatedAlignment

KNOWN = torch.tensor([True])


def constant(fuse: GatedAlignment, content: list[float], gate: float) -> GatedAlignment:
    """One whose content and gate are the same whatever it is given."""
    for parameter in fuse.parameters():
        nn.init.zeros_(parameter)
    with torch.no_grad():
        fuse.content.down.bias.copy_(torch.tensor(content))
        fuse.gate_out.bias.fill_(math.log(gate / (1 - gate)))
    return fuse


def test_the_gate_is_the_weight_of_the_content_by_hand() -> None:
    fuse = constant(GatedAlignment(dim=2, embedding_dim=3), [1.0, -1.0], gate=0.35)
    fused, gate = fuse(torch.tensor([[2.0, 4.0]]), torch.ones(1, 3), torch.ones(1, 3), KNOWN)
    assert gate.tolist() == pytest.approx([0.35])
    assert fused[0].tolist() == pytest.approx([0.35 * 1 + 0.65 * 2, -0.35 + 0.65 * 4])


def linear(layer: nn.Linear, x: list[float]) -> list[float]:
    rows = zip(layer.weight.tolist(), layer.bias.tolist(), strict=True)
    return [sum(w * v for w, v in zip(row, x, strict=True)) + bias for row, bias in rows]


def gelu(x: list[float]) -> list[float]:
    return [v * (1 + math.erf(v / math.sqrt(2))) / 2 for v in x]


def test_every_part_reads_what_the_equation_says() -> None:
    """In floats of Python: content of [r, m], gate of [a, r, m]."""
    torch.manual_seed(0)
    fuse = GatedAlignment(dim=3, embedding_dim=2)
    a, r, m = (torch.randn(1, width) for width in (3, 2, 2))
    fused, gate = fuse(a, r, m, KNOWN)
    seen = [*r[0].tolist(), *m[0].tolist()]
    hidden = gelu(linear(fuse.content_in, seen))
    content = linear(fuse.content.down, gelu(linear(fuse.content.up, hidden)))
    (score,) = linear(fuse.gate_out, gelu(linear(fuse.gate_in, [*a[0].tolist(), *seen])))
    g = 1 / (1 + math.exp(-score))
    assert gate.item() == pytest.approx(g, rel=1e-5)
    expected = [g * c + (1 - g) * i for c, i in zip(content, a[0].tolist(), strict=True)]
    assert fused[0].tolist() == pytest.approx(expected, rel=1e-5)


def test_gradients_and_any_leading_shape() -> None:
    torch.manual_seed(0)
    fuse = GatedAlignment(dim=3, embedding_dim=2).double()
    inputs = [torch.randn(2, 2, width, dtype=torch.float64, requires_grad=True) for width in (3, 2, 2)]
    known = torch.tensor([[True, False], [True, True]])

    def of(a: Tensor, r: Tensor, m: Tensor) -> tuple[Tensor, ...]:
        return fuse(a, r, m, known)

    assert torch.autograd.gradcheck(of, inputs)
    fused, gate = fuse(*inputs, known)
    assert fused.shape == (2, 2, 3) and gate.shape == (2, 2)


def test_who_has_no_vector_yet_is_its_id_alone() -> None:
    fuse, id = GatedAlignment(dim=3, embedding_dim=2), torch.randn(2, 3)
    fused, gate = fuse(id, torch.zeros(2, 2), torch.zeros(2, 2), torch.tensor([False, True]))
    assert torch.equal(fused[0], id[0]) and gate[0] == 0 and 0 < float(gate[1].detach()) < 1
    assert not torch.allclose(fused[1], id[1])


def test_the_rows_of_table_1_are_ends_of_the_gate() -> None:
    torch.manual_seed(0)
    id, other, now = torch.randn(4, 3), torch.randn(4, 3), torch.randn(4, 2)
    alone, gate = GatedAlignment(dim=3, embedding_dim=2, parts="id")(id, now, now, torch.ones(4, dtype=torch.bool))
    assert torch.equal(alone, id) and gate.tolist() == [0.0] * 4
    content = GatedAlignment(dim=3, embedding_dim=2, parts="content")
    (one, gate), (two, _) = (content(of, now, now, torch.ones(4, dtype=torch.bool)) for of in (id, other))
    torch.testing.assert_close(one, two, atol=1e-6, rtol=0)
    assert gate.tolist() == [1.0] * 4
    with pytest.raises(ValueError, match="wanted one of gated, id, content, got 'both'"):
        GatedAlignment(dim=3, embedding_dim=2, parts="both")
