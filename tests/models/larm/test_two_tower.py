"""The retrieval model: unit vectors, every weight learns, content helps where ids cannot, codes of what it fuses."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from models.catalog import CatalogSizes
from models.larm.two_tower import Lives, TwoTower, TwoTowerConfig, TwoTowerFacts, Viewers
from models.quantize import ResidualConfig, ResidualQuantizer

SIZES = CatalogSizes(num_users=20, num_authors=30, profile_cardinalities=(3, 4), num_categories=1)
FACTS = TwoTowerFacts(embedding_dim=6, num_codes=11)


def model(parts: str = "gated", facts: TwoTowerFacts = FACTS) -> TwoTower:
    torch.manual_seed(0)
    return TwoTower(TwoTowerConfig(dim=8, hidden=16, parts=parts), facts, SIZES)


def lives(size: int) -> Lives:
    return Lives(
        author=torch.randint(1, 31, (size,)),
        now=torch.randn(size, 6),
        mean=torch.randn(size, 6),
        known=torch.ones(size, dtype=torch.bool),
    )


def viewers(size: int, codes: bool = True) -> Viewers:
    return Viewers(
        user=torch.randint(1, 21, (size,)),
        profile=torch.randint(0, 3, (size, 2)),
        history=torch.randint(1, 31, (size, 5)),
        history_mask=torch.rand(size, 5) < 0.8,
        history_codes=torch.randint(0, 11, (size, 5, 2)) if codes else None,
    )


def test_vectors_have_length_1_and_the_loss_reaches_every_weight() -> None:
    towers, of_users, of_lives = model(), viewers(40), lives(40)
    items, gate = towers.lives(of_lives)
    users = towers.viewers(of_users)
    for vectors in (items, users):
        assert vectors.shape == (40, 8)
        torch.testing.assert_close(vectors.norm(dim=1), torch.ones(40), atol=1e-4, rtol=0)
    assert gate.shape == (40,) and bool(((0 < gate) & (gate < 1)).all())
    loss, gates = towers.loss(of_users, of_lives, torch.zeros(40))
    loss.backward()
    assert torch.equal(gates, gate)
    still = [name for name, p in towers.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert not still


def test_somebody_of_whom_nothing_is_known_gives_zeros_and_a_bounded_gradient() -> None:
    towers = model()
    nobody = Lives(torch.zeros(2, dtype=torch.int64), torch.zeros(2, 6), torch.zeros(2, 6), torch.zeros(2).bool())
    items, gate = towers.lives(nobody)
    assert items.tolist() == [[0.0] * 8] * 2 and gate.tolist() == [0.0, 0.0]
    items.sum().backward()
    assert float(towers.authors.weight.grad.abs().max()) <= 2e3


def test_an_item_of_the_id_alone_ignores_content_and_of_content_alone_the_id() -> None:
    of = lives(10)
    moved = of._replace(now=of.now + 1, mean=of.mean - 1)
    others = of._replace(author=of.author.flip(0))
    same: dict[str, tuple[bool, bool]] = {}
    for parts in ("gated", "id", "content"):
        towers = model(parts)
        first = towers.lives(of)[0]
        same[parts] = tuple(torch.allclose(first, towers.lives(x)[0], atol=1e-5) for x in (moved, others))
    assert same == {"gated": (False, False), "id": (True, False), "content": (False, True)}


def test_content_finds_authors_that_nobody_has_watched() -> None:
    """Users like what is on screen, in a direction of their own; half of the authors are never learnt from."""
    facts, generator = TwoTowerFacts(embedding_dim=6), torch.Generator().manual_seed(3)
    content, tastes = (circle(size, generator) for size in (31, 21))
    ranks: dict[str, float] = {}
    for parts in ("gated", "id"):
        towers = model(parts, facts)
        optimizer = torch.optim.Adam(towers.parameters(), lr=0.01)
        for step in range(80):
            torch.manual_seed(step)
            user = torch.randint(1, 21, (64,))
            authors = torch.multinomial(torch.softmax(5 * tastes[user] @ content[1:16].T, dim=1), 1)[:, 0] + 1
            loss, _ = towers.loss(who(user), shown(authors, content), torch.zeros(64))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        with torch.no_grad():
            items, _ = towers.lives(shown(torch.arange(16, 31), content))
            scores = towers.viewers(who(torch.arange(1, 21))) @ items.T
        wanted = (tastes[1:] @ content[16:].T).argmax(dim=1)
        ranks[parts] = float((scores > scores.gather(1, wanted[:, None])).sum(dim=1).float().mean())
    assert ranks["gated"] < 2 and ranks["id"] > 4.5, ranks  # of 15; 7 by chance


def circle(size: int, generator: torch.Generator) -> Tensor:
    """Directions in two of six dimensions."""
    angle = 6.28 * torch.rand(size, generator=generator)
    return torch.nn.functional.pad(torch.stack([angle.cos(), angle.sin()], dim=1), (0, 4))


def who(user: Tensor) -> Viewers:
    nothing = torch.zeros(len(user), 2, dtype=torch.int64)
    return Viewers(user, nothing, nothing, nothing.bool())


def shown(authors: Tensor, content: Tensor) -> Lives:
    return Lives(authors, content[authors], content[authors], torch.ones(len(authors), dtype=torch.bool))


def test_codes_are_of_the_fused_vectors_and_go_back_into_histories() -> None:
    """Eq. 3 and 4, then eq. 5: what retrieval compares becomes codes, and these are rows of the user side's table."""
    towers, of = model(), lives(50)
    with torch.no_grad():
        fused, _ = towers.lives(of)
    quantizer = ResidualQuantizer.fit(fused, ResidualConfig(clusters=(6, 4)))
    rows = quantizer.rows(quantizer.codes(fused))
    assert quantizer.num_rows == FACTS.num_codes and 1 <= int(rows.min()) and int(rows.max()) < FACTS.num_codes
    history = rows[:5].unsqueeze(0)
    viewer = viewers(1)._replace(history_codes=history, history_mask=torch.ones(1, 5, dtype=torch.bool))
    other = viewer._replace(history_codes=torch.zeros_like(history))
    assert not torch.allclose(towers.viewers(viewer), towers.viewers(other))


def test_what_is_saved_is_read_again(tmp_path: Path) -> None:
    towers = model()
    towers.save(tmp_path)
    again = TwoTower.load(tmp_path)
    of = viewers(4)
    assert again.config == towers.config and again.facts == FACTS
    assert torch.equal(again.viewers(of), towers.viewers(of))


@pytest.mark.parametrize("wrong", [{"dim": 0}, {"temperature": 0.0}, {"parts": "both"}])
def test_settings_that_mean_nothing(wrong: dict) -> None:
    with pytest.raises(ValueError, match="wanted one of|must be"):
        TwoTowerConfig(**wrong)
