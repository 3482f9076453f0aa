"""Mean gates of the gated fusion (SARM eq. 3): by layer, by domain term, and by how often a term is met."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from models.sarm.anchor_encoder import AnchorEncoder
from models.sarm.anchor_tokens import NO_LIVE_ROW, AnchorTokens
from models.sarm.live_tokenizer.tokenizer import LiveStreamingTokenizer

_ENCODED_TOGETHER = 256
_BANDS = (1, 10, 100, 1000)
"""Where bands of terms begin: tokens that a term covers."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class MeanGates:
    """The gates over the tokens of many anchors, by layer and live row."""

    counts: npt.NDArray[np.int64]
    """[live rows] base tokens that the live row covers; 0 for the row of no term."""
    sums: dict[int, npt.NDArray[np.float64]]
    """[live rows] sum of alpha over those tokens, of every layer with a fusion."""

    @classmethod
    def of(cls, encoder: AnchorEncoder, tokens: AnchorTokens, num_live_rows: int) -> "MeanGates":
        """Runs the encoder over the anchors of `tokens` that hold a term."""
        counts = np.zeros(num_live_rows, dtype=np.int64)
        sums: dict[int, npt.NDArray[np.float64]] = {}
        rows = np.flatnonzero((tokens.live != NO_LIVE_ROW).any(axis=1))
        for start in range(0, len(rows), _ENCODED_TOGETHER):
            base, live = tokens.select(rows[start : start + _ENCODED_TOGETHER]).tensors()
            for layer, alpha in encoder.gates(base, live).items():
                flat = live[:, : alpha.shape[1]].reshape(-1).numpy()
                total = sums.setdefault(layer, np.zeros(num_live_rows))
                total += np.bincount(flat, weights=alpha.reshape(-1).numpy(), minlength=num_live_rows)
            counts += np.bincount(live.reshape(-1).numpy(), minlength=num_live_rows)
        counts[NO_LIVE_ROW] = 0
        return cls(counts=counts, sums=sums)

    def layers(self, rows: npt.NDArray[np.int64] | None = None) -> dict[str, float]:
        """The mean over all tokens that a term (or one of the terms in `rows`) covers, by layer."""
        chosen = np.flatnonzero(self.counts) if rows is None else rows
        covered = max(int(self.counts[chosen].sum()), 1)
        return {str(layer): float(total[chosen].sum() / covered) for layer, total in self.sums.items()}

    def most_frequent(self, tokenizer: LiveStreamingTokenizer, num_terms: int) -> dict[str, Any]:
        """{layers, terms}: the mean gates of all, and of the terms that cover most tokens."""
        order = [int(row) for row in np.argsort(-self.counts, kind="stable") if self.counts[row] > 0]
        return {"layers": self.layers(), "terms": [self._term(tokenizer, row) for row in order[:num_terms]]}

    def extremes(self, tokenizer: LiveStreamingTokenizer, num_terms: int, min_tokens: int) -> dict[str, Any]:
        """{layers, min_tokens, terms, highest, lowest, by_frequency}: which terms the gates let in.

        `terms` counts those that cover at least `min_tokens` tokens; of these, `highest` and `lowest` have the largest
        and the smallest gate as a mean over layers. Bands of `by_frequency` go from (included) to (excluded).
        """
        rows = np.flatnonzero(self.counts >= max(min_tokens, 1)) if self.sums else np.zeros(0, dtype=np.int64)
        mean = sum(total[rows] for total in self.sums.values()) / self.counts[rows] / max(len(self.sums), 1)
        order = [int(row) for row in rows[np.argsort(-mean, kind="stable")]]
        return {
            "layers": self.layers(),
            "min_tokens": min_tokens,
            "terms": len(order),
            "highest": [self._term(tokenizer, row) for row in order[:num_terms]],
            "lowest": [self._term(tokenizer, row) for row in order[::-1][:num_terms]],
            "by_frequency": self._bands(),
        }

    def _bands(self) -> list[dict[str, Any]]:
        bands = []
        for low, high in zip(_BANDS, (*_BANDS[1:], None), strict=True):
            rows = np.flatnonzero((self.counts >= low) & (self.counts < (high or np.inf)))
            if len(rows):
                tokens = int(self.counts[rows].sum())
                bands.append(
                    {"from": low, "to": high, "terms": len(rows), "tokens": tokens, "layers": self.layers(rows)}
                )
        return bands

    def _term(self, tokenizer: LiveStreamingTokenizer, row: int) -> dict[str, Any]:
        return {
            "term": tokenizer.live_text(row).strip(),
            "tokens": int(self.counts[row]),
            "layers": {str(layer): float(total[row] / self.counts[row]) for layer, total in self.sums.items()},
        }
