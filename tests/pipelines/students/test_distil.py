"""The job distil under Ray Train: its checkpoint and card, its progress, and adapters on a downloaded checkpoint."""

import json
import logging
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from models.artifacts.manifest import MANIFEST, Manifest
from pipelines.runtime import config
from pipelines.runtime.config import ConfigError
from pipelines.runtime.scaling import TrainScaling
from pipelines.semantics.checkpoint import STUDENT
from pipelines.settings import Settings
from pipelines.students import distil
from pipelines.students.distil import CARD, DistilConfig, LoraSettings
from pipelines.students.loop import LoopConfig
from pipelines.tables.contract import FIELDS, ContractError
from pipelines.tables.storage import StorageConfig
from pipelines.world import world
from pipelines.world.config import WorldConfig
from tests.pipelines import little_student as students
from tests.pipelines.jobs import run_job

STEPS = 6
# peft asks transformers by a name that transformers has replaced.
PEFT_BEHIND = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
LORA = LoraSettings(rank=4, alpha=16, target_modules=("q_proj", "v_proj", "down_proj"))


@dataclass(frozen=True)
class Done:
    """A finished run, with what its driver logged."""

    settings: Settings
    metrics: dict[str, Any]
    lines: list[str]

    @property
    def output(self) -> Path:
        return Path(self.settings.distil.output)


class Lines(logging.Handler):
    """Keeps the messages of a log for longer than one test, as caplog cannot."""

    def __init__(self, lines: list[str]) -> None:
        super().__init__()
        self.lines = lines

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


def settings_for(root: Path, *, workers: int = 1, **options: Any) -> Settings:
    """40 author-days, three kept out, and a few steps."""
    loop = LoopConfig(batch_size=4, max_steps=STEPS, warmup_steps=1, log_every=2, learning_rate=5e-3)
    return Settings(
        seed=3,
        run_dir=str(root),
        storage=StorageConfig(root=str(root / "store")),
        world=WorldConfig(
            num_days=1, num_authors=40, num_users=10, on_air_share=1.0, frame_size=32, impressions=False, teacher=True
        ),
        distil=DistilConfig(
            output=str(root / "distil" / "student"),
            student=students.CONFIG,
            prompt=students.PROMPT,
            loop=loop,
            scaling=TrainScaling(num_workers=workers),
            held_out=3,
            **options,
        ),
    )


def run(settings: Settings) -> Done:
    lines: list[str] = []
    handler = Lines(lines)
    distil.log.addHandler(handler)
    distil.log.setLevel(logging.INFO)
    try:
        run_job(world, settings)
        return Done(settings, run_job(distil, settings), lines)
    finally:
        distil.log.removeHandler(handler)
        distil.log.setLevel(logging.NOTSET)


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory, ray_cluster: None) -> Done:
    """A small student made and trained by two workers, over a world of its own."""
    return run(settings_for(tmp_path_factory.mktemp("distil"), workers=2))


