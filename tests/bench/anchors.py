"""How fast the daily batch writes anchors: the real engine on the shipped student, 4 frames an author.

The engine's start is left out: the rate counts from the first batch that comes back.
"""

import argparse
import json
import tempfile
from dataclasses import replace
from pathlib import Path

from pipelines.semantics import anchors
from pipelines.settings import read_settings
from pipelines.tables.storage import StorageConfig
from pipelines.world import world
from tests.pipelines.jobs import run_job


def main(argv: list[str]) -> int:
    """Prints a table and one line of JSON; returns 0."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench anchors", description=__doc__)
    parser.add_argument("--config", default="pipelines/configs/demo.yaml", help="configuration whose batch is measured")
    parser.add_argument("--authors", type=int, default=1500, help="authors on air")
    parser.add_argument("--set", action="append", default=[], metavar="a.b=c", help="override one key, repeatable")
    args = parser.parse_args(argv)
    settings = read_settings(args.config, args.set)
    with tempfile.TemporaryDirectory() as scratch:
        settings = replace(
            settings,
            run_dir=str(Path(scratch) / "run"),
            storage=StorageConfig(root=str(Path(scratch) / "store")),
            world=replace(
                settings.world, num_days=1, warmup_days=0, num_authors=args.authors, on_air_share=1.0, impressions=False
            ),
        )
        run_job(world, settings)
        figures = run_job(anchors, settings)
    print(f"{'authors':>8} {'frames':>7} {'start s':>8} {'authors/s':>10} {'rejections':>11}")
    print(
        f"{figures['rows_in']:>8} {settings.anchors.prompt.num_frames:>7} {figures['engine_start_s']:>8} "
        f"{figures['authors_per_s']:>10} {figures['rejections']:>11}"
    )
    print(json.dumps({"bench": "anchors", **figures}))
    return 0
