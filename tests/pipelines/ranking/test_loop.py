"""The training loop on another device than the CPU."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from models.sarm.live_tokenizer.tokenizer import LiveStreamingTokenizer
from models.sarm.memory_bank import MemoryBank
from pipelines.ranking.checkpoint import Progress, bank_file, folder_after
from pipelines.ranking.fit import train
from pipelines.ranking.plan import make_plan
from pipelines.ranking.published import advance, load, score
from pipelines.ranking.worker import Worker
from pipelines.samples.batches import read_examples
from pipelines.semantics import vocabulary
from pipelines.semantics.corpus import corpus
from pipelines.settings import Settings
from pipelines.tables.artifacts import Artifacts
from pipelines.tables.storage import rows_of
from tests.models.devices import second_device
from tests.pipelines.jobs import run_job

DAYS = ("2026-01-01", "2026-01-02")


def _train(
    settings: Settings,
    sources: tuple[str, ...],
    work: Path,
    device: torch.device | str = "cpu",
    resume: Path | None = None,
    lines: list[str] | None = None,
) -> Progress:
    run = settings.open()
    plan, made_from = make_plan(settings.train, run, Artifacts(run.storage), sources)
    return train(
        plan,
        run.storage,
        made_from,
        work=work,
        worker=Worker(device=torch.device(device)),
        report=lambda metrics, folder: None,
        log_line=([] if lines is None else lines).append,
        resume=resume,
    )


def _losses(progress: Progress) -> list[float]:
    return [entry["loss"] for entry in progress.curve]


def test_anchors_that_are_cut_are_said_once(tiny: Settings, tmp_path: Path) -> None:
    lines: list[str] = []
    generous = replace(tiny, vocabulary=replace(tiny.vocabulary, max_tokens=1000))
    run_job(vocabulary, generous)
    _train(generous, ("sarm",), tmp_path / "whole", lines=lines)
    assert lines and not [line for line in lines if "warning" in line]
    run_job(vocabulary, replace(tiny, vocabulary=replace(tiny.vocabulary, max_tokens=20)))
    _train(tiny, ("sarm",), tmp_path / "cut", lines=lines)
    (warning,) = [line for line in lines if "warning" in line]
    storage = tiny.open().storage
    tokenizer = LiveStreamingTokenizer.load(Artifacts(storage).fetch("tokenizer"))
    # Training of two days reads the anchors of the first day, before the second.
    cut = sum(length > 20 for length in tokenizer.lengths(corpus(storage, DAYS[:1])))
    total = rows_of(storage, "anchors", DAYS[0])
    assert warning.startswith("sarm | warning: sarm: anchors cut: ") and f" {cut} of {total} (" in warning
    _train(tiny, (), tmp_path / "base", lines=lines)
    assert len([line for line in lines if "warning" in line]) == 1, "Base reads no anchors"


def test_each_checkpoint_is_said_with_its_size_and_seconds(tiny: Settings, tmp_path: Path) -> None:
    lines: list[str] = []
    _train(tiny, (), tmp_path, lines=lines)
    said = [line for line in lines if "| checkpoint " in line]
    form = r"base \| checkpoint after-{}-{} \| 0.00 GiB \| settled [\d.]+ s, saved [\d.]+ s, kept [\d.]+ s"
    for number, (line, day) in enumerate(zip(said, DAYS, strict=True), start=1):
        assert re.fullmatch(form.format(number, day), line), line


def test_a_line_tells_the_loss_of_each_task_and_the_age_of_the_bank(tiny: Settings, tmp_path: Path) -> None:
    lines: list[str] = []
    progress = _train(tiny, ("sarm",), tmp_path, lines=lines)
    said = [line for line in lines if "| step " in line]
    assert len(said) == len(progress.curve)
    point, total = progress.curve[-1], progress.step
    by_task = " ".join(f"{task} {point[f'{task}_loss']:.3f}" for task in ("click", "follow", "long_view", "gift"))
    form = (
        rf"sarm \| step {total}/{total} \(100 %\) \| {DAYS[1]} \| loss {point['main_loss']:.4f} \({by_task}\) \| "
        rf"aux {point['aux_loss']:.4f} \| encoded {progress.encoded} \| sarm bank age (\d+) steps \| "
        rf"\d+ examples/s \| waiting \d+ % \| eta \d+ s"
    )
    found = re.fullmatch(form, said[-1])
    assert found, said[-1]
    bank = MemoryBank.load(tmp_path / folder_after(progress) / bank_file("sarm"))
    assert int(found[1]) == round(bank.age(total)) > 0
    assert point["main_loss"] == pytest.approx(sum(point[f"{task}_loss"] for task in tiny.train.ranker.tasks))


@pytest.mark.parametrize("sources", [("sarm",), ()])
def test_a_run_and_its_checkpoints_pass_from_device_to_device(
    tiny: Settings, tmp_path: Path, sources: tuple[str, ...]
) -> None:
    whole = _losses(_train(tiny, sources, tmp_path / "cpu"))
    with second_device() as device:
        there = _train(tiny, sources, tmp_path / "there", device)
        moved = _train(tiny, sources, tmp_path / "moved", device, resume=tmp_path / "cpu" / f"after-1-{DAYS[0]}")
    back = _train(tiny, sources, tmp_path / "back", resume=tmp_path / "there" / f"after-1-{DAYS[0]}")
    for progress in (there, moved, back):
        assert progress.done == list(DAYS)
        assert _losses(progress) == pytest.approx(whole, abs=1e-3)


def test_a_model_scores_where_it_is(trained: Settings) -> None:
    storage = trained.open().storage
    artifacts = Artifacts(storage)
    ranker, columns = load(artifacts, "sarm"), read_examples(storage, DAYS[1])
    inputs = advance(ranker.states(storage, artifacts), DAYS[1])
    tables = ranker.model.tables(inputs)
    wanted = score(ranker.model, ranker.catalog, columns, tables)
    with second_device() as device:
        ranker.model.to(device)
        there = {name: tuple(part.to(device) for part in of) for name, of in inputs.items()}
        found = score(ranker.model, ranker.catalog, columns, ranker.model.tables(there))
    np.testing.assert_allclose(found, wanted, atol=1e-5)
