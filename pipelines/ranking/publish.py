"""The bank snapshot that serving reads: both vectors of every author, and every user's newest clicks.

Reads the artifact "model", anchors and impressions; publishes the artifact "bank".
Run: python -m pipelines publish --config pipelines/configs/demo.yaml
"""

import logging
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from models.artifacts.manifest import ArtifactError
from pipelines.runtime.run import Run
from pipelines.samples.examples import HistoryRule, window
from pipelines.tables.artifacts import Artifacts
from pipelines.tables.contract import ContractError
from pipelines.tables.fingerprint import digest
from pipelines.tables.storage import Storage

log = logging.getLogger(__name__)
KIND = "bank"
BANK, ANCHOR_DAY = "bank.npy", "anchor_day.npy"
HISTORY = {
    "user_ids": "history_user_ids.npy",
    "author_ids": "history_author_ids.npy",
    "ts_ms": "history_ts_ms.npy",
    "watch_s": "history_watch_s.npy",
}
"""Files of the histories: user ids [U] sorted; author ids (-1 = padding on the left), times and seconds [U, L]."""


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
    anchors, impressions = storage.listing("anchors"), storage.listing("impressions")
    days = anchors.up_to(until=config.anchors_until)
    if not days:
        raise ContractError(f"table anchors: wanted a day up to {config.anchors_until}, got none; run the job anchors")
    clicks = impressions.days if config.histories else []
    rule = HistoryRule.committed(storage)
    clicks = window(clicks[-1], clicks, rule.days) if clicks else []
    made_from = {
        "config": digest([asdict(config), asdict(rule)]),
        "model": model.manifest.run_id,
        "model_weights": model.manifest.files["model.safetensors"],
        "tokenizer": model.manifest.made_from["tokenizer"],
    }
    made_from["anchors"] = anchors.history(until=days[-1])
    made_from |= {f"impressions/{day}": impressions.stamp(day) for day in clicks}
    run_id = f"{days[-1]}-{digest(made_from)}"
    if artifacts.current(KIND) == run_id:
        return {"run_id": run_id, "how": "current"}
    started = time.perf_counter()
    table = published.anchor_table(storage, artifacts, model, until=days[-1])
    assert isinstance(model.model, SARM)
    bank = model.model.encode_bank(table.tokens)
    encode_s = time.perf_counter() - started
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        np.save(folder / BANK, bank)
        np.save(folder / ANCHOR_DAY, table.anchor_day)
        users = _save_histories(storage, clicks, rule.length, folder)
        verify(folder, num_authors=model.catalog.num_authors, width=model.model.config.width)
        artifacts.publish(KIND, folder, run_id, made_from)
    known = table.anchor_day[table.anchor_day >= 0]
    metrics = {
        "run_id": run_id,
        "how": "published",
        "model": model.manifest.run_id,
        "anchors_until": days[-1],
        "rows": len(bank),
        "authors_with_anchor": len(known),
        "anchor_age_days_mean": float(known.max() - known.mean()) if len(known) else None,
        "users_with_history": users,
        "bank_mb": round(bank.nbytes / 2**20, 2),
        "encode_seconds": round(encode_s, 2),
    }
    log.info(
        "bank %s | %d rows, %d with an anchor | %d histories | %.1f MB | encoded in %.1f s",
        run_id, len(bank), len(known), users, bank.nbytes / 2**20, encode_s,
    )  # fmt: skip
    return metrics


def verify(folder: Path, *, num_authors: int, width: int) -> None:
    """Raises ArtifactError unless the folder holds a bank that is fit to serve."""
    bank = np.load(folder / BANK, mmap_mode="r", allow_pickle=False)
    anchor_day = np.load(folder / ANCHOR_DAY, allow_pickle=False)
    wanted = (num_authors + 1, 2, width)
    if bank.shape != wanted or bank.dtype != np.float32 or anchor_day.shape != wanted[:1]:
        raise ArtifactError(
            f"bank: wanted float32 {wanted} and anchor days {wanted[:1]}, got {bank.dtype} {bank.shape} and "
            f"{anchor_day.shape}; publish with the model that the catalog belongs to"
        )
    if not np.isfinite(bank).all():
        rows = np.flatnonzero(~np.isfinite(bank).all(axis=(1, 2)))
        raise ArtifactError(f"bank: {len(rows)} rows are not finite, first {rows[:5].tolist()}; train the model again")
    for index, name in enumerate(("h_CLS", "h_TAR")):
        spread = float(np.ptp(bank[:, index], axis=0).max())
        if num_authors > 0 and spread == 0.0:
            raise ArtifactError(f"bank: all {len(bank)} vectors {name} are the same; the model has learnt no author")
    if (folder / HISTORY["user_ids"]).is_file():
        _verify_histories(folder)


def _verify_histories(folder: Path) -> None:
    parts = {name: np.load(folder / file, mmap_mode="r", allow_pickle=False) for name, file in HISTORY.items()}
    shapes = {name: part.shape for name, part in parts.items()}
    users = parts["user_ids"]
    if len({shapes[name] for name in ("author_ids", "ts_ms", "watch_s")}) > 1 or len(users) != len(parts["ts_ms"]):
        raise ArtifactError(f"histories: wanted [U] users and three arrays [U, L], got {shapes}; publish again")
    if (np.diff(users) <= 0).any():
        raise ArtifactError("histories: wanted user ids sorted and unique; publish again")


def _save_histories(storage: Storage, days: list[str], length: int, folder: Path) -> int:
    """Each user's newest clicks of `days`; returns the number of users."""
    from pipelines.samples.examples import histories

    if not days:
        return 0
    columns = histories(storage, days, length)
    for name, file in HISTORY.items():
        np.save(folder / file, columns[name])
    return len(columns["user_ids"])
