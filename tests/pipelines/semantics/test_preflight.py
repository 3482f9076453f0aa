"""What is found in a checkpoint before anything starts, and what the engine is told of it."""

import json
import logging
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from pipelines.runtime.config import ConfigError
from pipelines.semantics import preflight
from pipelines.semantics.author_day import PromptConfig
from pipelines.semantics.checkpoint import STUDENT
from pipelines.semantics.engine_config import EngineConfig
from tests.pipelines.semantics.checkpoints import changed, copied, published_images

ROOT = Path(__file__).resolve().parents[3]
NO_PICTURE = r"writes <\|image_pad\|> once .*got it 0 times"
LLAVA = "wanted a Qwen-VL .* got 'llava'"
TEXT_TEMPLATE = "{% for m in messages %}{% if m.content is string %}{{ m.content }}{% endif %}{% endfor %}"


def quantised(method: str, **more: object) -> Callable[[Path], None]:
    return lambda f: changed(f, "config.json", lambda c: c.update(quantization_config={"quant_method": method} | more))


FLOATS = {"config_groups": {"group_0": {"weights": {"type": "float", "num_bits": 8}}}}


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (
            lambda f: changed(f, "config.json", lambda c: c.update(model_type="llava")),
            "wanted a Qwen-VL .* got 'llava'",
        ),
        (lambda f: (f / "config.json").write_text("version https://git-lfs.github.com/spec/v1\n"), "Git-LFS pointer"),
        (lambda f: (f / "config.json").write_text('{"model_type": '), "not JSON"),
        (lambda f: (f / "chat_template.jinja").unlink(), "wanted a chat template"),
        (
            lambda f: (f / "chat_template.jinja").write_text(TEXT_TEMPLATE),
            r"writes <\|image_pad\|> once .*got it 0 times",
        ),
        (lambda f: (f / "chat_template.jinja").write_text("{{ raise_exception('no') }}"), "its chat template fails"),
        (lambda f: (f / "processor_config.json").unlink(), "image processor's settings"),
        (lambda f: (f / "tokenizer.json").unlink(), "wanted a tokenizer.json"),
        (lambda f: (f / "tokenizer.json").write_text('{"version": "1.0", "trunc'), "cannot be read"),
        (lambda f: changed(f, "config.json", lambda c: c.update(image_token_id=77)), "the id 5, config.json says 77"),
        (lambda f: (f / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\n"), "Git-LFS"),
        (lambda f: (f / "model.safetensors").unlink(), "wanted weights"),
        (quantised("fp8"), "quantised as fp8, which vLLM's CPU build cannot compute"),
        (quantised("bitsandbytes"), "quantised as bitsandbytes"),
        (quantised("compressed-tensors", **FLOATS), "compressed-tensors floats"),
    ],
)
def test_a_checkpoint_that_cannot_write_anchors_is_refused(tmp_path: Path, harm: Callable[[Path], object], said: str):
    folder = copied(tmp_path / "model")
    harm(folder)
    with pytest.raises(ConfigError, match=said) as caught:
        preflight.look(str(folder), use_gpu=False)
    assert str(caught.value).startswith(f"anchors.model {folder}") and "\n" not in str(caught.value)


@pytest.mark.parametrize("harm", [quantised("awq"), quantised("gptq"), quantised("compressed-tensors")])
def test_quantisations_that_a_cpu_computes_pass(tmp_path: Path, harm: Callable[[Path], None]):
    folder = copied(tmp_path / "model")
    harm(folder)
    preflight.look(str(folder), use_gpu=False)


def test_a_gpu_computes_what_a_cpu_cannot(tmp_path: Path):
    folder = copied(tmp_path / "model")
    quantised("fp8")(folder)
    preflight.look(str(folder), use_gpu=True)


@pytest.mark.parametrize("place", ["chat_template.json", "tokenizer_config.json", "names"])
def test_a_chat_template_is_found_wherever_checkpoints_keep_it(tmp_path: Path, place: str):
    folder = copied(tmp_path / "model")
    template = (folder / "chat_template.jinja").read_text()
    (folder / "chat_template.jinja").unlink()
    named = [{"name": "tool_use", "template": "x"}, {"name": "default", "template": template}]
    if place == "chat_template.json":
        (folder / place).write_text(json.dumps({"chat_template": template}))
    else:
        found = named if place == "names" else template
        changed(folder, "tokenizer_config.json", lambda c: c.update(chat_template=found))
    assert preflight.look(str(folder), use_gpu=False).chat_template == template


