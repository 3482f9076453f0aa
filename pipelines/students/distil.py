"""Distil: fine-tune a Qwen-VL model on (segments -> anchor) pairs under Ray Train, and save a Hugging Face checkpoint.

Without `distil.base` a small student is made from the architecture's config; with the folder of a downloaded Qwen-VL
that one is fine-tuned (LoRA through peft). Beside the checkpoint, DISTIL.json says command, seed, time and accuracies.

Run: python -m pipelines distil --config pipelines/configs/distil.yaml
"""

import json
import logging
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from models.artifacts.manifest import Manifest
from models.config import PathText
from pipelines.runtime.cluster import connected
from pipelines.runtime.config import ConfigError, to_dict
from pipelines.runtime.ray_train import Training, fit
from pipelines.runtime.run import Run
from pipelines.runtime.scaling import TrainScaling
from pipelines.runtime.shared import require_shared
from pipelines.semantics import prompt
from pipelines.semantics.author_day import PromptConfig
from pipelines.students import questions
from pipelines.students.loop import LoopConfig
from pipelines.students.pairs import Collator, Pair, load, vocabulary_texts
from pipelines.students.student import StudentConfig
from pipelines.tables import contract
from pipelines.tables.fingerprint import digest
from pipelines.tables.storage import Storage

log = logging.getLogger(__name__)
CARD = "DISTIL.json"
VISION_TOWER = r"(.+\.)?visual(\..+)?"
"""Names of the vision tower and of all in it, in every Qwen-VL."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LoraSettings:
    """Low-rank adapters for fine-tuning a downloaded checkpoint, merged before saving (peft)."""

    rank: int = 16
    """Rank of the adapters."""
    alpha: int = 32
    """Scale of the adapters, divided by the rank."""
    dropout: float = 0.0
    """Dropout on the adapters' input."""
    target_modules: tuple[str, ...] = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    """Linear layers that get an adapter, by the last parts of their names."""
    vision: bool = False
    """Also those of the vision tower that have such a name; False leaves the tower as it is."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DistilConfig:
    """What is fine-tuned, on what, for how long."""

    output: PathText = "runs/distil/student"
    """Folder of the checkpoint; replaced only once the new one is whole. On several nodes, one that all of them see."""
    base: PathText | None = None
    """Folder of a checkpoint to start from; None makes a small student."""
    student: StudentConfig = field(default_factory=StudentConfig)
    """Shape of the small student, where `base` is None."""
    lora: LoraSettings | None = None
    """Adapters for a downloaded checkpoint; None trains every weight."""
    prompt: PromptConfig = field(default_factory=PromptConfig)
    """How much of an author's day the model reads; must equal the anchor job's."""
    anchors: bool = True
    """Whether the teacher's anchors are learnt."""
    questions: int = 0
    """Questions of the table `segment_answers` that are learnt of each segment, at most (LARM 2.1); 0 = none."""
    loop: LoopConfig = field(default_factory=LoopConfig)
    """How long and how fast."""
    scaling: TrainScaling = field(default_factory=TrainScaling)
    """Workers of Ray Train; a step takes `loop.batch_size` pairs of each."""
    held_out: int = 256
    """Authors kept out of training; accuracies are measured on so many of their days, and of their questions."""
    max_failures: int = 2
    """Failures (a lost worker, node or controller is one) after which fine-tuning begins again, from `base`."""

    def __post_init__(self) -> None:
        if self.questions < 0:
            raise ValueError(f"distil.questions: wanted 0 or more, got {self.questions}")
        if not self.anchors and not self.questions:
            raise ValueError("distil: wanted something to learn, got anchors: false and questions: 0; set one of them")
        if self.lora is not None and self.base is None:
            raise ValueError(
                "distil.lora: wanted distil.base too, got none; give the folder of a downloaded checkpoint"
            )


