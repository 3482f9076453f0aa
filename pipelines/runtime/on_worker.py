"""Jobs that compute in their own process, as one Ray task each: on a cluster the machine that submits them stays free.

What a caller sees is the same in both cases: figures, the lines of the log as they come, files in the run's folder, and
the very error that the job raised. In a private local cluster, or without Ray, the job runs where it is called.
"""

import logging
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import replace
from importlib import import_module
from logging.handlers import QueueHandler
from pathlib import Path
from queue import SimpleQueue
from types import ModuleType
from typing import Any

from pipelines.runtime.cluster import connected, is_shared
from pipelines.runtime.run import Run
from pipelines.runtime.verdict import JobError
from pipelines.tables.storage import Storage

log = logging.getLogger(__name__)
_JOBS = frozenset(
    f"pipelines.{name}"
    for name in (
        "semantics.vocabulary",
        "samples.examples",
        "samples.windows",
        "samples.window_examples",
        "ranking.evaluate",
        "ranking.publish",
        "analysis.analyse",
        "analysis.cards",
    )
)
"""Those that read and write storage alone, and start nothing on the cluster themselves."""
_END = object()
_ATTEMPTS = 3
"""Of a job whose worker dies: what it has finished by then is kept."""


class LostError(JobError):
    """The job's worker died at every attempt."""

    retry = True


def run_job(job: ModuleType, section: Any, run: Run) -> dict[str, Any]:
    """What `job.run(section, run)` returns, from a worker of a shared cluster where the job is one of those above."""
    if job.__name__ not in _JOBS or not is_shared(run.cluster):
        figures: dict[str, Any] = job.run(section, run)
        return figures
    with connected(run.cluster):
        from ray.exceptions import NodeDiedError, OutOfMemoryError, WorkerCrashedError

        for attempt in range(1, _ATTEMPTS + 1):
            try:
                return _from_task(job.__name__, section, run)
            except (NodeDiedError, OutOfMemoryError, WorkerCrashedError) as error:
                lost = f"attempt {attempt} of {_ATTEMPTS}: the worker or the node that it ran on died"
                log.warning("%s | %s", job.__name__, lost)
                why = str(error)
    raise LostError(f"{job.__name__}, {lost}: {why}")


def _from_task(name: str, section: Any, run: Run) -> dict[str, Any]:
    """Starts the task, and passes on what comes of it. Raises what the job raised."""
    import ray
    from ray.exceptions import RayTaskError

    task = ray.remote(num_cpus=run.cluster.job_cpus, max_retries=0, num_returns="streaming")(_stream).options(
        name=name, label_selector=dict(run.cluster.job_labels)
    )
    level = logging.getLogger().getEffectiveLevel()
    told = replace(run, storage=Storage.open(run.storage.url))  # one that holds no lease, and so can travel
    figures: dict[str, Any] = {}
    try:
        for item in task.remote(name, section, told, level):
            kind, content = ray.get(item)
            if kind == "line":
                logging.getLogger(content.name).handle(content)
            elif kind == "file":
                _put(run.folder / content[0], content[1])
            else:
                figures = content
    except RayTaskError as error:
        raise error.cause from error
    return figures


def _put(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def _stream(name: str, section: Any, run: Run, level: int) -> Iterator[tuple[str, Any]]:
    """The task: lines of the log while the job runs, then the files that it left in its folder, then its figures."""
    items: SimpleQueue[Any] = SimpleQueue()
    result: list[Any] = []
    root, lines = logging.getLogger(), QueueHandler(items)
    with tempfile.TemporaryDirectory() as folder:

        def work() -> None:
            try:
                result.append(import_module(name).run(section, replace(run, folder=Path(folder))))
            except BaseException as error:  # raised by the task, below
                result.append(error)
            finally:
                items.put(_END)

        before = root.level
        root.addHandler(lines)
        root.setLevel(level)
        try:
            threading.Thread(target=work, name=name, daemon=True).start()
            while (item := items.get()) is not _END:
                yield "line", item
        finally:
            root.removeHandler(lines)
            root.setLevel(before)
        (figures,) = result
        if isinstance(figures, BaseException):
            raise figures
        for path in sorted(Path(folder).rglob("*")):
            if path.is_file():
                yield "file", (str(path.relative_to(folder)), path.read_bytes())
        yield "figures", figures
