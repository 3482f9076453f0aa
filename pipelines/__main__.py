"""The door: `python -m pipelines JOB --config FILE.yaml --set a.b=c`."""

import argparse
import difflib
import importlib
import json
import logging
import os
import sys
import time
import traceback
from pathlib import Path
from typing import NoReturn

from pipelines.runtime import cluster, config, on_worker, places, verdict

log = logging.getLogger(__name__)
JOBS = {  # word: module below pipelines/, help
    "world": ("world.world", "make the simulated platform's tables, day by day"),
    "ingest": ("sources.ingest", "turn videos, chat and transcripts into segments"),
    "csv": ("sources.csv", "interactions and items with text, in CSV or Parquet files, as tables"),
    "validate": ("sources.validate", "check tables against the contract, and what looks wrong between them"),
    "distil": ("students.distil", "fine-tune the multimodal model that writes anchors"),
    "anchors": ("semantics.anchors", "write the daily semantic anchors with vLLM"),
    "base_tokenizer": (
        "semantics.base_tokenizer",
        "make a base tokenizer, where no checkpoint has one",
    ),
    "vocabulary": ("semantics.vocabulary", "train or extend the Live-Streaming Tokenizer"),
    "examples": ("samples.examples", "join impressions with point-in-time history"),
    "windows": ("samples.windows", "turn events into labels, each at the end of its window of seconds"),
    "window_examples": ("samples.window_examples", "join windows with point-in-time history, for follow by windows"),
    "train": ("ranking.train", "train a ranker of sources and, beside it, Base"),
    "follow": ("ranking.follow", "go on with the published rankers where there are new days"),
    "evaluate": ("ranking.evaluate", "AUC and GAUC of the last day"),
    "analyse": ("analysis.analyse", "similar authors, gates, and what SARM reads in anchors"),
    "publish": ("ranking.publish", "write the bank that serving reads and move CURRENT"),
    "cards": ("analysis.cards", "what the endpoint's page shows of authors: anchors and frames"),
    "rollback": ("ranking.rollback", "move CURRENT back to an older bank, after it was verified"),
    "split": ("ranking.split", "which banks answer a share of the users beside CURRENT, or only score"),
    "serve": ("serving.serve", "answer ranking requests over HTTP"),
    "loadtest": ("serving.loadtest", "what a running endpoint holds: table, JSON and figure"),
    "load_events": ("serving.load_events", "fill the online store of the endpoint from events or impressions"),
    "daily": ("daily", "anchors to publish for the newest day"),
    "movielens": ("sources.movielens", "MovieLens ratings as tables, for studies on real interactions"),
    "kuailive": ("sources.kuailive", "a downloaded KuaiLive or KuaiLive-M3 as tables"),
    "embed": ("semantics.embed", "frozen embeddings of the anchors, for two-stage sources"),
    "embed_segments": ("semantics.embed_segments", "frozen embeddings of segments: what is on screen, every 30 s"),
    "codes": ("semantics.codes", "a codebook of segment embeddings, and every segment as a few codes"),
    "towers": ("retrieval.towers", "train the retrieval model: users and lives as vectors"),
    "item_vectors": ("retrieval.item_vectors", "every segment as the vector of its live in retrieval"),
    "recall": ("retrieval.recall", "HitRate@K of the retrieval model on the newest day"),
    "index": ("retrieval.index", "the lives on air as vectors that POST /retrieve searches"),
    "screens": ("ranking.screens", "what came on screen of late as codes, which rankers in use are told"),
    "study": ("studies.study", "variants x seeds: a table of a paper, with intervals"),
    "tune": ("studies.tune", "choose how a study's rows are trained, with an equal budget for each"),
    "demo": ("demo.demo", "everything, over the simulated platform"),
}
SECTIONS = {"follow": "train", "window_examples": "examples"}
"""Jobs that read the section of another one."""
CHAINS = ("daily", "study", "tune", "demo")
"""Words that run several jobs, and so are told the whole configuration; a job knows its own section."""
EPILOG = """examples:
  python -m pipelines demo     --config pipelines/configs/demo.yaml
  python -m pipelines ingest   --config pipelines/configs/videos.yaml --set ingest.source=DIR
  python -m pipelines csv      --config my.yaml           (a copy of pipelines/configs/csv.yaml; docs/data.md)
  python -m pipelines validate --config my.yaml
  python -m pipelines daily    --config my.yaml           (a copy of pipelines/configs/daily.yaml)
  python -m pipelines windows  --config my.yaml --set windows.labels=sliver
  python -m pipelines train    --config my.yaml --set train.batch_size=1024 --set seed=1
  python -m pipelines study    --config pipelines/configs/studies/table1.yaml
  python -m pipelines tune     --config pipelines/configs/studies/tune.yaml
  python -m pipelines loadtest --config pipelines/configs/serve.yaml --set 'loadtest.rates=[50,100,200]'
  ray job submit --working-dir . -- python -m pipelines anchors --config my.yaml

exit codes: 0 done, 1 the job failed, 2 the configuration or the input cannot be used, 130 interrupted;
the last line on stdout says it again in JSON, with the error and whether the same command may succeed later"""


