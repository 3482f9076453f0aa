"""What the metrics are told of requests that were ranked."""

from __future__ import annotations

from collections.abc import Sequence

from serve.observe import Meter, Stages
from serve.schema import RankResponse


def tell_ranked(meter: Meter, answers: Sequence[RankResponse], stages: Stages) -> None:
    """Tells a meter of requests that had one turn together, whose time is that of `stages`."""
    for stage, seconds in stages.seconds.items():
        meter.observe("rank_stage_seconds", seconds, stage=stage)
    for answer in answers:
        meter.observe("rank_candidates", len(answer.candidates))
        meter.count("rank_answers", arm=answer.model, bank=answer.bank_version, model=answer.model_version)
        meter.count("rank_histories", source=answer.history_source)
        if answer.misses.candidates:
            meter.count("rank_cold_authors", answer.misses.candidates)
        if not answer.user_known:
            meter.count("rank_unknown_users")
        if answer.screen_age_s is not None:
            meter.set("rank_screen_age_s", answer.screen_age_s)
        if answer.degraded:
            meter.count("rank_degraded")
