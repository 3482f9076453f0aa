"""Training steps and scores on another device than the CPU: no tensor is left behind, and the numbers are the CPU's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from models.catalog import CatalogSizes
from models.composed import ComposedRanker, Sources
from models.larm.screen_codes import ScreenCodes, ScreenCodesConfig, ScreenCodesFacts
from models.larm.two_tower import Lives, TwoTower, TwoTowerConfig, TwoTowerFacts, Viewers
from models.ops.packing import Distinct, Places
from models.optimizer import RankerOptimizer
from models.quantize import ResidualConfig, ResidualQuantizer
from models.sarm.memory_bank import MemoryBank
from models.sarm.rollout import token_importance
from models.sources import Inputs, SourceSpec
from models.training import TrainingRanker, Window
from models.two_stage import (
    CodeFacts,
    Codes,
    EmbeddingFacts,
    HistoryEmbeddings,
    TargetEmbedding,
    TwoStageConfig,
)
from tests.models.devices import second_device
from tests.models.worlds import (
    CLUSTERS,
    NUM_AUTHORS,
    RANKER,
    SARM_CONFIG,
    batch,
    catalog,
    coded_batch,
    sarm,
    scatter_parameters,
    tokens,
)

CPU = torch.device("cpu")
STEPS, WINDOW = 4, 2
RATES = {"lr_ids": 0.01, "lr_encoder": 0.01, "lr_dense": 0.01, "l2_ids": 1e-4}


def train(model: ComposedRanker, inputs: dict[str, Inputs], device: torch.device) -> dict[str, Tensor]:
    """The losses of some steps: all but the first one say what was learnt; and the banks that they leave."""
    module = TrainingRanker(model.to(device))
    module.inputs = {name: tuple(part.to(device) for part in of) for name, of in inputs.items()}
    found = {name: source.memory_bank(NUM_AUTHORS, device) for name, source in model.items()}
    banks = {name: bank for name, bank in found.items() if bank is not None}
    optimizer = RankerOptimizer(module, **RATES)
    losses = []
    for start in range(0, STEPS, WINDOW):
        batches = [coded_batch(32, seed=step).to(device) for step in range(start, start + WINDOW)]
        window = Window(module, batches, banks)
        for rows in batches:
            optimizer.zero_grad()
            done = module(rows, banks, window.encoded)
            losses.append(done.loss)
            done.loss.backward()
            if rows is batches[-1]:
                window.backward()
            optimizer.step()
        for name, encoded in window.encoded.items():
            banks[name].write(encoded.rows, encoded.vectors, start)
    written = {name: bank.vectors.cpu() for name, bank in banks.items()}
    return {"losses": torch.stack(losses).detach().cpu()} | written


def train_sarm(budget: int | None, device: torch.device) -> dict[str, Tensor]:
    config = replace(
        SARM_CONFIG, encode_budget=budget, interest_heads=2, interest_layers=2, history_gradient=budget is None
    )
    return train(sarm(config), {"sarm": tokens().tensors()}, device)


def train_sources(specs: list[SourceSpec], inputs: dict[str, Inputs], device: torch.device) -> dict[str, Tensor]:
    torch.manual_seed(0)
    model = ComposedRanker(RANKER, catalog().sizes, Sources(specs=tuple(specs)))
    scatter_parameters(model)
    return train(model, inputs, device)


CONFIG = TwoStageConfig(width=4)
CODES = torch.arange(2 * (NUM_AUTHORS + 1)).view(-1, 2) % 6
VECTORS = torch.randn(NUM_AUTHORS + 1, 3, generator=torch.Generator().manual_seed(1))
TWO_STAGE: dict[str, tuple[SourceSpec, Tensor]] = {
    "codes": (SourceSpec.of("codes", Codes, CONFIG, CodeFacts(num_codes=6)), CODES),
    "target": (SourceSpec.of("target", TargetEmbedding, CONFIG, EmbeddingFacts(embedding_dim=3)), VECTORS),
    "history": (SourceSpec.of("history", HistoryEmbeddings, CONFIG, EmbeddingFacts(embedding_dim=3)), VECTORS),
}
SCREEN = SourceSpec.of(
    "screen",
    ScreenCodes,
    ScreenCodesConfig(width=4),
    ScreenCodesFacts(table="item_codes", codebook="v", clusters=CLUSTERS),
)
STEPS_OF: dict[str, Callable[[torch.device], dict[str, Tensor]]] = {
    "sarm": lambda device: train_sarm(None, device),
    "sarm_within_a_budget": lambda device: train_sarm(3, device),
    "base": lambda device: train_sources([], {}, device),
    "screen": lambda device: train_sources([SCREEN], {"screen": (torch.zeros(NUM_AUTHORS + 1, 0),)}, device),
    **{
        name: lambda device, name=name, spec=spec, table=table: train_sources([spec], {name: (table,)}, device)
        for name, (spec, table) in TWO_STAGE.items()
    },
}


@pytest.mark.parametrize("name", STEPS_OF)
def test_a_model_learns_on_any_device_what_it_learns_on_the_cpu(name: str) -> None:
    wanted = STEPS_OF[name](CPU)
    with second_device() as device:
        found = STEPS_OF[name](device)
    torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-4)


def test_tables_and_scores_of_sarm() -> None:
    model = sarm().eval()
    table = model.tables({"sarm": tokens().tensors()})["sarm"]
    rows, everyone = batch(12), torch.arange(NUM_AUTHORS + 1)
    importance = token_importance(model.source("sarm"), model.ranker.authors, everyone, *tokens().tensors())
    scores = model.score_rows(rows, {"sarm": torch.from_numpy(table)})
    with second_device() as device:
        model.to(device)
        there = tuple(t.to(device) for t in tokens().tensors())
        np.testing.assert_allclose(model.tables({"sarm": there})["sarm"], table, atol=1e-5)
        found = model.score_rows(rows.to(device), {"sarm": torch.from_numpy(table).to(device)})
        torch.testing.assert_close(found.cpu(), scores)
        again = token_importance(model.source("sarm"), model.ranker.authors, everyone.to(device), *there)
        torch.testing.assert_close(again.cpu(), importance)


def test_a_saved_model_does_not_remember_its_device(tmp_path) -> None:
    model = sarm()
    with second_device() as device:
        sarm().to(device).save(tmp_path)
    loaded = type(model).load(tmp_path)
    assert all(torch.equal(t, loaded.state_dict()[name]) for name, t in model.state_dict().items())


def test_a_bank_goes_from_device_to_device(tmp_path) -> None:
    bank = MemoryBank(NUM_AUTHORS, 2)
    rows, vectors = torch.tensor([3, 1, 3]), torch.arange(12.0).view(3, 2, 2)
    bank.write(rows, vectors, step=4)
    with second_device() as device:
        there = MemoryBank(NUM_AUTHORS, 2, device)
        there.write(rows.to(device), vectors.to(device), step=4)
        assert np.array_equal(there.to_numpy(), bank.to_numpy())
        there.save(tmp_path / "bank.safetensors")
        again = MemoryBank.load(tmp_path / "bank.safetensors", device)
        assert again.vectors.device == again.written_step.device == device
        assert torch.equal(again.read(rows.to(device)).cpu(), bank.read(rows))
    here = MemoryBank.load(tmp_path / "bank.safetensors")
    assert torch.equal(here.vectors, bank.vectors) and torch.equal(here.written_step, bank.written_step)


def test_packed_sequences_and_codes() -> None:
    torch.manual_seed(0)
    mask, ids, vectors = torch.rand(3, 4) < 0.5, torch.randint(5, (3, 4)), torch.randn(40, 3)
    config = ResidualConfig(clusters=(4, 3))
    quantizer = ResidualQuantizer.fit(vectors, config)
    with second_device() as device:
        places, distinct = Places(mask.to(device)), Distinct(ids.to(device))
        assert torch.equal(distinct.pack(distinct.ids, places).cpu(), ids[mask])
        there = ResidualQuantizer.fit(vectors.to(device), config)
        assert torch.equal(there.codes(vectors.to(device)).cpu(), quantizer.codes(vectors))
        decoded = there.decode(there.codes(vectors.to(device))).cpu()
    torch.testing.assert_close(decoded, quantizer.decode(quantizer.codes(vectors)))


def test_the_towers_of_larm() -> None:
    torch.manual_seed(0)
    sizes = CatalogSizes(num_users=5, num_authors=9, profile_cardinalities=(3,), num_categories=1)
    towers = TwoTower(TwoTowerConfig(dim=4), TwoTowerFacts(embedding_dim=3, num_codes=7), sizes)
    lives = Lives(torch.randint(9, (6,)), torch.randn(6, 3), torch.randn(6, 3), torch.rand(6) < 0.8)
    rows, history = torch.randint(5, (6,)), torch.randint(9, (6, 2))
    viewers = Viewers(rows, rows[:, None] % 3, history, history > 2, torch.randint(7, (6, 2, 3)))
    loss, _ = towers.loss(viewers, lives, torch.zeros(6))
    with second_device() as device:
        there = (type(of)._make(part.to(device) for part in of) for of in (viewers, lives))
        moved, _ = towers.to(device).loss(*there, torch.zeros(6).to(device))
        moved.backward()
        assert moved.item() == loss.item()
