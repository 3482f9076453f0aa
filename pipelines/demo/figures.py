"""What the demo measures and shows beyond what the jobs report: anchors against the truth, served against offline."""

import asyncio
import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pipelines.demo import control
from pipelines.ranking.evaluate import scores_file
from pipelines.ranking.variants import ranker_name
from pipelines.samples.batches import read_examples
from pipelines.semantics import agreement, anchors, author_day
from pipelines.serving import offline as served
from pipelines.serving.client import Client
from pipelines.serving.offered import Endpoint, Step, offer
from pipelines.tables import newest, rejections
from pipelines.tables.contract import FIELDS
from pipelines.tables.storage import Storage, rows_of

if TYPE_CHECKING:
    from pipelines.demo.report import ReportPictures
    from pipelines.demo.report_content import Report
    from pipelines.settings import Settings


def anchor_quality(settings: "Settings") -> dict[str, Any]:
    """Exact agreement of written anchors with the truth on the newest day, with right and with swapped frames.

    All of the demo's authors are unseen by the student: it was taught on worlds with other seeds.
    """
    storage = Storage.open(settings.storage.root, oracle=True)
    day = storage.days("anchors")[-1]
    truth = agreement.by_author(storage.read("oracle_anchors", day).to_pylist())
    written = agreement.by_author(storage.read("anchors", day).to_pylist())
    days = storage.days("anchors")
    total = sum(storage.read("oracle_anchors", d, ["author_id"]).num_rows for d in days)
    valid = sum(rows_of(storage, "anchors", d) for d in days)
    rejected = sum(rejections.of_stage(storage, d, anchors.STAGE).num_rows for d in days)
    figures: dict[str, Any] = {
        # Of all days: a resumed demo does none of them again.
        "rows_in": valid + rejected,
        "anchors": valid,
        "rejections": rejected,
        "valid_rate": valid / total,
        "agreement": _rounded(agreement.agreement(written, truth)),
        "chance": {field: _chance(truth, field) for field in ("format", "scene")},
    }
    if settings.demo.swapped_frames:
        swapped = agreement.by_author(control.store_of(storage).read("anchors", day).to_pylist())
        figures["agreement_frames_swapped"] = _rounded(agreement.agreement(swapped, truth, swapped))
        figures["swapped_authors"] = len(swapped)
    return figures


def _chance(truth: dict[int, Any], field: str) -> float:
    """Agreement of two authors drawn at random: what swapped frames give if the pixels are read."""
    _, counts = np.unique([row[field][0] for row in truth.values()], return_counts=True)
    return round(float(((counts / counts.sum()) ** 2).sum()), 4)


def _rounded(shares: dict[str, float]) -> dict[str, float]:
    return {field: round(share, 4) for field, share in shares.items()}


def compare(settings: "Settings", url: str) -> dict[str, Any]:
    """Served against offline scores of the last day: same model, same bank, the histories of the examples."""
    storage = Storage.open(settings.storage.root)
    columns = read_examples(storage, storage.days("examples")[-1])
    file = Path(settings.run_dir) / scores_file(ranker_name(settings.train.sources))
    offline = np.load(file, allow_pickle=False)
    if not (offline["impression_id"] == columns["impression_id"]).all():
        raise RuntimeError(f"{file} is of other examples; run the job evaluate again")
    rows = np.random.default_rng([settings.seed, 9]).permutation(len(columns["user_id"]))[: settings.demo.compared]
    tasks = list(settings.train.ranker.tasks)
    worst = served.compare(url, columns, offline["scores"], [int(row) for row in rows], tasks)
    return {"max_abs_diff_vs_offline": worst, "compared": len(rows)}


def wait_for_bank(url: str, run_id: str, timeout_s: float = 60.0) -> None:
    """Returns once the endpoint answers from the given bank. Raises TimeoutError naming both versions."""
    deadline = time.monotonic() + timeout_s
    with Client(url) as endpoint:
        while (got := endpoint.get("/bank")["bank_version"]) != run_id:
            if time.monotonic() > deadline:
                raise TimeoutError(f"serve: wanted bank {run_id} within {timeout_s:.0f} s, it still answers from {got}")
            time.sleep(0.2)