def run(config: DistilConfig, run: Run) -> dict[str, Any]:
    """Reads segments, authors and what a teacher wrote; writes a checkpoint folder with its card and manifest."""
    started = time.perf_counter()
    if config.base is not None and not (Path(config.base) / "config.json").is_file():
        raise ConfigError(
            f"distil.base {config.base}: wanted a folder with config.json, got none; download a Qwen-VL first"
        )
    storage = run.storage
    held_out, rest = pairs_of(storage, config)
    output = Path(config.output).absolute()
    work = run.folder.resolve() / "distil" / "work"  # emptied: a base or an output may lie beside it
    shutil.rmtree(work, ignore_errors=True)
    start = Path(config.base).resolve() if config.base else work / "untrained"
    if config.base is None:
        from pipelines.students import student

        student.create(config.student, vocabulary_texts(rest), run.seed, start)
    del rest  # the workers read their own, and the machine may be theirs too
    with connected(run.cluster):
        places = {"storage.root": storage.url, "run_dir": str(work), "distil.output": str(output.parent)}
        require_shared(places | ({"distil.base": f"{start}/config.json"} if config.base else {}), config.scaling)
        trained = _fit(config, run, str(start), storage.url, work)
    days, asked = (
        [pair for pair in held_out if (pair.question == prompt.INSTRUCTION) is anchor][: config.held_out]
        for anchor in (True, False)
    )
    scores = measure(work / "trained", days, config.loop.batch_size) if days else {}
    scores |= {"questions": answered(work / "trained", asked, config.loop.batch_size)} if asked else {}
    card = {
        "command": "python -m pipelines distil --config <the config below>",
        "config": to_dict(config),
        "seed": run.seed,
        "seconds": round(time.perf_counter() - started, 1),
        **trained,
        "held_out": scores,
    }
    publish(work / "trained", output, card)
    log.info("distil | held out %s", scores)
    return {key: card[key] for key in ("seconds", "steps", "loss", "held_out")} | {"output": config.output}


def pairs_of(storage: Storage, config: DistilConfig) -> tuple[list[Pair], list[Pair]]:
    """Pairs of the authors that are held out, and those to learn."""
    pairs = load(storage, config.prompt) if config.anchors else []
    pairs += questions.load(storage, config.prompt, config.questions) if config.questions else []
    authors = list(dict.fromkeys(pair.author_id for pair in pairs))
    if len(authors) <= config.held_out:
        raise contract.ContractError(
            f"tables anchors and segment_answers: wanted more than distil.held_out = {config.held_out} authors of whom "
            f"a teacher wrote, got {len(authors)}; write more first, or lower distil.held_out"
        )
    apart = set(authors[: config.held_out])
    return [p for p in pairs if p.author_id in apart], [p for p in pairs if p.author_id not in apart]


def _fit(config: DistilConfig, run: Run, start: str, root: str, work: Path) -> dict[str, Any]:
    """One run of Ray Train; rank 0 leaves the checkpoint and its figures in `work`/trained."""
    raw = {"config": config, "seed": run.seed, "start": start, "root": root, "work": str(work)}
    training = Training(
        name="distil", storage_path=str(work / "ray"), scaling=config.scaling, max_failures=config.max_failures
    )
    _, failures = fit(_worker, raw, training, log)
    figures = work / "trained" / "figures.json"
    if not figures.is_file():
        raise RuntimeError(f"distil: wanted {figures} from worker 0, got none; see the worker logs below {work}/ray")
    loaded: dict[str, Any] = json.loads(figures.read_text())
    figures.unlink()
    return loaded | {"failures": failures}


def _worker(raw: dict[str, Any]) -> None:
    """What each worker of Ray Train runs."""
    import ray.train
    import torch
    from ray.train.torch import get_device
    from transformers import AutoModelForImageTextToText, AutoProcessor

    from pipelines.students.loop import AnswerLoss, train

    config: DistilConfig = raw["config"]
    context = ray.train.get_context()
    rank, world_size, device = context.get_world_rank(), context.get_world_size(), get_device()
    torch.set_num_threads(config.scaling.cpus_per_worker)
    processor = AutoProcessor.from_pretrained(raw["start"])
    model = AutoModelForImageTextToText.from_pretrained(raw["start"])
    if config.lora is not None:
        model = with_lora(model, config.lora)
    module: torch.nn.Module = AnswerLoss(model.to(device), config.loop.summary_weight)
    if world_size > 1:
        module = torch.nn.parallel.DistributedDataParallel(module, find_unused_parameters=True)
    _, pairs = pairs_of(Storage.open(raw["root"]), config)
    figures = train(
        module, Collator(processor), pairs, config.loop,
        seed=raw["seed"], rank=rank, world_size=world_size, device=str(device),
        report=lambda row: raw["lines"].put(_line(row, config.loop)) if rank == 0 else None,
    )  # fmt: skip
    if rank == 0:
        folder = Path(raw["work"]) / "trained"
        merged = model.merge_and_unload() if config.lora is not None else model
        merged.save_pretrained(folder)
        processor.save_pretrained(folder)
        (folder / "figures.json").write_text(json.dumps(figures))


