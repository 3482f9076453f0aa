"""The door: `python -m pipelines JOB --config FILE.yaml --set a.b=c`."""

import argparse
import importlib
import json
import logging
import os
import sys
import time
from pathlib import Path

from models.artifacts.manifest import ArtifactError
from pipelines.runtime import config, on_worker
from pipelines.tables.contract import ContractError

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
    "train": ("ranking.train", "train a ranker of sources and, beside it, Base"),
    "evaluate": ("ranking.evaluate", "AUC and GAUC of the last day"),
    "analyse": ("analysis.analyse", "similar authors, gates, and what SARM reads in anchors"),
    "publish": ("ranking.publish", "write the bank that serving reads and move CURRENT"),
    "serve": ("serving.serve", "answer ranking requests over HTTP"),
    "daily": ("daily", "anchors to publish for the newest day"),
    "movielens": ("sources.movielens", "MovieLens ratings as tables, for studies on real interactions"),
    "kuailive": ("sources.kuailive", "a downloaded KuaiLive or KuaiLive-M3 as tables"),
    "embed": ("semantics.embed", "frozen embeddings of the anchors, for two-stage sources"),
    "study": ("studies.study", "variants x seeds: a table of a paper, with intervals"),
    "tune": ("studies.tune", "choose how a study's rows are trained, with an equal budget for each"),
    "demo": ("demo.demo", "everything, over the simulated platform"),
}
CHAINS = ("daily", "study", "tune", "demo")
"""Words that run several jobs, and so are told the whole configuration; a job knows its own section."""
EPILOG = """examples:
  python -m pipelines demo     --config pipelines/configs/demo.yaml
  python -m pipelines ingest   --config pipelines/configs/videos.yaml --set ingest.source=DIR
  python -m pipelines csv      --config my.yaml           (a copy of pipelines/configs/csv.yaml; docs/data.md)
  python -m pipelines validate --config my.yaml
  python -m pipelines daily    --config my.yaml           (a copy of pipelines/configs/daily.yaml)
  python -m pipelines train    --config my.yaml --set train.batch_size=1024 --set seed=1
  python -m pipelines study    --config pipelines/configs/studies/table1.yaml
  python -m pipelines tune     --config pipelines/configs/studies/tune.yaml
  ray job submit --working-dir . -- python -m pipelines anchors --config my.yaml

exit codes: 0 done, 1 the job failed, 2 the configuration or the input cannot be used"""


def _parser() -> argparse.ArgumentParser:
    jobs = "\n".join(f"  {name:<15}{what}" for name, (_, what) in JOBS.items())
    parser = argparse.ArgumentParser(
        prog="python -m pipelines",
        description=f"Jobs of the live-streaming ranking pipeline:\n{jobs}",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("job", choices=JOBS, metavar="JOB", help="one of the jobs above")
    parser.add_argument("--config", required=True, metavar="FILE.yaml", help="configuration of the run")
    parser.add_argument("--set", action="append", default=[], metavar="a.b=c", help="override one key, repeatable")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Runs one job; its metrics land in `<run_dir>/<job>.json`."""
    args = _parser().parse_args(argv)
    logging.basicConfig(level=os.environ.get("LOG_LEVEL", "INFO"), format="%(asctime)s %(levelname)s %(message)s")
    from pipelines.settings import read_settings

    try:
        settings = read_settings(args.config, args.set)
        if args.job in CHAINS:
            settings = settings.of_one_ranker()
        run_dir = Path(settings.run_dir)
        config.dump(settings, run_dir / "config" / f"{args.job}.yaml")
        started = time.perf_counter()
        job = importlib.import_module(f"pipelines.{JOBS[args.job][0]}")
        if args.job in CHAINS:
            metrics = job.run(settings)
        else:
            metrics = on_worker.run_job(job, getattr(settings, args.job), settings.open())
    except (config.ConfigError, ContractError, ArtifactError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    metrics = {"seconds": round(time.perf_counter() - started, 3), **metrics}
    (run_dir / f"{args.job}.json").write_text(json.dumps(metrics, indent=1, default=str))
    logging.getLogger(__name__).info("%s done in %.1f s", args.job, metrics["seconds"])
    return 0


if __name__ == "__main__":
    sys.exit(main())
