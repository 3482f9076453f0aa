"""Which days a daily job has to do. Days that were found up to date once are not asked for one by one again."""

import json
from collections.abc import Mapping
from typing import Any

from pyarrow import fs as pafs

from pipelines.tables import contract
from pipelines.tables.fingerprint import digest
from pipelines.tables.listing import Listing
from pipelines.tables.storage import Storage

_CHECKED = "_CHECKED.json"
"""Beside the days of a table: {until, state}, where `state` is what its days up to `until` are and were made from."""


def due_days(storage: Storage, table: str, made_from: Mapping[str, Mapping[str, str]]) -> list[str]:
    """Days of `made_from` whose rows of `table` are missing or were made from something else, oldest first.

    Opens the markers of the days behind the last run's, and of all days where anything in earlier ones has changed.
    """
    path = f"{storage.root}/tables/{contract.spec(table).name}/{_CHECKED}"
    days, checked, listing = sorted(made_from), _read(storage, path), storage.listing(table)
    until = checked.get("until", "")
    if not until or checked.get("state") != _state(listing, made_from, until):
        until = ""
    due = [day for day in days if day > until and not storage.is_current(table, day, made_from[day])]
    current = [day for day in days if not due or day < due[0]]
    if current and current[-1] > until:
        storage.write_json(path, {"until": current[-1], "state": _state(listing, made_from, current[-1])})
    return due


def _state(listing: Listing, made_from: Mapping[str, Mapping[str, str]], until: str) -> str:
    return digest([[made_from[day] for day in sorted(made_from) if day <= until], until, listing.history(until=until)])


def _read(storage: Storage, path: str) -> dict[str, Any]:
    if storage.filesystem.get_file_info(path).type != pafs.FileType.File:
        return {}
    with storage.filesystem.open_input_stream(path) as stream:
        content: dict[str, Any] = json.loads(stream.read())
    return content
