from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from models.catalog import CatalogSizes
from models.composed import ComposedRanker, Sources
from models.ranker import Ranker
from models.sources import Inputs, Representations, SourceSpec
from models.two_stage import CodeFacts, Codes, EmbeddingFacts, HistoryEmbeddings, TwoStageConfig
from tests.models.worlds import (
    NUM_AUTHORS,
    RANKER,
    SARM_CONFIG,
    batch,
    catalog,
    composed,
    encoded_for,
    filled_bank,
    one_step,
    sarm,
    sarm_spec,
    tokens,
    trainer,
)

NUM_CODES, E = 6, 5
TAGS = SourceSpec.of("tags", Codes, TwoStageConfig(width=4), CodeFacts(num_codes=NUM_CODES))
CLIPS = SourceSpec.of("clips", HistoryEmbeddings, TwoStageConfig(width=6), EmbeddingFacts(embedding_dim=E))
SIZES: CatalogSizes = catalog().sizes


def codes() -> Tensor:
    made = torch.randint(0, NUM_CODES, (NUM_AUTHORS + 1, 3), generator=torch.Generator().manual_seed(1))
    made[0] = 0
    return made


def embeddings() -> Tensor:
    return torch.randn(NUM_AUTHORS + 1, E, generator=torch.Generator().manual_seed(2))


def inputs(model: ComposedRanker) -> dict[str, Inputs]:
    known: dict[str, Inputs] = {"sarm": tokens().tensors(), "tags": (codes(),), "clips": (embeddings(),)}
    return {name: known[name] for name in model.sources}


def tables(model: ComposedRanker) -> dict[str, Tensor]:
    return {name: torch.from_numpy(table) for name, table in model.tables(inputs(model)).items()}


def test_without_sources_it_is_the_base_ranker_bit_for_bit() -> None:
    torch.manual_seed(7)
    base = Ranker(RANKER, SIZES)
    torch.manual_seed(7)
    model = ComposedRanker(RANKER, SIZES)
    assert model.ranker.state_dict().keys() == base.state_dict().keys()
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), base.parameters(), strict=True))
    assert torch.equal(model(batch(16)), base(batch(16)))  # in training mode, then in evaluation mode
    model.eval()
    base.eval()
    assert torch.equal(model(batch(6)), base(batch(6)))
    assert torch.equal(model.score_rows(batch(6), {}), torch.sigmoid(base(batch(6))).detach())
    assert model.tables({}) == {} and model.items() == []


def test_parameters_are_drawn_for_the_ranker_first_then_for_the_sources_in_order() -> None:
    specs = (sarm_spec(), TAGS)
    torch.manual_seed(7)
    model = ComposedRanker(RANKER, SIZES, Sources(specs=specs))
    torch.manual_seed(7)
    ranker = Ranker(replace(RANKER, extra_author_dim=2 * 8 + 4, extra_user_dim=8), SIZES)
    wanted = [*ranker.parameters(), *(p for spec in specs for p in spec.build(RANKER).parameters())]
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), wanted, strict=True))


def test_parts_of_the_author_stand_before_parts_of_the_user_each_in_the_order_of_the_sources() -> None:
    """SARM says [CLS], [TAR] and [UIN]; tags say one of the author, clips one of the user."""
    model, rows = composed(CLIPS, sarm_spec(), TAGS).eval(), batch(6)
    found = tables(model)
    cls, tar = found["sarm"][rows.author].unbind(dim=1)
    uin = model.source("sarm").interest(found["sarm"][rows.history, 0], rows.history_mask)
    (of_tags,) = model.source("tags").read(rows, codes()[rows.author], None).author
    (of_clips,) = model.source("clips").read(rows, embeddings()[rows.author], embeddings()[rows.history]).user
    extra = torch.cat([cls, tar, of_tags, of_clips, uin], dim=-1)
    assert (model.ranker.config.extra_author_dim, model.ranker.config.extra_user_dim) == (2 * 8 + 4, 6 + 8)
    assert torch.equal(model.score_rows(rows, found), torch.sigmoid(model.ranker(rows, extra)).detach())


