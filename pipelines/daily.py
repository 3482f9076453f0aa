"""Daily: anchors, vocabulary, examples, train, evaluate, publish, cards, one after another over what storage holds.

Each job skips what is done, so that a daily run after a failure goes on where it stopped. Where the table anchors was
brought, and there are no segments to write them from, the job anchors is left out. With `train.each_day: follow` the
job follow takes the place of train and evaluate, and where it goes by windows, windows and window_examples come before.
Run: python -m pipelines daily --config my.yaml
"""

import logging
import time
from types import ModuleType
from typing import TYPE_CHECKING, Any

from pipelines.analysis import cards
from pipelines.ranking import evaluate, follow, publish, train
from pipelines.runtime.cluster import connected
from pipelines.runtime.config import ConfigError
from pipelines.runtime.on_worker import run_job
from pipelines.samples import examples, window_examples, windows
from pipelines.semantics import anchors, vocabulary
from pipelines.tables.sweep import sweep

if TYPE_CHECKING:
    from pipelines.settings import Settings

log = logging.getLogger(__name__)


def _jobs(settings: "Settings") -> dict[str, tuple[ModuleType, Any]]:
    """The chain: each job with its section."""
    before = {"anchors": anchors, "vocabulary": vocabulary, "examples": examples}
    chain = {name: (job, getattr(settings, name)) for name, job in before.items()}
    if settings.train.each_day == "follow":
        if settings.train.follow.by == "windows":
            chain |= {"windows": (windows, settings.windows), "window_examples": (window_examples, settings.examples)}
        chain["train"] = (follow, settings.train)
    else:
        chain |= {"train": (train, settings.train), "evaluate": (evaluate, settings.evaluate)}
    return chain | {"publish": (publish, settings.publish), "cards": (cards, settings.cards)}


def run(settings: "Settings") -> dict[str, Any]:
    """Runs the chain in one connection to Ray, and reports each job's figures under its name."""
    figures: dict[str, Any] = {}
    run, chain = settings.open(), _jobs(settings)
    judged, follows = settings.publish.gate.rule != "off", settings.train.each_day == "follow"
    if judged and not follows and not settings.train.test_days:
        raise ConfigError(
            "train.test_days: 0 leaves no day on which the ranker could be judged; set it to 1 or more, or "
            "publish.gate.rule to off"
        )
    with connected(settings.cluster):
        for number, (name, (job, section)) in enumerate(chain.items(), start=1):
            started = time.perf_counter()
            if name == "anchors" and run.storage.days(name) and not run.storage.days("segments"):
                log.info("daily %d/%d | %s | brought with the tables: no segments", number, len(chain), name)
                figures[name] = {"how": "brought"}
                continue
            if name == "evaluate" and not settings.train.test_days:
                log.info("daily %d/%d | %s | left out: train.test_days is 0", number, len(chain), name)
                figures[name] = {"how": "no day"}
                continue
            figures[name] = run_job(job, section, run)
            log.info("daily %d/%d | %s | %.1f s", number, len(chain), name, time.perf_counter() - started)
    sweep(run.storage)
    return figures
