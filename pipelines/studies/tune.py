"""Chooses how rankers are trained, by Ray Tune: random draws from stated spaces, equally many for every row of a study.

The rows' own settings are the first draw. A draw is trained on every seed's store without its newest training day, and
its value is the click GAUC of that day: what studies score, the day after, is never looked at. Seeds should be worlds
that no study reports. Leaves `<run_dir>/tune.json`, `tune.md`, and for each row `best-<row>.yaml`, its best section
`train`. An interrupted run resumes.
Run: python -m pipelines tune --config pipelines/configs/studies/tune.yaml
"""

import json
import logging
import time
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml

from pipelines.ranking.plan import train_days
from pipelines.runtime.cluster import connected
from pipelines.runtime.config import ConfigError, to_dict
from pipelines.studies.config import OWN, Variant, trained_with
from pipelines.studies.stores import embed_anchors, prepare
from pipelines.studies.trial import run_trial

if TYPE_CHECKING:
    from pipelines.settings import Settings

log = logging.getLogger(__name__)
Draw = Mapping[str, Any]
"""Values by dotted key of the section train."""


def run(settings: "Settings") -> dict[str, Any]:
    """Tunes every row that has a space, one after another, and writes what was found."""
    config, variants = settings.tune, settings.study.variants
    if not config.spaces:
        raise ConfigError("config.tune.spaces: wanted rows of study.variants, got none; see studies/tune.yaml")
    rows = {name: variants[name] for name in config.spaces}
    seeds = range(settings.seed, settings.seed + settings.study.seeds)
    found: dict[str, list[dict[str, Any]]] = {}
    with connected(settings.cluster):
        stores = prepare(settings, seeds)
        embed_anchors(settings, rows, {OWN: stores})
        for name, variant in rows.items():
            found[name] = _tune(settings, name, variant, {seed: _validated(one) for seed, one in stores.items()})
            _write(Path(settings.run_dir), found, rows)
    best = {name: {"value": draws[0]["value"], "drawn": draws[0]["drawn"]} for name, draws in found.items()}
    return {"samples": config.samples, "seeds": list(seeds), "best": best}


def _validated(settings: "Settings") -> "Settings":
    """Settings under which the newest training day is scored and not learnt."""
    day = train_days(settings.train, settings.open().storage)[-1]
    return replace(settings, evaluate=replace(settings.evaluate, day=day))


def _tune(settings: "Settings", name: str, variant: Variant, stores: Mapping[int, "Settings"]) -> list[dict[str, Any]]:
    """All draws of a row, best first."""
    from ray import tune
    from ray.tune.search.basic_variant import BasicVariantGenerator

    config, space = settings.tune, settings.tune.spaces[name]
    path = Path(settings.run_dir).resolve() / "ray"
    trainable = tune.with_resources(partial(_value, variant=variant, stores=stores), {"cpu": 1})
    if tune.Tuner.can_restore(str(path / name)):
        tuner = tune.Tuner.restore(str(path / name), trainable, resume_unfinished=True, restart_errored=True)
    else:
        own = {key: json.dumps(_at(to_dict(variant.train), key)) for key in space}
        tuner = tune.Tuner(
            trainable,
            # As text, because Ray Tune takes a list among the values for a space of its own.
            param_space={key: tune.choice([json.dumps(value) for value in values]) for key, values in space.items()},
            tune_config=tune.TuneConfig(
                num_samples=config.samples,
                search_alg=BasicVariantGenerator(
                    points_to_evaluate=[own],
                    max_concurrent=settings.study.parallel or 0,
                    random_state=settings.seed,
                ),
            ),
            run_config=tune.RunConfig(
                name=name, storage_path=str(path), verbose=0, callbacks=[_lines(name, config.samples)]
            ),
        )
    results = tuner.fit()
    if results.errors:
        raise RuntimeError(f"tune {name}: {len(results.errors)} draws failed; the first: {results.errors[0]}")
    measured = ("value", "seeds", "cpu_s")
    draws = [{"drawn": _read(one.config)} | {key: one.metrics[key] for key in measured} for one in results]
    return sorted(draws, key=lambda draw: -draw["value"])


def _read(draw: Mapping[str, str]) -> Draw:
    return {key: json.loads(text) for key, text in draw.items()}


def _at(keys: Any, dotted: str) -> Any:
    for part in dotted.split("."):
        keys = keys[part]
    return keys


def _value(draw: Mapping[str, str], variant: Variant, stores: "Mapping[int, Settings]") -> dict[str, Any]:
    """What a draw is worth: the mean over stores of the click GAUC, resampled where the truth is known."""
    train = trained_with(variant.train, _read(draw))
    tried = replace(variant, train=replace(train, test_days=train.test_days + 1))
    values, cpu = {}, 0.0
    for seed, settings in stores.items():
        record, _ = run_trial(settings, tried)
        click = record["metrics"]["click"]
        values[seed] = float(click.get("gauc_redrawn", click["gauc"]))
        cpu += record["cost"]["cpu_s"]
    return {"value": float(np.mean(list(values.values()))), "seeds": values, "cpu_s": cpu}


def _lines(name: str, samples: int) -> Any:
    """A line of the log for every draw that has ended."""
    from ray.tune import Callback

    class Lines(Callback):
        def __init__(self) -> None:
            self.ended, self.started = 0, time.perf_counter()

        def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
            self.ended += 1
            took = time.perf_counter() - self.started
            log.info(
                "tune | %s %d/%d | click GAUC %.4f | %s | %.0f s | eta %.0f s",
                name, self.ended, samples, trial.last_result["value"], dict(_read(trial.config)), took,
                took / self.ended * (samples - self.ended),
            )  # fmt: skip

    return Lines()


def _write(folder: Path, found: Mapping[str, list[dict[str, Any]]], rows: Mapping[str, Variant]) -> None:
    """Everything that is known so far."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tune.json").write_text(json.dumps(found, indent=1))
    (folder / "tune.md").write_text("\n\n".join(_markdown(name, draws) for name, draws in found.items()) + "\n")
    for name, draws in found.items():
        train = to_dict(trained_with(rows[name].train, draws[0]["drawn"]))
        (folder / f"best-{name}.yaml").write_text(yaml.safe_dump({"train": train}, sort_keys=False))


def _markdown(name: str, draws: list[dict[str, Any]]) -> str:
    """A row's draws as a table, best first."""
    keys = list(draws[0]["drawn"])
    lines = [f"| {name}: click GAUC | CPU s | " + " | ".join(keys) + " |", "|" + "---|" * (2 + len(keys))]
    for draw in draws:
        values = " | ".join(str(draw["drawn"][key]) for key in keys)
        lines.append(f"| {100 * draw['value']:.2f} | {draw['cpu_s']:.0f} | {values} |")
    return "\n".join(lines)
