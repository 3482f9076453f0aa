"""Demo: the whole system over the simulated platform, stage by stage, with the real engines. `daily` and more.

Leaves report.json and report.html in the run's folder. With `demo.keep` the endpoint stays up until Ctrl-C.
Run: make demo
"""

import logging
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from pipelines.analysis import analyse, cards
from pipelines.demo import control, live, live_shown
from pipelines.pages import report_json
from pipelines.ranking import evaluate, publish, train
from pipelines.ranking.publish import PublishConfig
from pipelines.ranking.variants import SOURCES
from pipelines.runtime.cluster import connected
from pipelines.runtime.config import to_dict
from pipelines.runtime.machine import MemoryWatch, describe, versions
from pipelines.runtime.run import Run
from pipelines.samples import examples
from pipelines.semantics import anchors, vocabulary
from pipelines.semantics.checkpoint import STUDENT
from pipelines.serving import serve
from pipelines.students import distil
from pipelines.tables.storage import Storage
from pipelines.world import world

if TYPE_CHECKING:
    from pipelines.demo.report import ReportPictures
    from pipelines.demo.report_content import Report
    from pipelines.settings import Settings

log = logging.getLogger(__name__)
HEADLINES = ("metrics", "buckets")
"""What evaluation reports at the top of report.json."""


def run(settings: "Settings") -> dict[str, Any]:
    """Runs every stage, prints what happened, and returns the headline figures."""
    run = settings.open()
    run_dir = run.folder
    if settings.demo.fresh:
        _empty(run_dir)
    stages = StageTimer(run_dir)
    report_json.merge(run_dir, "seed", settings.seed)
    with MemoryWatch() as memory, serve.environment_of(settings.serve, run), connected(settings.cluster):
        with stages("world"):
            stages.keep(world.run(settings.world, run))
        with stages("distil"):
            stages.keep(_distil(settings, run))
        with stages("anchors"):
            written = anchors.run(settings.anchors, run)
            if settings.demo.swapped_frames:
                control.run(settings.anchors, run, settings.demo.swapped_frames)
            stages.keep(written | _anchor_quality(settings))
        for name, job in (("vocabulary", vocabulary), ("examples", examples)):
            with stages(name):
                stages.keep(job.run(getattr(settings, name), run))
        with stages("train"):
            stages.keep(train.run(settings.train, run)["rankers"])
        with stages("evaluate"):
            for key, value in evaluate.run(settings.evaluate, run).items():
                report_json.merge(run_dir, key if key in HEADLINES else f"evaluated_{key}", value)
        if any("anchors" in SOURCES[name].reads for name in settings.train.sources):
            with stages("analyse"):
                analysis = analyse.run(settings.analyse, run)
                report_json.merge(run_dir, "gates", analysis.pop("frequent_gates"))
                report_json.merge(run_dir, "analysis", analysis)
        with stages("publish"):
            stages.keep(publish.run(_as_evaluated(settings.publish, run), run))
        with stages("cards"):
            stages.keep(cards.run(settings.cards, run))
        frames = _live(settings, run, stages)
        pictures = replace(_serve(settings, run, stages), live=frames)
        report_json.merge(run_dir, "peak_memory_gb", round(memory.peak_gib, 2))
        _finish(settings, pictures)
        if settings.demo.keep:
            log.info("demo.keep: the endpoint comes up again on the published bank")
            serve.run(settings.serve, run)
    return {"report": str(run_dir / "report.html"), "total_s": round(stages.total, 1)}