class _Parser(argparse.ArgumentParser):
    """Says in one line, as configurations do, what of a command cannot be used."""

    def error(self, message: str) -> NoReturn:
        """Called by argparse."""
        raise config.ConfigError(f"{message}; see {self.prog} --help")


def _job(word: str) -> str:
    if word not in JOBS:
        near = difflib.get_close_matches(word, JOBS, n=1)
        hint = f"did you mean {near[0]}?" if near else f"wanted one of {', '.join(JOBS)}"
        raise argparse.ArgumentTypeError(f"no job is named {word!r}: {hint}")
    return word


def _parser() -> argparse.ArgumentParser:
    jobs = "\n".join(f"  {name:<17}{what}" for name, (_, what) in JOBS.items())
    parser = _Parser(
        prog="python -m pipelines",
        description=f"Jobs of the live-streaming ranking pipeline:\n{jobs}",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("job", type=_job, metavar="JOB", help="one of the jobs above")
    parser.add_argument("--config", required=True, metavar="FILE.yaml", help="configuration of the run")
    parser.add_argument("--set", action="append", default=[], metavar="a.b=c", help="override one key, repeatable")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Runs one job; its metrics land in `<run_dir>/<job>.json`, and how it ended in the last line of stdout."""
    started = time.perf_counter()
    asked = argparse.Namespace(job=None)
    metrics: Path | None = None
    try:
        _parser().parse_args(argv, namespace=asked)
        logging.basicConfig(level=os.environ.get("LOG_LEVEL", "INFO"), format="%(asctime)s %(levelname)s %(message)s")
        metrics = _run(asked)
        ended = verdict.Verdict(exit_code=verdict.DONE)
    except Exception as error:
        ended = verdict.judged(error)
        if ended.explained:
            log.debug("where it happened:", exc_info=True)
            print(f"error: {ended.error}", file=sys.stderr)
        else:
            traceback.print_exc()
    except (KeyboardInterrupt, SystemExit) as error:
        if isinstance(error, SystemExit) and not error.code:  # --help
            raise
        ended = verdict.judged(error)
        print(f"error: {ended.error}", file=sys.stderr)
    sys.stderr.flush()
    print(ended.as_json(asked.job, time.perf_counter() - started, metrics), flush=True)
    return ended.exit_code


def _run(asked: argparse.Namespace) -> Path:
    """Runs the job, and returns the file of its metrics."""
    from pipelines.settings import read_settings

    settings = read_settings(asked.config, asked.set)
    if asked.job in CHAINS:
        settings = settings.of_one_ranker()
    places.check(settings.written_by(asked.job))
    cluster.set_environment()
    run_dir = Path(settings.run_dir)
    config.dump(settings, run_dir / "config" / f"{asked.job}.yaml")
    started = time.perf_counter()
    job = importlib.import_module(f"pipelines.{JOBS[asked.job][0]}")
    if asked.job in CHAINS:
        figures = job.run(settings)
    else:
        figures = on_worker.run_job(job, getattr(settings, SECTIONS.get(asked.job, asked.job)), settings.open())
    figures = {"seconds": round(time.perf_counter() - started, 3), **figures}
    metrics = run_dir / f"{asked.job}.json"
    metrics.write_text(json.dumps(figures, indent=1, default=str))
    log.info("%s done in %.1f s", asked.job, figures["seconds"])
    return metrics


if __name__ == "__main__":
    sys.exit(main())
