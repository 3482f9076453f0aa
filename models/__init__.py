"""The ranking models, in pure PyTorch: no Ray, no vLLM, no Arrow.

Shapes in docstrings use one legend everywhere:

| letter | meaning |
|---|---|
| B | rows of a batch (impressions; at serving the candidates of one request) |
| C | candidates of one request |
| L | length of the user history, newest item last, padded on the left |
| T | anchor tokens of one author, [CLS] included |
| D | width of the anchor and user-interest representations |
| K | tasks of the ranker, in the order of its configuration |
| N | known authors; tables over authors have N + 1 rows, row 0 is the unknown author |
| U | known users; tables over users have U + 1 rows, row 0 is the unknown user |
| P | categorical columns of the user profile |
| A | authors encoded in one step |
| J | codes of a segment, one per level of a codebook |
| V | width of the input of HoME |
| E | experts of one group |
"""

from collections.abc import Mapping
from types import MappingProxyType

TASK_CATEGORIES: Mapping[str, str] = MappingProxyType(
    {"click": "inter", "follow": "inter", "long_view": "watch", "gift": "inter"}
)
"""The tasks of a ranker that names no others, in order, by their label columns -> their categories in HoME."""

TASKS = tuple(TASK_CATEGORIES)
"""Their names."""

MASK = "mask_"
"""How the name of a column begins that says where a label counts: `mask_click` 0 = `click` says nothing in this row."""

ON_SCREEN = ("segment_codes", "item_codes")
"""Tables of codes that rows may carry, of what was on screen: each as a column of its name, and as `history_<name>`."""

HISTORY = "history_"
"""How the name of a column begins that says something of each item of a history."""

__all__ = ["HISTORY", "MASK", "ON_SCREEN", "TASKS", "TASK_CATEGORIES"]
