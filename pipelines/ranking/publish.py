"""The bank that serving reads: the state of every author, and every user's newest clicks.

Reads the artifact "sarm", anchors and impressions; publishes the artifact "bank".
Run: python -m pipelines publish --config pipelines/configs/demo.yaml
"""

import logging
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from models.artifacts import bank
from pipelines.runtime.run import Run
from pipelines.samples.examples import committed_rule, histories, window
from pipelines.tables.artifacts import Artifacts
from pipelines.tables.contract import ContractError
from pipelines.tables.fingerprint import digest

log = logging.getLogger(__name__)
KIND = "bank"


@dataclass(frozen=True, kw_only=True, slots=True)
class PublishConfig:
    """What goes into the snapshot."""

    anchors_until: str | None = None
    """Newest day of anchors, YYYY-MM-DD; null = the newest there is. The day before the day under evaluation gives
    the very bank that evaluation used."""
    histories: bool = True
    """False leaves the users' histories out, where requests bring their own."""


def run(config: PublishConfig, run: Run) -> dict[str, Any]:
    """Encodes every author of the published model's catalog, verifies the bank, and moves CURRENT to it."""
    from models.sarm.model import SARM
    from pipelines.ranking import published

    storage = run.storage
    artifacts = Artifacts(storage)
    model = published.load(artifacts, "sarm")
    days = [d for d in storage.days("anchors") if config.anchors_until is None or d <= config.anchors_until]
    if not days:
        raise ContractError(f"table anchors: wanted a day up to {config.anchors_until}, got none; run the job anchors")
    clicks = storage.days("impressions") if config.histories else []
    rule = committed_rule(storage)
    clicks = window(clicks[-1], clicks, rule.days) if clicks else []
    made_from = {
        "config": digest([asdict(config), asdict(rule), bank.FORMAT]),
        "ranker": model.manifest.kind,
        "model": model.manifest.run_id,
        "model_weights": model.manifest.files["model.safetensors"],
        "tokenizer": model.manifest.made_from["tokenizer"],
    }
    made_from |= {f"anchors/{day}": storage.fingerprint("anchors", day) for day in days}
    made_from |= {f"impressions/{day}": storage.fingerprint("impressions", day) for day in clicks}
    run_id = f"{days[-1]}-{digest(made_from)}"
    if artifacts.current(KIND) == run_id:
        return {"run_id": run_id, "how": "current"}
    started = time.perf_counter()
    anchors = published.anchor_table(storage, artifacts, model, until=days[-1])
    assert isinstance(model.model, SARM)
    states = {"sarm": model.model.encode_bank(anchors.tokens)}
    encode_s = time.perf_counter() - started
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        stored = bank.write(
            folder, states=states, anchor_day=anchors.anchor_day, histories=histories(storage, clicks, rule)
        )
        artifacts.publish(KIND, folder, run_id, made_from)
    known = anchors.anchor_day[anchors.anchor_day != bank.NO_ANCHOR]
    size_mb = sum(state.nbytes for state in states.values()) / 2**20
    metrics = {
        "run_id": run_id,
        "how": "published",
        "model": model.manifest.run_id,
        "anchors_until": days[-1],
        "rows": stored.rows,
        "authors_with_anchor": len(known),
        "anchor_age_days_mean": float(known.max() - known.mean()) if len(known) else None,
        "users_with_history": len(stored.histories.user_ids),
        "bank_mb": round(size_mb, 2),
        "encode_seconds": round(encode_s, 2),
    }
    log.info(
        "bank %s | %d rows, %d with an anchor | %d histories | %.1f MB | encoded in %.1f s",
        run_id, stored.rows, len(known), metrics["users_with_history"], size_mb, encode_s,
    )  # fmt: skip
    return metrics
