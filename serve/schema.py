"""What goes over HTTP: requests with their bounds, and answers. The one definition of the API."""

from dataclasses import dataclass, make_dataclass
from functools import lru_cache
from typing import Annotated, Any, Literal, Self

from fastapi import Path
from pydantic import BaseModel, ConfigDict, Field, create_model, model_validator

from models import TASKS

MAX_CANDIDATES = 2_000
"""Candidates of one request."""
MAX_HISTORY = 200
"""History items of one request; the model reads the newest ones, as many as it was trained with."""
MAX_REQUESTS = 64
"""Requests of one batch."""
MAX_SIMILAR = 100
"""Neighbours of one author in one answer."""

_INT64 = 2**63
_MAX_TS_MS = 253_402_300_799_999
_MAX_WATCH_S = 1e7

Id = Annotated[int, Field(strict=True, ge=-_INT64, le=_INT64 - 1, description="A 64-bit integer.")]
Delta = Annotated[int, Field(description="Number of the bank's newest delta in use; 0 = the full bank alone.")]
Until = Annotated[
    str | None,
    Field(description="Event time, UTC: all that happened before is in the bank and its deltas; null if not known."),
]
UntilAge = Annotated[float | None, Field(description="Seconds of event time since bank_until; null if not known.")]
HistorySource = Annotated[
    Literal["request", "store", "published", "none"],
    Field(description="Where the history is from; store: the online store, joined with what is published."),
]
StoreAge = Annotated[
    float | None,
    Field(
        description="Seconds from the newest exposure, click or exit of the user in the online store to the request; "
        "null where it knows none or was not asked."
    ),
]
PathId = Annotated[int, Path(ge=-_INT64, le=_INT64 - 1, description="A 64-bit integer.")]
TimestampMs = Annotated[int, Field(strict=True, ge=0, le=_MAX_TS_MS, description="Milliseconds since 1970, UTC.")]


class Message(BaseModel):
    """Every message refuses fields that it does not know."""

    model_config = ConfigDict(extra="forbid")


class HistoryItem(Message):
    """One click of the user, and the seconds watched after it."""

    author_id: Id
    ts_ms: TimestampMs
    watch_time_s: float = Field(
        default=0.0, strict=True, ge=0.0, le=_MAX_WATCH_S, allow_inf_nan=False, description="Seconds watched."
    )


class Context(Message):
    """Circumstances of the request."""

    ts_ms: TimestampMs | None = Field(default=None, description="Time of the request; null = now.")


class UserRequest(Message):
    """A question about one user at a moment."""

    user_id: Id = Field(description="A user that is not known is answered like a new one.")
    history: list[HistoryItem] | None = Field(
        default=None,
        max_length=MAX_HISTORY,
        description="Clicks of the user in any order; null = what the online store and the published history know; [] "
        "= no history. "
        "Items that are not known yet at the request do not count: those not earlier, and those younger than the delay "
        "that the model was trained with.",
    )
    context: Context = Context()

    def ts_ms(self, now_ms: int) -> int:
        """The moment of the request, where it is answered at `now_ms`."""
        return now_ms if self.context.ts_ms is None else self.context.ts_ms


class RankRequest(UserRequest):
    """Rank candidates for a user."""

    candidates: list[Id] | None = Field(
        default=None,
        min_length=1,
        max_length=MAX_CANDIDATES,
        description="Author ids, each once. An author that is not known is answered with the cold-start vector. null, "
        f"and no lives = the authors of all lives on air; of more than {MAX_CANDIDATES} those that began last.",
    )
    lives: list[Id] | None = Field(
        default=None,
        min_length=1,
        max_length=MAX_CANDIDATES,
        description="Live ids, in the place of candidates: their authors are ranked.",
    )
    keep_ended: bool = Field(default=False, strict=True, description="Rank the authors of lives off air too.")
    model: str | None = Field(
        default=None, max_length=32, description="Who answers, by its name in GET /models; null = as users are split."
    )

    @model_validator(mode="after")
    def _one_kind_of_candidates(self) -> Self:
        if self.candidates is not None and self.lives is not None:
            raise ValueError("wanted candidates or lives, got both; send one of them")
        return self

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [
                {"user_id": 17, "candidates": [101, 102, 103]},
                {
                    "user_id": 17,
                    "candidates": [101, 102, 103],
                    "history": [{"author_id": 101, "ts_ms": 1_760_000_000_000, "watch_time_s": 42.5}],
                    "context": {"ts_ms": 1_760_000_600_000},
                },
            ]
        },
    )