def with_lora(model: Any, lora: LoraSettings) -> Any:
    """`model` as a PeftModel: adapters in the language model, in the vision tower only where asked, all else frozen."""
    from peft import LoraConfig, get_peft_model

    settings = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=list(lora.target_modules),
        # Qwen2.5-VL's vision tower has layers of these names too.
        exclude_modules=None if lora.vision else VISION_TOWER,
    )
    return get_peft_model(model, settings)


def _line(row: dict[str, float], loop: LoopConfig) -> str:
    progress = max(row["progress"], row["step"] / loop.max_steps)  # the loop's was taken before the step
    eta = row["seconds"] * (1 - progress) / progress
    return (
        f"distil | step {row['step']:.0f}/{loop.max_steps} ({100 * progress:.0f} %) | loss {row['loss']:.4f} | "
        f"{row['step'] / row['seconds']:.2f} steps/s | eta {eta:.0f} s"
    )


def measure(checkpoint: Path, pairs: Sequence[Pair], batch_size: int) -> dict[str, Any]:
    """Valid-JSON rate and exact agreement of each field on held-out pairs, generated greedily by transformers."""
    from pipelines.semantics.agreement import agreement

    written: dict[int, dict[str, list[str]]] = {}
    truth = {number: json.loads(pair.answer) for number, pair in enumerate(pairs)}
    for number, text in enumerate(_generated(checkpoint, pairs, batch_size)):
        try:
            written[number] = prompt.parse(text)
        except ValueError as error:
            log.info("distil | held-out answer %d is not an anchor: %s", number, error)
    return {
        "author_days": len(pairs),
        "valid_rate": round(len(written) / len(pairs), 4),
        "agreement": {field: round(share, 4) for field, share in agreement(written, truth).items()},
    }


def answered(checkpoint: Path, pairs: Sequence[Pair], batch_size: int) -> dict[str, float]:
    """By question, the share of held-out pairs of which the answer is the teacher's, word by word."""
    right: dict[str, list[bool]] = {}
    for pair, text in zip(pairs, _generated(checkpoint, pairs, batch_size), strict=True):
        right.setdefault(pair.question, []).append(text.strip() == pair.answer)
    return {question: round(sum(of_it) / len(of_it), 4) for question, of_it in right.items()}


def _generated(checkpoint: Path, pairs: Sequence[Pair], batch_size: int) -> Iterator[str]:
    """What the model answers to each pair's question."""
    import torch
    from transformers import AutoModelForImageTextToText, AutoProcessor

    processor = AutoProcessor.from_pretrained(checkpoint)
    model = AutoModelForImageTextToText.from_pretrained(checkpoint).eval()
    collate = Collator(processor)
    for first in range(0, len(pairs), batch_size):
        batch = collate(pairs[first : first + batch_size], with_answer=False)
        with torch.inference_mode():
            output = model.generate(**batch, max_new_tokens=160, do_sample=False)
        for ids in output[:, batch["input_ids"].shape[1] :]:
            yield processor.tokenizer.decode(ids, skip_special_tokens=True)


def publish(trained: Path, output: Path, card: dict[str, Any]) -> None:
    """Puts the checkpoint in place: written beside, then renamed, so that what a reader finds there is always whole."""
    (trained / CARD).write_text(json.dumps(card, indent=1, default=str))
    Manifest.create(trained, kind="student", run_id=digest(card["seed"]), made_from={"seed": str(card["seed"])})
    new, old = (output.with_name(output.name + suffix) for suffix in (".new", ".old"))
    shutil.rmtree(new, ignore_errors=True)
    shutil.copytree(trained, new)
    shutil.rmtree(old, ignore_errors=True)
    if output.exists():
        output.rename(old)
    new.rename(output)
    shutil.rmtree(old, ignore_errors=True)
