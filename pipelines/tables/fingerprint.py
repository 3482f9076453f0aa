"""Short hashes of what a result depends on."""

import hashlib
import json
from typing import Any


def digest(content: Any) -> str:
    """Short hash of a prompt template or schema, stored with each anchor."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]
