"""What `report.json` holds: one section per key, the job that writes it, and all that the page may read of it.

Tests hold both sides to these types: the file that a demo leaves has these keys and no others, and the page reads no
others.
"""

from typing import Any, NotRequired, TypedDict

from pipelines.demo.live_content import LivePart, Retrieved

ByField = dict[str, float]
"""Shares by field of an anchor, contract.FIELDS."""
ByLayer = dict[str, float]
"""Mean gates by layer of the encoder that has a fusion."""
Bucket = dict[str, Any]
"""Click quality of authors by exposure: {from, to, impressions, authors}, and a Quality by name of each ranker."""


class World(TypedDict):
    """Job world: rows written."""

    authors: int
    lives: int
    segments: int
    impressions: int


class HeldOut(TypedDict):
    """What a student writes about author-days that it was not taught."""

    author_days: int
    valid_rate: float
    agreement: ByField


class Distil(TypedDict):
    """Job distil."""

    seconds: float
    steps: int
    loss: float
    held_out: HeldOut
    output: str


class Anchors(TypedDict):
    """Job anchors; from `valid_rate` on: the demo, which compares with the truth."""

    rows_in: int
    anchors: int
    rejections: int
    days_done: int
    seconds: float
    authors_per_s: float | None
    engine_start_s: float | None
    kept: int
    model: str
    valid_rate: float
    agreement: ByField
    chance: ByField
    agreement_frames_swapped: NotRequired[ByField]
    swapped_authors: NotRequired[int]


class Vocabulary(TypedDict):
    """Job vocabulary."""

    run_id: str
    how: str
    days: list[str]
    anchors: int
    base_vocabulary: int
    merges: int
    base_rows: int
    base_tokens_mean: float
    live_tokens_mean: float
    examples: list[str]


class Examples(TypedDict):
    """Job examples."""

    days: list[str]
    days_written: list[str]
    examples: int


class CurvePoint(TypedDict):
    """Means over the steps since the point before."""

    step: int
    loss: float
    main_loss: float
    click_loss: float
    follow_loss: NotRequired[float]
    long_view_loss: NotRequired[float]
    gift_loss: NotRequired[float]
    aux_loss: float
    examples_per_s: float


class Trained(TypedDict):
    """Job train, one ranker; only the first two where it was current already."""

    run_id: str
    how: str
    days: NotRequired[list[str]]
    epochs: NotRequired[int]
    scores: NotRequired[list[float]]
    """GAUC on the validation days after each epoch; empty without a validation."""
    steps: NotRequired[int]
    examples: NotRequired[int]
    encoded_authors: NotRequired[int]
    loop_seconds: NotRequired[float]
    cpu_seconds: NotRequired[float]
    waited_seconds: NotRequired[float]
    start_seconds: NotRequired[float]
    examples_per_s: NotRequired[float]
    main_loss: NotRequired[float]
    curve: NotRequired[list[CurvePoint]]
    seconds: NotRequired[float]
    failures: NotRequired[int]


class Quality(TypedDict):
    """How well a task is ranked; nan where the day has one class only."""

    auc: float
    gauc: float


class Term(TypedDict):
    """A merged term, the tokens that it covers, and its gates."""

    term: str
    tokens: int
    layers: ByLayer


class Gates(TypedDict):
    """Job analyse: the gates of the most frequent terms."""

    layers: ByLayer
    terms: list[Term]


Band = TypedDict("Band", {"from": int, "to": int | None, "terms": int, "tokens": int, "layers": ByLayer})
"""Terms that cover so many tokens, from (included) to (excluded)."""


class ExtremeGates(TypedDict):
    """The terms with the largest and the smallest gates."""

    layers: ByLayer
    min_tokens: int
    terms: int
    highest: list[Term]
    lowest: list[Term]
    by_frequency: list[Band]


class Retrieval(TypedDict):
    """Similar authors against the truth; `precision_at_10` by vector (cls, tar), then plain and whitened."""

    authors: int
    queries: int
    precision_at_10: dict[str, dict[str, float]]
    chance: float
    ceiling: float


class Part(TypedDict):
    """A part of the anchor: its share of importance, and of tokens."""

    part: str
    importance: float
    tokens: float


class Word(TypedDict):
    """A word of an anchor, what it counts, and its tokens."""

    word: str
    importance: float
    tokens: int


class Similar(TypedDict):
    """A near author."""

    author_id: int
    cosine: float
    theme: str


class DrawnAnchor(TypedDict):
    """An anchor word by word, in its six fields."""

    author_id: int
    tokens: int
    cls: float
    fields: list[list[Word]]
    similar: list[Similar]


class Importance(TypedDict):
    """What [TAR] reads in anchors."""

    authors: int
    parts: list[Part]
    drawn: list[DrawnAnchor]


class Analysis(TypedDict):
    """Job analyse; None where no truth is known, or where the model does not read words."""

    day: str
    a2a: Retrieval | None
    gates: ExtremeGates
    importance: Importance | None


class Published(TypedDict):
    """Job publish: the newest bank; only the first two where it was current already."""

    run_id: str
    how: str
    model: NotRequired[str]
    ranker: NotRequired[str]
    until: NotRequired[str]
    rows: NotRequired[int]
    authors_with_anchor: NotRequired[int]
    anchor_age_days_mean: NotRequired[float | None]
    users_with_history: NotRequired[int]
    bank_mb: NotRequired[float]
    encode_seconds: NotRequired[float]
    gate: NotRequired[dict[str, Any]]


class CardsPublished(TypedDict):
    """Job cards; only the first two where they were current already."""

    run_id: str
    how: str
    authors: NotRequired[int]
    with_frames: NotRequired[int]


class Served(TypedDict):
    """The demo, of the running endpoint."""

    max_abs_diff_vs_offline: float
    compared: int
    requests: int
    candidates: int
    clients: int
    qps: float
    rank_p50_ms: float
    rank_p99_ms: float
    one_client_p50_ms: float
    one_client_p99_ms: float


class Candidate(TypedDict):
    """A ranked author, with the probability of each task."""

    author_id: int
    score: float
    click: float
    follow: float
    long_view: float
    gift: float
    known: bool
    theme: str


class Ranked(TypedDict):
    """The best of one answer of the endpoint."""

    user_id: int
    known: bool
    candidates: list[Candidate]


class Machine(TypedDict):
    """runtime.machine."""

    cpus: int
    memory_gb: float
    platform: str


class Report(TypedDict, total=False):
    """The whole file. A key is missing where its job did not run."""

    seed: int
    date: str
    machine: Machine
    versions: dict[str, str]
    config: dict[str, Any]
    seconds: dict[str, float]
    """Of every stage, and `total`."""
    peak_memory_gb: float
    world: World
    distil: Distil
    anchors: Anchors
    vocabulary: Vocabulary
    examples: Examples
    train: dict[str, Trained]
    """By ranker."""
    evaluated_day: str
    """Job evaluate, as are `evaluated_examples`, `metrics` and `buckets`."""
    evaluated_examples: int
    evaluated_served: dict[str, Any] | None
    """The version that was served before, measured on the same day; None where there was none."""
    metrics: dict[str, dict[str, Quality]]
    """By ranker, then by task; the rankers that are published, and the oracle."""
    buckets: list[Bucket]
    gates: Gates
    analysis: Analysis
    publish: Published
    cards: NotRequired[CardsPublished]
    live: LivePart
    retrieved: Retrieved
    serve: Served
    ranked: list[Ranked]
