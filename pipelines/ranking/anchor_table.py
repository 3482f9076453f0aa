"""The newest anchor of every author as tokens, moved forward in time."""

import numpy as np
import numpy.typing as npt

from models.catalog import Catalog
from models.sarm.anchor_tokens import AnchorTokens, TokenRows
from models.sarm.live_tokenizer.tokenizer import LiveStreamingTokenizer
from pipelines.samples.batches import Ints
from pipelines.tables import contract, newest
from pipelines.tables.anchor_text import field_texts
from pipelines.tables.columns import Columns
from pipelines.tables.contract import FIELDS, ContractError
from pipelines.tables.days import NO_ANCHOR, day_name, day_number, day_of
from pipelines.tables.storage import Storage, batches


class AnchorTable:
    """The newest anchor of every author row as tokens, moved forward in time."""

    def __init__(
        self, storage: Storage, catalog: Catalog, tokenizer: LiveStreamingTokenizer, *, tokens: str = "base"
    ) -> None:
        """`tokens` is SARMConfig's: live for A'_s alone."""
        self._storage, self._catalog, self._tokenizer = storage, catalog, tokenizer
        self._live_only = tokens == "live"
        self._until: str | None = None
        num_rows = catalog.num_authors + 1
        self.tokens = AnchorTokens.empty(num_rows)
        """Tokens of N + 1 author rows; [CLS] alone where there is no anchor yet."""
        self.anchor_day = np.full(num_rows, NO_ANCHOR, dtype=np.int32)
        """[N+1] day of the current anchor, days since 1970, NO_ANCHOR where there is none."""
        self.num_read = self.num_truncated = 0
        """Anchors read so far, and those of them that were longer than the tokenizer's max_tokens."""

    @property
    def rows(self) -> TokenRows:
        """Sizes of the token tables that an encoder of these anchors needs."""
        return self._tokenizer.live_rows if self._live_only else self._tokenizer.rows

    def advance(self, before: str) -> "AnchorTable":
        """Moves on to the newest anchors from the days before a time key.

        The first move reads the newest anchor of every author, later ones what the days between wrote.
        """
        today = day_of(before)
        if self._until is None:
            self._until = newest.carry(self._storage, "anchors", before=today)
            if self._until is not None:
                self._take(contract.newest_of("anchors"), self._until)
            return self
        for day in self._storage.listing("anchors").up_to(before=today):
            if day > self._until:
                self._take("anchors", day)
                self._until = day
        return self

    def check_examples(self, day: str, columns: Columns) -> None:
        """Raises ContractError where the examples of `day` were joined with other anchors than the current ones."""
        rows = self._catalog.author_rows(columns["author_id"])
        current = np.where(rows > 0, self.anchor_day[rows], NO_ANCHOR)
        differs = np.flatnonzero((rows > 0) & (current != columns["anchor_day"]))
        if len(differs):
            row = differs[0]
            raise ContractError(
                f"table examples, day {day}, column anchor_day: wanted {day_name(current[row])} for author "
                f"{columns['author_id'][row]}, got {day_name(columns['anchor_day'][row])}; "
                "the anchors changed since: run the job examples again"
            )

    def _take(self, table: str, day: str) -> None:
        """Reads a day of `anchors`, or of the newest anchors, which say themselves what day they are of."""
        columns = [name for name in ("author_id", "since", *FIELDS) if name in contract.spec(table).schema.names]
        for chunk in batches(self._storage.dataset(table, day), 4096, columns):
            rows = self._catalog.author_rows(chunk["author_id"].to_numpy())
            fields = [field_texts(row) for row in chunk.select(list(FIELDS)).to_pylist()]
            positions = np.flatnonzero(rows)
            if len(positions):
                encode = self._tokenizer.encode_live if self._live_only else self._tokenizer.encode
                self._place(rows[positions], encode([fields[index] for index in positions]))
                since = chunk["since"].cast("int32").to_numpy()[positions] if "since" in columns else day_number(day)
                self.anchor_day[rows[positions]] = since

    def _place(self, rows: Ints, new: AnchorTokens) -> None:
        """Puts anchors over the rows, the table growing in T where they are longer."""
        self.num_read += len(new)
        self.num_truncated += new.num_truncated
        width = max(self.tokens.base.shape[1], new.base.shape[1])
        base, live = _widen(self.tokens.base, width), _widen(self.tokens.live, width)
        base[rows], live[rows] = _widen(new.base, width), _widen(new.live, width)
        self.tokens = AnchorTokens(base=base, live=live)


def _widen(tokens: npt.NDArray[np.int32], width: int) -> npt.NDArray[np.int32]:
    wide = np.zeros((len(tokens), width), dtype=np.int32)
    wide[:, : tokens.shape[1]] = tokens
    return wide