class BatchRequest(Message):
    """Rank for several users."""

    requests: list[RankRequest] = Field(min_length=1, max_length=MAX_REQUESTS)


@dataclass(slots=True)
class RankedCandidate:
    """One candidate with its probabilities, of the tasks that rankers have by default: see `answer_of`.

    A dataclass, because thousands of them are made for one answer.
    """

    author_id: int
    score: Annotated[float, Field(description="Product over tasks of (1 + probability) ** weight; orders the answer.")]
    click: float
    follow: float
    long_view: float
    gift: float
    known: Annotated[bool, Field(description="False: not in the bank, scored with the cold-start vector.")]


class Misses(Message):
    """How many ids had no row in the bank."""

    candidates: int
    history: int


class LiveOfAuthor(Message):
    """A live behind a candidate."""

    live_id: int
    author_id: int
    on_air: bool


class LivesOfAnswer(Message):
    """Which lives the candidates of an answer are of, at the moment of the request."""

    lives: list[LiveOfAuthor] = Field(description="Lives whose authors were ranked; an author may have several.")
    off_air: list[int] = Field(description="Lives of the request that ended or have not begun; see keep_ended.")
    unknown: list[int] = Field(description="Lives of the request that nobody told, or whose start nobody told.")
    left_out: int = Field(description="Lives on air beyond the limit of candidates.")


class RankResponse(Message):
    """Candidates in descending order of score; equal scores keep the order of the request."""

    candidates: list[RankedCandidate] = Field(
        description="Each has one probability for every task of the ranker, between score and known, by its name."
    )
    user_known: bool
    history_used: int = Field(description="History items that the model read.")
    history_source: HistorySource
    store_age_s: StoreAge
    lives: LivesOfAnswer | None = Field(description="null where the request names candidates.")
    misses: Misses
    model: str = Field(default="current", description="Who answered, by its name in GET /models.")
    bank_version: str
    bank_delta: Delta
    bank_until_age_s: UntilAge
    screen_age_s: float | None = Field(
        description="Seconds from the end of the newest segment whose codes are known to the request's moment, 0 where "
        "that was before; null where the ranker reads no codes, and where none is known."
    )
    model_version: str
    bank_age_s: float = Field(description="Seconds since the full bank was published.")
    degraded: bool = Field(
        description="True: the author cache did not answer in time, and all vectors are cold-start; or the online "
        "store did not, and the history is the published one."
    )


class BatchResponse(Message):
    """Answers in the order of the requests."""

    answers: list[RankResponse] = Field(description="Each says itself which bank it is from.")


@lru_cache
def answer_of(tasks: tuple[str, ...]) -> tuple[type[RankResponse], type[Any]]:
    """The answer of a ranker with these tasks, and its candidates: RankedCandidate with a float for each of them."""
    if tasks == TASKS:
        return RankResponse, RankedCandidate
    columns = [("author_id", int), ("score", float), *((task, float) for task in tasks), ("known", bool)]
    candidate = make_dataclass("RankedCandidate", columns, slots=True, namespace={"__module__": __name__})
    field: Any = (list[candidate], ...)  # type: ignore[valid-type]
    return create_model("RankResponse", __base__=RankResponse, candidates=field), candidate


class RetrieveRequest(UserRequest):
    """Find lives on air for a user."""

    k: int = Field(default=1_000, strict=True, ge=1, le=MAX_CANDIDATES, description="Lives to find, at most.")

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"user_id": 17, "k": 200}]})