@pytest.mark.parametrize("specs", [(sarm_spec(), TAGS), (TAGS, sarm_spec()), (sarm_spec(), CLIPS, TAGS)])
def test_every_parameter_of_stacked_sources_gets_a_gradient(specs: tuple[SourceSpec, ...]) -> None:
    model = composed(*specs)
    step = trainer(model, **inputs(model))
    one_step(step, batch(64), {"sarm": filled_bank()}).loss.backward()
    assert [name for name, p in step.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_a_source_has_a_say_beside_another_and_never_sees_it() -> None:
    model, rows = composed(sarm_spec(), TAGS).eval(), batch(6)
    before = tables(model)
    changed = {"sarm": before["sarm"], "tags": before["tags"].flip(0)}
    assert not torch.allclose(model.score_rows(rows, changed), model.score_rows(rows, before))
    other = {**inputs(model), "tags": (codes().flip(0),)}
    assert torch.equal(torch.from_numpy(model.tables(other)["sarm"]), before["sarm"])


def test_stacked_sources_come_back_from_disk_in_their_order(tmp_path: Path) -> None:
    model = composed(TAGS, sarm_spec()).eval()
    model.save(tmp_path)
    loaded = ComposedRanker.load(tmp_path)
    assert [name for name, _ in loaded.items()] == ["tags", "sarm"] and loaded.described == model.described
    assert torch.equal(loaded.score_rows(batch(9), tables(loaded)), model.score_rows(batch(9), tables(model)))


@pytest.mark.parametrize("specs", [(sarm_spec(),), (sarm_spec(), TAGS), (CLIPS, sarm_spec(), TAGS)])
def test_scoring_rows_is_scoring_what_is_gathered_for_them(specs: tuple[SourceSpec, ...]) -> None:
    model, rows = composed(*specs).eval(), batch(9)
    found = tables(model)
    targets = {name: table[rows.author] for name, table in found.items()}
    histories: dict[str, Tensor | None] = {
        "sarm": found["sarm"][rows.history, 0],
        "tags": None,
        "clips": embeddings()[rows.history],
    }
    assert torch.equal(model.score_rows(rows, found), model.score(rows, targets, histories))


def test_one_history_of_all_rows_counts_for_each_in_every_source() -> None:
    """As in a request: C rows, one history, given once."""
    model, rows = composed(sarm_spec(), CLIPS, TAGS).eval(), batch(6)
    names = ("history", "history_mask", "history_age_s", "history_watch_s")
    rows = rows._replace(**{name: getattr(rows, name)[2:3].expand(6, -1) for name in names})
    found = tables(model)
    targets = {name: table[rows.author] for name, table in found.items()}
    once = rows.history[:1]
    histories = {"sarm": found["sarm"][once, 0], "clips": embeddings()[once], "tags": None}
    scores = model.score(rows, targets, histories)
    torch.testing.assert_close(scores, model.score_rows(rows, found), atol=1e-6, rtol=0.0)
    alone = {name: table[4:5] for name, table in targets.items()}
    torch.testing.assert_close(
        model.score(rows.slice(slice(4, 5)), alone, histories)[0], scores[4], atol=1e-6, rtol=0.0
    )


def test_a_source_given_twice_is_refused() -> None:
    with pytest.raises(ValueError, match=r"wanted each source once, got \['tags', 'tags'\]"):
        ComposedRanker(RANKER, SIZES, Sources(specs=(TAGS, TAGS)))


def test_two_sources_of_one_class_have_parameters_of_their_own() -> None:
    model = composed(TAGS, replace(TAGS, name="topics"))
    first, second = model.source("tags"), model.source("topics")
    assert not torch.equal(first.codes.weight, second.codes.weight)


@pytest.mark.parametrize("change", [{"extra_author_dim": 1}, {"extra_user_dim": 1}])
def test_extra_widths_are_not_given(change: dict[str, int]) -> None:
    for specs in ((), (TAGS,)):
        with pytest.raises(ValueError, match="sources set the ranker's extra widths themselves"):
            ComposedRanker(replace(RANKER, **change), SIZES, Sources(specs=specs))


def test_a_source_that_is_not_there_is_named_with_those_that_are() -> None:
    with pytest.raises(ValueError, match="has sources sarm, wanted tags"):
        sarm().source("tags")
    with pytest.raises(ValueError, match="has sources none, wanted tags"):
        composed().source("tags")


@pytest.mark.parametrize("given", [{}, {"tags": (torch.zeros(NUM_AUTHORS + 1, 1),)}])
def test_inputs_of_other_sources_are_refused(given: dict[str, Inputs]) -> None:
    with pytest.raises(ValueError, match=r"wanted inputs of the sources \['sarm'\], got those of"):
        sarm().tables(given)


def test_inputs_of_another_number_of_authors_are_refused() -> None:
    base, live = tokens().tensors()
    for given in ((base[:2], live[:2]), (base, live[:2])):
        with pytest.raises(ValueError, match="sarm: wanted inputs of 12 author rows, got .*2"):
            sarm().tables({"sarm": given})


def test_representations_of_another_width_are_refused() -> None:
    with pytest.raises(ValueError, match="extra has width 0, the ranker was built for extra_dim=4"):
        composed(TAGS)(batch(3))
    with pytest.raises(ValueError, match="extra has width 3"):
        composed(TAGS)(batch(3), [Representations(author=(torch.zeros(3, 3),))])


@pytest.mark.parametrize("specs", [(), (sarm_spec(),), (sarm_spec(), TAGS)])
def test_scoring_in_training_mode_is_refused(specs: tuple[SourceSpec, ...]) -> None:
    model = composed(*specs).train()
    with pytest.raises(ValueError, match="model.eval"):
        model.score_rows(batch(3), tables(model))


def test_a_saved_kind_from_elsewhere_is_refused(tmp_path: Path) -> None:
    composed(TAGS).save(tmp_path)
    head = json.loads((tmp_path / "config.json").read_text())
    head["described"]["specs"][0]["kind"] = "os:system"
    (tmp_path / "config.json").write_text(json.dumps(head))
    with pytest.raises(ValueError, match="source tags: wanted a class of models/, got 'os:system'"):
        ComposedRanker.load(tmp_path)


@pytest.mark.parametrize("budget", [None, 2])
def test_a_bank_is_kept_for_the_sources_that_encode(budget: int | None) -> None:
    model = composed(sarm_spec(replace(SARM_CONFIG, encode_budget=budget)), TAGS)
    banks = {name: source.memory_bank(NUM_AUTHORS, torch.device("cpu")) for name, source in model.items()}
    assert banks["tags"] is None and banks["sarm"] is not None
    assert banks["sarm"].vectors.shape == (NUM_AUTHORS + 1, 2, SARM_CONFIG.width)
    batches = [batch(12), batch(12, seed=1)]
    encoded = encoded_for(trainer(model, **inputs(model)), batches, {"sarm": filled_bank()})
    assert list(encoded) == ["sarm"]
    targets = torch.cat([batch(12).author, batch(12, seed=1).author]).unique()
    assert len(encoded["sarm"].rows) == (budget or len(targets))


@pytest.mark.parametrize("name", ["sarm", "tags", "clips"])
def test_a_table_that_a_source_made_is_one_that_it_takes_and_no_other_is(name: str) -> None:
    model = composed(sarm_spec(), TAGS, CLIPS).eval()
    source, made = model.source(name), model.tables(inputs(model))[name]
    source.check_table(made)
    source.check_table(made[:3])
    for other in (made[..., :-1] if name != "tags" else made + NUM_CODES, made.astype("float64"), made[:, None]):
        with pytest.raises(ValueError, match="wanted"):
            source.check_table(other)


def test_vectors_to_compare_authors_by_are_views_of_the_table() -> None:
    model = composed(sarm_spec(), TAGS, CLIPS).eval()
    found = tables(model)
    of_sarm = model.source("sarm").vectors(found["sarm"])
    assert list(of_sarm) == ["cls", "tar"]
    assert torch.equal(torch.stack(list(of_sarm.values()), dim=1), found["sarm"])
    assert torch.equal(model.source("clips").vectors(found["clips"])["embedding"], embeddings())
    assert model.source("tags").vectors(found["tags"]) == {}
