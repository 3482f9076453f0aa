"""SARM as a source: the current anchor of every author as tokens, learnt end to end."""

import numpy as np
import numpy.typing as npt

from models.sarm.anchor_tokens import AnchorTokens, TokenRows
from models.sarm.live_tokenizer.tokenizer import LiveStreamingTokenizer
from models.sarm.model import SARM, SARMConfig
from models.sources import Inputs
from models.sources import Source as Module
from pipelines.ranking.anchor_table import AnchorTable
from pipelines.ranking.variants.source import Context, Source, State
from pipelines.runtime.shares import is_worth_saying, share
from pipelines.semantics import vocabulary
from pipelines.tables import newest
from pipelines.tables.artifacts import Artifacts
from pipelines.tables.columns import Columns
from pipelines.tables.days import day_of
from pipelines.tables.storage import Storage

TOKENIZER = "tokenizer"
"""Where a ranker's lineage names the tokenizer that it reads anchors with."""


class CurrentAnchors(State):
    """The newest anchor of every author row before a moment."""

    def __init__(self, config: SARMConfig, context: Context) -> None:
        run_id = context.made_from[TOKENIZER]
        self.tokenizer = LiveStreamingTokenizer.load(context.artifacts.fetch(vocabulary.KIND, run_id))
        self._table = AnchorTable(context.storage, context.catalog, self.tokenizer, tokens=config.tokens)
        self.facts: TokenRows = self._table.rows

    @property
    def tokens(self) -> AnchorTokens:
        """Of all N + 1 author rows."""
        return self._table.tokens

    @property
    def anchor_day(self) -> npt.NDArray[np.int32]:  # type: ignore[override]
        """[N+1], NO_ANCHOR where there is none."""
        return self._table.anchor_day

    def advance(self, before: str) -> Inputs:
        """Tokens (base, live), [N+1, T] int64 each."""
        return self._table.advance(before).tokens.tensors()

    def check(self, key: str, columns: Columns) -> None:
        """Compares the examples' anchor days with those here."""
        self._table.check_examples(key, columns)

    def go_on(self, module: Module, before: Module) -> None:
        """A live token that an update has appended begins at the mean of those that it takes the place of."""
        assert isinstance(module, SARM) and isinstance(before, SARM)
        if module.rows.num_base_rows != before.rows.num_base_rows:
            raise ValueError(
                f"source sarm: wanted a tokenizer with {before.rows.num_base_rows} base rows, as the ranker has, got "
                f"{module.rows.num_base_rows}; train it from the beginning"
            )
        if module.rows.num_live_rows > before.rows.num_live_rows:
            module.begin_live_tokens(self.tokenizer.replaced(before.rows.num_live_rows))

    def warning(self) -> str:
        """How many of the anchors read so far were cut."""
        table = self._table
        if not is_worth_saying(table.num_truncated, table.num_read):
            return ""
        longest = self.tokenizer.config.max_tokens
        cut = share(table.num_truncated, table.num_read)
        return f"anchors cut: {cut} are longer than vocabulary.max_tokens = {longest} and lose their tail; raise it"


class SARMSource(Source):
    """Reads `anchors`, by the tokenizer that is published when training begins."""

    name = "sarm"
    label = "SARM"
    reads: tuple[str, ...] = ("anchors",)
    module = SARM
    can_follow = True

    def depends_on(self, storage: Storage, before: str) -> dict[str, str]:
        """Every day of anchors before."""
        return {f"{self.name}/anchors": newest.fingerprint(storage, "anchors", before=day_of(before))}

    def pinned(self, artifacts: Artifacts) -> dict[str, str]:
        """The tokenizer."""
        return {TOKENIZER: artifacts.manifest(vocabulary.KIND).run_id}

    def open(self, config: SARMConfig, context: Context) -> CurrentAnchors:
        """Raises ArtifactError where the tokenizer of the lineage is gone."""
        return CurrentAnchors(config, context)


SOURCES = (SARMSource(),)