class StageTimer:
    """Times the stages, and keeps what each reports in report.json under its own name."""

    def __init__(self, run_dir: Path) -> None:
        self._run_dir, self._name = run_dir, ""
        self._seconds: dict[str, float] = {}
        self._started = time.perf_counter()

    @property
    def total(self) -> float:
        """Seconds since the start."""
        return time.perf_counter() - self._started

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """One stage."""
        log.info("=== %s", name)
        self._name, started = name, time.perf_counter()
        yield
        self._seconds[name] = round(time.perf_counter() - started, 2)
        log.info("=== %s took %.1f s (%.0f s in all)", name, self._seconds[name], self.total)
        report_json.merge(self._run_dir, "seconds", {"total": round(self.total, 2), **self._seconds})

    def keep(self, figures: dict[str, Any]) -> None:
        """Figures of the stage that runs."""
        report_json.merge(self._run_dir, self._name, figures)


def _empty(run_dir: Path) -> None:
    """Removes what an earlier demo left, and nothing that a demo does not write."""
    folders = ("store", f"store-{control.FOLDER}", control.FOLDER, live.FOLDER, "distil", "ray")
    for name in (*folders, "report.json", "report.html"):
        target = run_dir / name
        shutil.rmtree(target) if target.is_dir() else target.unlink(missing_ok=True)


def _distil(settings: "Settings", run: Run) -> dict[str, Any]:
    """Continued training of the shipped student on a small world of its own."""
    folder = run.folder / "distil"
    own = replace(run, seed=run.seed + 1000, folder=folder, storage=Storage.open(str(folder / "store")))
    world.run(settings.demo.distil_world, own)
    return distil.run(replace(settings.distil, base=str(STUDENT), output=str(folder / "student")), own)


def _as_evaluated(config: PublishConfig, run: Run) -> PublishConfig:
    """Publishes the bank that evaluation used, so that served and offline scores can be compared exactly."""
    return replace(config, until=run.storage.days("examples")[-2])


def _anchor_quality(settings: "Settings") -> dict[str, Any]:
    from pipelines.demo.figures import anchor_quality

    return anchor_quality(settings)


def _live(settings: "Settings", run: Run, stages: StageTimer) -> list[bytes]:
    """The jobs of the live part; frames of the live that is shown."""
    config = settings.demo.live
    if config is None:
        return []
    with stages("live"):
        own = live.own(run)
        figures = live.make(config, settings.embed_segments, settings.examples, own)
        live.publish(own, run.storage, live_shown.first_moment(config, own))
        storage = own.storage.with_oracle()
        shown, frames = live_shown.moving_live(live.newest_segments_of(storage), storage)
        stages.keep(figures | {"shown": shown})
    return frames


def _serve(settings: "Settings", run: Run, stages: StageTimer) -> "ReportPictures":
    """Starts Serve, compares scores, swaps to tomorrow's bank while it runs, ranks for a few users, measures."""
    from pipelines.demo import figures

    with stages("serve"), serve.serving(settings.serve, run) as url:
        measured = figures.compare(settings, url)
        newest = publish.run(settings.publish, run)
        figures.wait_for_bank(url, newest["run_id"])
        measured |= figures.load(settings, url)
        stages.keep(measured)
        report_json.merge(settings.run_dir, "ranked", figures.ranked(settings, url))
        report_json.merge(settings.run_dir, "publish", newest)
        if settings.demo.live is not None:
            found = live_shown.retrieved(settings.demo.live, live.own(run), run.storage, url)
            report_json.merge(settings.run_dir, "retrieved", found)
        return figures.pictures(settings, url)


def _finish(settings: "Settings", pictures: "ReportPictures") -> None:
    """Writes report.html and prints the results table."""
    from pipelines.demo import report
    from pipelines.demo.figures import results_table

    run_dir = Path(settings.run_dir)
    about = {
        "versions": versions(),
        "machine": describe(),
        "date": time.strftime("%Y-%m-%d"),
        "config": to_dict(settings),
    }
    for key, value in about.items():
        report_json.merge(run_dir, key, value)
    content = cast("Report", report_json.read(run_dir))
    report.write(content, run_dir / "report.html", pictures)
    print(results_table(content), flush=True)
    log.info("report: %s", run_dir / "report.html")