def test_an_older_processor_file_and_a_flat_config_are_read(tmp_path: Path):
    folder = copied(tmp_path / "model")
    (folder / "processor_config.json").unlink()
    old = {"patch_size": 14, "merge_size": 2, "min_pixels": 3136, "max_pixels": 12845056}
    (folder / "preprocessor_config.json").write_text(json.dumps(old))
    changed(folder, "config.json", lambda c: c.update(c.pop("text_config"), model_type="qwen2_vl"))
    found = preflight.look(str(folder), use_gpu=False)
    assert (found.images.block, found.images.max_pixels) == (28, 12845056)
    assert found.kv_bytes(4) == 2 * 3 * 4 * 32 * 4 and found.longest == 4096


def without_architectures(to: Path) -> Path:
    changed(copied(to), "config.json", lambda c: c["text_config"].pop("architectures"))
    return to


def told(folder: Path, config: EngineConfig) -> EngineConfig:
    return preflight.fitted(preflight.look(str(folder), use_gpu=config.use_gpu), PromptConfig(), config)


OVERRIDE = {"text_config": {"architectures": ["Qwen3ForCausalLM"]}}


def test_a_missing_architecture_is_set_for_the_job_and_said(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    folder = without_architectures(tmp_path / "model")
    caplog.set_level(logging.INFO)
    assert told(folder, EngineConfig()).engine_kwargs["hf_overrides"] == OVERRIDE
    assert len(caplog.records) == 1 and "Qwen3ForCausalLM is set for this job" in caplog.text
    own = EngineConfig(engine_kwargs={"hf_overrides": {"x": 1}})
    assert told(folder, own).engine_kwargs["hf_overrides"] == {"x": 1}
    assert "hf_overrides" not in told(folder, EngineConfig(use_gpu=True)).engine_kwargs
    assert told(STUDENT, EngineConfig()).engine_kwargs == {}


def test_the_engine_starts_up_for_frames_as_large_as_they_are_sent(tmp_path: Path):
    folder = copied(tmp_path / "model")
    published_images(folder)
    size = {"shortest_edge": 3136, "longest_edge": 256 * 28 * 28}
    assert told(folder, EngineConfig()).engine_kwargs["mm_processor_kwargs"] == {"size": size}
    own = {"mm_processor_kwargs": {"size": {"longest_edge": 1}}}
    assert told(folder, EngineConfig(engine_kwargs=own)).engine_kwargs == own


def test_keys_and_values_of_one_request_must_fit(tmp_path: Path):
    folder = copied(tmp_path / "model")
    changed(folder, "config.json", lambda c: c["text_config"].update(num_hidden_layers=4000))
    with pytest.raises(ConfigError, match=r"^anchors.engine.kv_cache_gb: .* takes [\d.]+ GiB .* set it to \d+ or more"):
        told(folder, EngineConfig())
    told(folder, replace(EngineConfig(), use_gpu=True))


def test_the_door_refuses_in_one_line_without_ray(tmp_path: Path):
    """In a process of its own."""
    folder = copied(tmp_path / "model")
    (folder / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\n")
    config = {
        "run_dir": str(tmp_path / "run"),
        "storage": {"root": str(tmp_path / "store")},
        "world": {"num_days": 1, "num_authors": 20, "num_users": 10, "impressions_per_day": 20},
        "anchors": {"model": str(folder)},
    }
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(config))
    code = """
import sys
from pipelines.__main__ import main
config = sys.argv[1]
assert main(["world", "--config", config]) == 0
code = main(["anchors", "--config", config])
print("loaded:", sorted({"ray", "vllm"} & set(sys.modules)), "code:", code)
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "c.yaml")], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "loaded: [] code: 2"
    error = done.stderr.splitlines()[-1]
    assert error.startswith(f"error: anchors.model {folder}/model.safetensors: got a Git-LFS pointer")


def test_neither_looking_nor_gathering_loads_torch():
    code = """
import sys
from pipelines.semantics import anchors, engine, preflight
preflight.look(sys.argv[1], use_gpu=False)
print(sorted({"torch", "ray", "vllm"} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code, str(STUDENT)], cwd=ROOT, capture_output=True, check=True)
    assert done.stdout.decode().split() == ["[]"]