@pytest.fixture(scope="module")
def downloaded(student: Done, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The student in the number format of downloaded checkpoints; lies where the job keeps its own files."""
    from transformers import AutoModelForImageTextToText, AutoProcessor

    folder = tmp_path_factory.mktemp("lora") / "distil" / "downloaded"
    AutoModelForImageTextToText.from_pretrained(student.output, dtype=torch.bfloat16).save_pretrained(folder)
    AutoProcessor.from_pretrained(student.output).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def adapted(student: Done, downloaded: Path) -> tuple[Done, dict[str, bytes]]:
    """The checkpoint fine-tuned through adapters, in place of an earlier output; and its files before that."""
    before = files(downloaded)
    settings = settings_for(downloaded.parents[1], workers=2, base=str(downloaded), lora=LORA)
    shutil.copytree(student.output, settings.distil.output)
    (Path(settings.distil.output) / "of-the-first").touch()
    tuned = replace(settings.distil, loop=replace(settings.distil.loop, learning_rate=0.02))
    return run(replace(settings, seed=4, storage=student.settings.storage, distil=tuned)), before


@pytest.mark.ray
def test_the_output_is_an_ordinary_checkpoint(student: Done) -> None:
    from transformers import AutoModelForImageTextToText, AutoProcessor

    model = AutoModelForImageTextToText.from_pretrained(student.output)
    assert type(model).__name__ == "Qwen3VLForConditionalGeneration"
    assert model.config.text_config.hidden_size == students.CONFIG.hidden_size
    processor = AutoProcessor.from_pretrained(student.output)
    assert processor.tokenizer.eos_token_id == model.generation_config.eos_token_id


@pytest.mark.ray
def test_training_moved_every_part_of_the_student(student: Done) -> None:
    untrained = load_file(Path(student.settings.run_dir) / "distil" / "work" / "untrained" / "model.safetensors")
    trained = load_file(student.output / "model.safetensors")
    assert trained.keys() == untrained.keys()
    moved = {name for name in trained if not torch.equal(trained[name], untrained[name])}
    for part in ("visual.blocks", "visual.merger", "self_attn.q_proj", "mlp.down_proj", "embed_tokens", "norm"):
        assert any(part in name for name in moved), part


@pytest.mark.ray
def test_the_card_says_how_it_was_made_and_how_good_it_is(student: Done) -> None:
    card = json.loads((student.output / CARD).read_text())
    assert "python -m pipelines distil" in card["command"]
    assert config.build(DistilConfig, card["config"]) == student.settings.distil
    assert card["seed"] == 3 and card["steps"] == STEPS
    assert card["seconds"] > 0 and 0 < card["loss"] < 10
    assert card["held_out"]["author_days"] == 3 and 0 <= card["held_out"]["valid_rate"] <= 1
    assert card["held_out"]["agreement"].keys() == set(FIELDS)
    assert student.metrics == {k: card[k] for k in ("steps", "loss", "seconds", "held_out")} | {
        "output": str(student.output)
    }


@pytest.mark.ray
def test_the_manifest_covers_every_file_and_the_work_leaves_none(student: Done) -> None:
    manifest = Manifest.verify(student.output)
    assert manifest.kind == "student"
    assert {*manifest.files, MANIFEST} == {path.name for path in student.output.iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", CARD} <= manifest.files.keys()
    assert "figures.json" not in manifest.files


@pytest.mark.ray
def test_the_first_worker_s_progress_reaches_the_driver_s_log(student: Done) -> None:
    steps = [line for line in student.lines if line.startswith("distil | step")]
    assert [line.split(" | loss")[0] for line in steps] == [
        "distil | step 2/6 (33 %)", "distil | step 4/6 (67 %)", "distil | step 6/6 (100 %)"
    ]  # fmt: skip
    assert all("steps/s | eta" in line for line in steps)


@pytest.mark.ray
def test_a_second_run_replaces_the_output(adapted: tuple[Done, dict[str, bytes]]) -> None:
    output = adapted[0].output
    assert json.loads((output / CARD).read_text())["seed"] == 4
    assert {*Manifest.verify(output).files, MANIFEST} == {path.name for path in output.iterdir()}
    assert {path.name for path in output.parent.iterdir()} == {"student", "downloaded", "work"}


def test_a_copy_that_breaks_off_leaves_the_old_output_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained, output = tmp_path / "trained", tmp_path / "out" / "student"
    trained.mkdir()
    (trained / "config.json").write_text("{}")
    distil.publish(trained, output, {"seed": 1})
    before = files(output)

    def disk_full(source: Path, target: Path) -> None:
        target.mkdir()
        raise OSError("no space left on device")

    with monkeypatch.context() as patch, pytest.raises(OSError, match="no space"):
        patch.setattr(shutil, "copytree", disk_full)
        distil.publish(trained, output, {"seed": 2})
    assert files(output) == before
    distil.publish(trained, output, {"seed": 2})
    assert json.loads((output / CARD).read_text()) == {"seed": 2}
    assert [path.name for path in output.parent.iterdir()] == ["student"]


@pytest.mark.ray
def test_every_node_must_see_what_the_workers_share(
    student: Done, downloaded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: dict[str, str] = {}

    def refuse(places: dict[str, str], scaling: TrainScaling) -> None:
        asked.update(places)
        raise ConfigError("a node does not see it")

    monkeypatch.setattr(distil, "require_shared", refuse)
    settings = settings_for(tmp_path, base=str(downloaded))
    settings = replace(settings, storage=student.settings.storage)
    with pytest.raises(ConfigError, match="does not see"):
        run_job(distil, settings)
    assert asked == {
        "storage.root": str(student.settings.storage.root),
        "run_dir": str(tmp_path / "distil" / "work"),
        "distil.output": str(tmp_path / "distil"),
        "distil.base": str(downloaded / "config.json"),
    }


@pytest.mark.ray
def test_adapters_end_as_an_ordinary_checkpoint_of_the_base_s_shape(adapted: tuple[Done, dict[str, bytes]]) -> None:
    from transformers import AutoModelForImageTextToText

    done, base = adapted
    got = files(done.output)
    assert got.keys() == base.keys() | {CARD, MANIFEST}
    assert json.loads(got["config.json"]) == json.loads(base["config.json"])
    assert json.loads(got[CARD])["config"]["lora"]["rank"] == LORA.rank
    _, loading = AutoModelForImageTextToText.from_pretrained(done.output, output_loading_info=True)
    assert not any(loading.values())


@pytest.mark.ray
def test_adapters_change_their_layers_and_nothing_else(
    adapted: tuple[Done, dict[str, bytes]], downloaded: Path
) -> None:
    base = load_file(downloaded / "model.safetensors")
    tuned = load_file(adapted[0].output / "model.safetensors")
    assert {n: (t.shape, t.dtype) for n, t in tuned.items()} == {n: (t.shape, t.dtype) for n, t in base.items()}
    moved = {name for name in base if not torch.equal(base[name], tuned[name])}
    assert moved == {name for name in base if name.split(".")[-2] in LORA.target_modules}
    assert moved and all(".language_model." in name for name in moved)


@pytest.mark.ray
def test_fine_tuning_leaves_the_base_as_it_was(adapted: tuple[Done, dict[str, bytes]], downloaded: Path) -> None:
    assert files(downloaded) == adapted[1]


def _tiny(generation: str) -> Any:
    """A Qwen-VL of one layer each, without memory behind its weights."""
    import transformers

    text: dict[str, Any] = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "vocab_size": 64}
    text |= {"num_attention_heads": 2, "num_key_value_heads": 2, "bos_token_id": None, "eos_token_id": None}
    vision = {"depth": 1, "hidden_size": 32, "embed_dim": 32, "num_heads": 2, "intermediate_size": 32}
    made = getattr(transformers, f"{generation}Config")(text_config=text, vision_config=vision)
    with torch.device("meta"):
        return getattr(transformers, f"{generation}ForConditionalGeneration")(made)


def _adapted(generation: str, lora: LoraSettings) -> set[str]:
    model = distil.with_lora(_tiny(generation), lora)
    trained = {name for name, weight in model.named_parameters() if weight.requires_grad}
    assert all(".lora_" in name for name in trained)
    return {name.split(".lora_")[0].removeprefix("base_model.model.") for name in trained}


@PEFT_BEHIND
@pytest.mark.parametrize("generation", ["Qwen2VL", "Qwen2_5_VL", "Qwen3VL"])
def test_the_vision_tower_gets_no_adapter(generation: str) -> None:
    layer = "model.language_model.layers.0"
    attention = {f"{layer}.self_attn.{name}_proj" for name in "qkvo"}
    assert _adapted(generation, LoraSettings()) == attention | {
        f"{layer}.mlp.{name}_proj" for name in ("gate", "up", "down")
    }


@PEFT_BEHIND
def test_the_vision_tower_gets_adapters_where_asked() -> None:
    lora = LoraSettings(target_modules=("qkv", "q_proj"), vision=True)
    assert _adapted("Qwen3VL", lora) == {
        "model.visual.blocks.0.attn.qkv",
        "model.language_model.layers.0.self_attn.q_proj",
    }


def test_a_base_without_a_config_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=rf"distil.base {tmp_path}: wanted .*config.json"):
        run_job(distil, settings_for(tmp_path, base=str(tmp_path)))


def test_adapters_need_a_base() -> None:
    with pytest.raises(ConfigError, match="wanted distil.base too"):
        config.build(DistilConfig, {"lora": {"rank": 8}})


@pytest.mark.parametrize("based", [False, True])
def test_too_few_author_days_are_refused(tmp_path: Path, based: bool) -> None:
    settings = settings_for(tmp_path, base=str(STUDENT) if based else None)
    settings = replace(settings, distil=replace(settings.distil, held_out=1000))
    run_job(world, settings)
    with pytest.raises(ContractError, match="wanted more than distil.held_out = 1000 authors .*, got 40"):
        run_job(distil, settings)
    assert not Path(settings.distil.output).exists()
