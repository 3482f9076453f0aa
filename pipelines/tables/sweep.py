"""What jobs left below a storage root when they died, swept by age: parts of tables that no commit lists, and staging.

Nothing of a job that runs is touched: who writes a day holds its lease, and a day whose lease is held is left alone.
Half versions of artifacts are swept where the next of their kind is published (artifacts.py).
"""

import logging
import re
from collections.abc import Iterable
from datetime import timedelta

from pyarrow import fs as pafs

from pipelines.tables import contract
from pipelines.tables.contract import ContractError
from pipelines.tables.lease import HeldError
from pipelines.tables.listing import EMPTY, MARKER, UNCOMMITTED, is_older, is_part
from pipelines.tables.storage import ABANDONED_S, Storage

log = logging.getLogger(__name__)
STAGING = "staging"
"""Folder below the storage root for what a job keeps until its day is committed: <table>-<anything>-<day>."""
_STAGING_S = timedelta(days=7).total_seconds()
"""Nobody goes on with what has stood still for so long."""
_OF_A_DAY = re.compile(r"(?P<table>[a-z_]+)-.*?(?P<day>\d{4}-\d{2}-\d{2})?")


def sweep(storage: Storage) -> list[str]:
    """Sweeps tables and staging, and returns what went, by path below the root. Two listings, and little else where
    there is nothing to sweep."""
    return tables(storage) + staging(storage)


def tables(storage: Storage) -> list[str]:
    """Parts older than a day that no commit lists, of all days of all tables."""
    gone: list[str] = []
    for (table, day), files in _by_folder(storage, "tables").items():
        if table not in contract.TABLES or not day.startswith("day=") or not _may_have_left(files):
            continue
        try:
            left = storage.sweep(table, day[4:])
        except HeldError as error:
            log.debug("%s", error)
            continue
        except (ContractError, OSError) as error:  # of a day that no job of today may have to do with
            log.warning("table %s, %s is not swept: %s", table, day, error)
            continue
        if left:
            log.info("swept %d file(s) that a write of %s, %s left when it died", len(left), table, day)
        gone += [f"tables/{table}/{day}/{name}" for name in left]
    return gone


def staging(storage: Storage) -> list[str]:
    """Folders of staging in which nothing was written for a week."""
    gone: list[str] = []
    for (folder,), files in _by_folder(storage, STAGING, depth=1).items():
        if all(is_older(file, _STAGING_S) for file in files) and _remove(storage, folder):
            log.info("swept staging/%s: its job died, and nobody went on with it for a week", folder)
            gone.append(f"{STAGING}/{folder}")
    return gone


def _remove(storage: Storage, folder: str) -> bool:
    """Deletes a folder of staging; False where its job runs."""
    named = _OF_A_DAY.fullmatch(folder)
    path = f"{storage.root}/{STAGING}/{folder}"
    if named is None or named["day"] is None or named["table"] not in contract.TABLES:
        storage.filesystem.delete_dir(path)
        return True
    try:
        with storage.lease(named["table"], named["day"]):
            storage.filesystem.delete_dir(path)
    except HeldError as error:
        log.debug("%s", error)
        return False
    return True


def _by_folder(storage: Storage, below: str, depth: int = 2) -> dict[tuple[str, ...], list[pafs.FileInfo]]:
    """What lies in the folders that are `depth` levels below one of the root, and themselves, from one listing."""
    base = f"{storage.root}/{below}"
    infos = storage.filesystem.get_file_info(pafs.FileSelector(base, allow_not_found=True, recursive=True))
    found: dict[tuple[str, ...], list[pafs.FileInfo]] = {}
    for info in infos:
        names = info.path[len(base) + 1 :].split("/")
        if len(names) > depth or (len(names) == depth and info.type == pafs.FileType.Directory):
            found.setdefault(tuple(names[:depth]), []).append(info)
    return found


def _may_have_left(files: Iterable[pafs.FileInfo]) -> bool:
    """Whether a look at a day's marker is worth it: there is something old that one commit alone does not leave."""
    names = {file.base_name for file in files}
    old = [file.base_name for file in files if is_part(file.base_name) and is_older(file, ABANDONED_S)]
    runs = {name.removeprefix(UNCOMMITTED).partition("-")[0] for name in names if name.startswith(UNCOMMITTED)}
    is_plain = MARKER in names and EMPTY not in names and len(runs) == 1
    return bool(old) and not (is_plain and all(name.endswith(".parquet") for name in old))
