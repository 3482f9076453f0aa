"""What the jobs of a run report, made up for the tests of its page."""

import io
from typing import Any

import numpy as np
from PIL import Image

from pipelines.tables.contract import FIELDS, TASKS_COLUMNS


def jpeg(seed: int) -> bytes:
    """A 64 x 64 picture of coarse blocks."""
    blocks = np.random.default_rng(seed).integers(0, 255, (8, 8, 3), dtype=np.uint8)
    target = io.BytesIO()
    Image.fromarray(blocks).resize((64, 64), Image.Resampling.NEAREST).save(target, "JPEG", quality=85)
    return target.getvalue()


def curve(start: float, end: float, seed: int, points: int = 160) -> list[dict[str, float]]:
    noise = np.random.default_rng(seed).normal(0, 0.012, (2, points))
    decay = np.exp(-np.arange(points) / (points / 4))
    main = end + (start - end) * decay + noise[0]
    aux = 0.62 + 0.07 * decay + noise[1]
    return [
        {"step": 50 * (i + 1), "loss": m + a, "main_loss": m, "aux_loss": a, "examples_per_s": 3000.0}
        for i, (m, a) in enumerate(zip(main.tolist(), aux.tolist(), strict=True))
    ]


def trained(end: float, rate: float, seed: int) -> dict[str, Any]:
    points = curve(0.69, end, seed)
    main = points[-1]["main_loss"]
    return {"steps": 8000, "examples": 180000, "examples_per_s": rate, "main_loss": main, "curve": points}


def quality(offset: float) -> dict[str, dict[str, float]]:
    return {
        task: {"auc": 0.7 + offset + 0.02 * i, "gauc": 0.64 + offset + 0.015 * i}
        for i, task in enumerate(TASKS_COLUMNS)
    }


def analysis() -> dict[str, Any]:
    terms = [{"term": "folk <b>drum</b>", "tokens": 61, "layers": {"0": 0.93}}]
    words = [("theme:", 0.02, 2), ("folk", 0.2, 2), ("<i>drum</i>", 0.68, 2)]
    drawn = {
        "author_id": 5,
        "tokens": 7,
        "cls": 0.1,
        "fields": [[{"word": word, "importance": share, "tokens": count} for word, share, count in words]],
        "similar": [{"author_id": 8, "cosine": 0.98765, "theme": "folk & drums"}],
    }
    return {
        "day": "2026-01-07",
        "a2a": {
            "authors": 441,
            "queries": 400,
            "precision_at_10": {
                "cls": {"plain": 0.083, "whitened": 0.412},
                "tar": {"plain": 0.094, "whitened": 0.377},
            },
            "chance": 0.021,
            "ceiling": 0.99,
        },
        "gates": {
            "layers": {"0": 0.41},
            "min_tokens": 50,
            "terms": 1,
            "highest": terms,
            "lowest": terms,
            "by_frequency": [{"from": 10, "to": 100, "terms": 1, "tokens": 61, "layers": {"0": 0.93}}],
        },
        "importance": {
            "authors": 400,
            "parts": [{"part": "target_audience", "importance": 0.3, "tokens": 0.2}],
            "drawn": [drawn],
        },
    }


def shares(*values: float) -> dict[str, float]:
    return dict(zip(FIELDS, values, strict=True))
