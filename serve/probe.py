"""Asks a snapshot, before it is used, what was asked when its bank was made: it must answer the same."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import cast

import numpy as np

from models.artifacts.manifest import ArtifactError
from models.artifacts.probe import Probe
from serve.overlay import Rows
from serve.schema import Context, RankRequest
from serve.snapshot import Gathered, Snapshot
from serve.user_sequence import Lookup, UserSequence
from serve.watcher import SnapshotWatcher


class _Held:
    """Stands for a watcher that has loaded one snapshot."""

    def __init__(self, snapshot: Snapshot) -> None:
        self.current = snapshot


def checks(snapshot: Snapshot, probe: Probe) -> Iterator[Callable[[], None]]:
    """Ranks the requests of the probe as any other, each by one call of what is yielded.

    Raises ArtifactError where the bank is another one, and a call does where a score is not the one recorded.
    """
    bank = snapshot.bank
    subject = f"bank {bank.version} with model {bank.model_version}"
    if snapshot.tasks != probe.tasks:
        raise ArtifactError(
            f"{subject}: its probe has scores of {', '.join(probe.tasks)}, the model of {', '.join(snapshot.tasks)}; "
            "publish a bank and its model together"
        )
    lookup: Lookup | None = None
    if bank.is_elsewhere:

        def from_probe(_version: str, _delta: int, rows: Rows) -> Gathered:
            return Gathered(probe.gather(rows), bank.moment)

        lookup = from_probe
    else:
        probe.check_rows(subject, bank.states)
    ranking = UserSequence(cast("SnapshotWatcher[Snapshot]", _Held(snapshot)), lookup=lookup)
    for request in range(len(probe.user_ids)):
        yield partial(_check, ranking, probe, subject, request)


def _check(ranking: UserSequence, probe: Probe, subject: str, request: int) -> None:
    candidates = probe.candidates[request].tolist()
    asked = RankRequest(user_id=int(probe.user_ids[request]), candidates=candidates, context=Context(ts_ms=probe.ts_ms))
    by_author = {answer.author_id: answer for answer in ranking.rank(asked).candidates}
    got = [[getattr(by_author[author_id], task) for task in probe.tasks] for author_id in candidates]
    probe.check_scores(subject, request, np.array(got))