class RetrieveResponse(Message):
    """Lives on air, the nearest to the user first: three lists of one length. Fewer than k where fewer are on air."""

    live_ids: list[int]
    author_ids: list[int] = Field(description="An author may have several lives.")
    scores: list[float] = Field(description="Inner products of the user's vector and the lives', to six places.")
    on_air: int = Field(description="Lives on air, which were all compared.")
    user_known: bool
    history_used: int = Field(description="History items that the model read.")
    history_source: HistorySource
    store_age_s: StoreAge
    index_version: str
    index_until_age_s: float = Field(
        description="Seconds from the moment whose screens the index knows to that of the request; 0 where that was "
        "before."
    )
    towers_version: str
    degraded: bool = Field(
        description="True: the online store did not answer, so that the history is the published one, and lives that "
        "have just ended may be among those found."
    )


class IndexResponse(Message):
    """The index of lives in use, and how following it goes."""

    index_version: str
    index_until_age_s: float
    towers_version: str
    lives: int
    width: int = Field(description="Of the vectors.")
    load_failures: int
    last_failure: str | None = Field(description="Why the newest published index is not in use; null where it is.")


class AuthorResponse(Message):
    """What the bank holds about an author."""

    author_id: int
    known: bool
    anchor_day: str | None = Field(description="Day of the anchor behind the vectors, null where there is none.")
    anchor_age_days: int | None
    cls_norm: float | None = Field(
        description="Length of the [CLS] vector (of the cold-start one where not known); null where there is none."
    )
    tar_norm: float | None = Field(description="Length of the [TAR] vector; null where there is none.")
    bank_version: str
    bank_delta: Delta
    model_version: str


class Neighbour(Message):
    """A similar author."""

    author_id: int
    cosine: float


class SimilarResponse(Message):
    """Nearest authors by cosine of their whitened [CLS] vectors, among authors that have an anchor."""

    author_id: int
    similar: list[Neighbour]
    bank_version: str
    bank_delta: Delta
    model_version: str


class BankResponse(Message):
    """The bank in use, and how following it goes."""

    bank_version: str
    bank_delta: Delta
    bank_until: Until
    bank_until_age_s: UntilAge
    model_version: str
    rows_of_deltas: int = Field(description="Rows whose states are those of deltas.")
    rows: int = Field(description="Authors, plus row 0 for those that are not known.")
    states: dict[str, list[int]] = Field(description="What is held of each author: shape of its state, by source.")
    authors_with_anchor: int
    age_s: float = Field(description="Seconds since the full bank was published.")
    made_from: dict[str, str]
    load_failures: int
    last_failure: str | None = Field(
        description="Why the newest published version or delta is not in use; null where both are."
    )
    stale: bool = Field(description="True: a newer bank may be published, or storage is away; last_failure says why.")
    sample_author_ids: list[int] = Field(description="A few authors with an anchor, to try requests with.")
    sample_user_ids: list[int]


class HealthResponse(Message):
    """Whether ranking can be answered."""

    ready: bool
    bank_version: str | None = None
    bank_delta: Delta = 0
    bank_until: Until = None
    bank_until_age_s: UntilAge = None
    model_version: str | None = None
    stale: bool = Field(
        default=False, description="True: what is in use may not be the newest; GET /bank says why in last_failure."
    )
    reason: str | None = Field(default=None, description="Why not ready.")


class ArmResponse(Message):
    """A bank and its model that answer here."""

    name: str
    ready: bool
    share: float = Field(description="Of the users whom it answers; of requests, where it only scores beside.")
    shadow: bool = Field(description="True: it only scores what another one answers.")
    bank_version: str | None
    bank_delta: Delta
    model_version: str | None
    reason: str | None = Field(description="Why it is not ready.")


class MinuteResponse(Message):
    """Requests of /rank to one replica, up to a minute back."""

    seconds: float
    requests: int
    failed: int
    requests_per_s: float
    p50_ms: float | None
    p99_ms: float | None


class StatsResponse(Message):
    """What the replica that answers has done of late."""

    minute: MinuteResponse
    store_age_s: float | None = Field(description="Seconds since the newest event that this replica took; null = none.")


class ErrorItem(BaseModel):
    """One thing that is wrong with a request."""

    loc: list[str | int]
    msg: str
    type: str


class ErrorResponse(BaseModel):
    """The answer to a request that cannot be used, or not now."""

    detail: str | list[ErrorItem]