def load(settings: "Settings", url: str) -> dict[str, Any]:
    """Latency and rate of /rank for real users of the last day, after a short warm-up."""
    storage, demo = Storage.open(settings.storage.root), settings.demo
    columns = read_examples(storage, storage.days("examples")[-1])
    on_air = np.unique(columns["author_id"])
    rng = np.random.default_rng([settings.seed, 10])
    requests = [
        served.example_request(columns, int(row), rng.permutation(on_air)[: demo.load_candidates].tolist())
        for row in rng.integers(len(columns["user_id"]), size=200)
    ]
    steps = [
        Step(seconds=2.0, clients=demo.load_clients),  # to warm up
        Step(seconds=demo.load_seconds / 2, clients=1),
        Step(seconds=demo.load_seconds, clients=demo.load_clients),
    ]
    bodies = [json.dumps(request).encode() for request in requests]
    _, alone, many = [step.figures() for step in asyncio.run(offer(Endpoint(url=f"{url}/rank"), steps, bodies))]
    if failed := [step for step in (alone, many) if step["ok"] != step["requests"]]:
        raise RuntimeError(f"{url}/rank: wanted every request of the load answered, got {failed}")
    return {
        "requests": many["requests"],
        "rank_p50_ms": many["p50_ms"],
        "rank_p99_ms": many["p99_ms"],
        "qps": many["ok_per_s"],
        "candidates": demo.load_candidates,
        "clients": demo.load_clients,
        "one_client_p50_ms": alone["p50_ms"],
        "one_client_p99_ms": alone["p99_ms"],
    }


def ranked(settings: "Settings", url: str) -> list[dict[str, Any]]:
    """Rankings as a user of the endpoint gets them: a few known users, and one that nobody knows."""
    storage = Storage.open(settings.storage.root)
    day = storage.days("examples")[-1]
    columns = read_examples(storage, day)
    themes = _themes(storage, day)
    rng = np.random.default_rng([settings.seed, 11])
    users = [int(u) for u in rng.permutation(np.unique(columns["user_id"]))[: settings.demo.ranked_users]]
    candidates = [int(a) for a in rng.permutation(np.unique(columns["author_id"]))[:20]]
    answers = []
    with Client(url) as endpoint:
        for user in [*users, -1]:
            answer = endpoint.post("/rank", {"user_id": user, "candidates": candidates})
            best = [c | {"theme": themes.get(c["author_id"], "")} for c in answer["candidates"][:5]]
            answers.append({"user_id": user, "known": answer["user_known"], "candidates": best})
    return answers


def _themes(storage: Storage, day: str) -> dict[int, str]:
    """The theme that was last written of each author."""
    rows = newest.read(storage, "anchors", until=day, columns=["author_id", "theme"]).to_pylist()
    return {row["author_id"]: ", ".join(row["theme"]) for row in rows}


def pictures(settings: "Settings", url: str) -> "ReportPictures":
    """Anchors beside their frames, and each of those authors' nearest neighbours."""
    from pipelines.demo.report import AnchorCard, NeighbourRow, ReportPictures

    storage = Storage.open(settings.storage.root, oracle=True)
    day = storage.days("anchors")[-1]
    written = agreement.by_author(storage.read("anchors", day).to_pylist())
    truth = agreement.by_author(storage.read("oracle_anchors", day).to_pylist())
    themes = _themes(storage, day)
    chosen = sorted(np.random.default_rng([settings.seed, 12]).permutation(sorted(written))[: settings.demo.cards])
    cards, rows = [], []
    for author_id, segments in author_day.stream(storage, day):
        if author_id not in chosen:
            continue
        shown = author_day.gather("", segments, settings.anchors.prompt)
        fields = {field: list(written[author_id][field]) for field in FIELDS}
        true = {field: list(truth[author_id][field]) for field in FIELDS}
        cards.append(AnchorCard(author_id=author_id, frames=list(shown.frames), written=fields, truth=true))
        with Client(url) as endpoint:
            near = endpoint.similar(author_id, k=5)
        similar = [(other, cosine, themes.get(other, "")) for other, cosine in near]
        rows.append(NeighbourRow(author_id=author_id, theme=themes[author_id], similar=similar))
    return ReportPictures(anchors=cards, neighbours=rows)


def results_table(content: "Report") -> str:
    """The one table that the demo prints."""
    tasks_of = list(next(iter(content["metrics"].values())))
    lines = [f"{'last day':<10}" + "".join(f"{task + ' ' + m:>18}" for task in tasks_of for m in ("AUC", "GAUC"))]
    for name, tasks in content["metrics"].items():
        cells = [f"{tasks[task][m]:.4f}" for task in tasks_of for m in ("auc", "gauc")]
        lines.append(f"{name:<10}" + "".join(f"{cell:>18}" for cell in cells))
    a, s = content["anchors"], content["serve"]
    agreed = ", ".join(f"{field} {share:.1%}" for field, share in a["agreement"].items())
    lines += [
        f"anchors    {a['anchors']} of {a['rows_in']} valid, {a['authors_per_s']} authors/s; right: {agreed}",
        f"serve      p50 {s['rank_p50_ms']} ms, p99 {s['rank_p99_ms']} ms, {s['qps']} requests/s of "
        f"{s['candidates']} candidates; largest difference to offline {s['max_abs_diff_vs_offline']:.1e}",
        f"time       {content['seconds']['total']:.0f} s, peak memory {content['peak_memory_gb']} GiB",
    ]
    return "\n".join(lines)
