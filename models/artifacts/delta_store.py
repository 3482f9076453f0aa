"""The deltas of one published bank: read in their order, and published so that none is ever seen by half.

They lie below the bank's own version, `v=<run_id>/deltas/<number>/`, so that they go when it goes and publishing one
lists nothing. `v=<run_id>/DELTAS` holds the number of the newest: it moves last, and readers believe nothing else.

After every SPAN deltas one that does what they do is put beside them, and after every MAX_SPAN another: whoever starts
from the full bank reads dozens and not thousands. None of it is needed: where one is missing, its parts are read.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from functools import partial

from models.artifacts import bank, bank_delta
from models.artifacts.bank_delta import BankDelta, BankLayout, span_name
from models.artifacts.manifest import MANIFEST, ArtifactError, Manifest
from models.artifacts.store import ArtifactStore

log = logging.getLogger(__name__)
DELTAS = "DELTAS"
"""Pointer of a bank's version to its newest delta."""
SPAN = 16
"""Deltas, and merged ones of that many, that are merged into one."""
MAX_SPAN = SPAN * SPAN
"""Most deltas in a merged one: larger ones would hold the publisher up for long."""

_BANK, _KIND, _FOLDER = "bank", "bank_delta", "deltas"


class ContentError(ArtifactError):
    """A number was published before, with other content."""


class DeltaStore:
    """Reads and publishes the deltas of one bank."""

    def __init__(self, store: ArtifactStore, layout: BankLayout) -> None:
        """Args: `layout` of the bank, whose run id it has."""
        self._store, self._layout, self._run_id = store, layout, layout.run_id

    @classmethod
    def open(cls, store: ArtifactStore, run_id: str) -> DeltaStore:
        """Of a bank that stays where it is: a few KiB of it are read. Raises ArtifactError, and OSError for none."""
        rows, cold_start = bank.outline(run_id, partial(store.read_part, _BANK, run_id))
        return cls(store, BankLayout.of(run_id, rows, cold_start))

    @property
    def layout(self) -> BankLayout:
        """What a delta must fit."""
        return self._layout

    def newest(self) -> int:
        """Number of the newest delta, 0 where there is none. Reads one small file. Raises ArtifactError for damage."""
        content = self._store.read_file(_BANK, self._run_id, DELTAS)
        if content is None:
            return 0
        text = content.decode("utf-8", errors="replace").strip()
        if not (text.isascii() and text.isdigit() and len(text) < 16 and int(text)):
            raise ArtifactError(
                f"bank {self._run_id}: wanted the number of a delta in {DELTAS}, got {text[:80]!r}; "
                "publish a delta again, or the next full bank"
            )
        return int(text)

    def read(self, first: int, number: int | None = None, *, with_states: bool = True) -> BankDelta:
        """Delta `first`, or the merged one of first..number, after every hash was checked. Raises ArtifactError.

        Without states those are read only where row 0 is among the rows.
        """
        name = span_name(first, number or first)
        manifest = self._manifest(name)
        if manifest is None:
            raise ArtifactError(
                f"bank {self._run_id}, delta {name}: wanted {MANIFEST}, got none; later ones wait for it: publish it "
                "again, or the next full bank"
            )
        without = None if with_states else bank.SOURCE
        stored = {file: self._content(name, file) for file in manifest.names(without)}
        files = {file: content for file, content in stored.items() if content is not None}
        manifest.check(f"{self._run_id}/{_FOLDER}/{name}", _hashes(files).get, without)
        delta = bank_delta.decode(files, self._layout, with_states=with_states)
        got = span_name(delta.first, delta.number)
        if got != name:
            raise ArtifactError(f"bank {self._run_id}: wanted delta {name}, its files say {got}; publish it again")
        if not with_states and len(delta.rows) and delta.rows[0] == bank.COLD_START_ROW:
            return self.read(first, number)
        return delta

    def until_ts_ms(self, number: int) -> int:
        """Event time of a delta. Raises ArtifactError."""
        return self.read(number, with_states=False).until_ts_ms

    def since(self, after: int = 0, *, with_states: bool = True) -> Iterator[BankDelta]:
        """What was published after delta `after` (0 = the full bank), in order, merged where that is there.

        Raises ArtifactError at the first that is missing, damaged or does not fit, after those before it.
        """
        newest = self.newest()
        if newest < after:
            raise ArtifactError(
                f"bank {self._run_id}: delta {after} is in use, {DELTAS} says {newest}; publish the next full bank"
            )
        for first, number in spans(after, newest):
            yield from self._span(first, number, with_states)

    def publish(self, delta: BankDelta, confirm: Callable[[], None] = lambda: None) -> None:
        """Puts the delta after the newest, reads it back, and moves DELTAS. One publisher at a time.

        `confirm` is called before the first file and before DELTAS, and may raise. Nothing is done where the same delta
        is there; another one of its number is an ArtifactError, as is one that leaves out a number or goes back in
        event time.
        """
        delta.check(self._layout)
        files = bank_delta.encode(delta)
        newest = self.newest()
        confirm()
        if delta.number <= newest:
            self._publish_again(delta, files)
        else:
            delta.check_follows(newest, self.until_ts_ms(newest) if newest else None)
            self._put(delta, files)
            confirm()
            self._store.put_files(_BANK, self._run_id, {DELTAS: str(delta.number).encode()})
        # After it is seen: merging takes a second or two where there is much.
        for first in _merged_starts(delta.number):
            if self._manifest(span_name(first, delta.number)) is None:
                self._put_merged(first, delta.number)

    def _publish_again(self, delta: BankDelta, files: dict[str, bytes]) -> None:
        """Nothing where it is there, and all of it where nobody can read what is there."""
        name = span_name(delta.first, delta.number)
        try:
            there = self._manifest(name)
            if there is not None and there.files != _hashes(files):
                raise ContentError(
                    f"{delta.subject}: wanted the content that was published under this number, got another; what was "
                    "published may be in use: give the next number, or publish the next full bank"
                )
            self.read(delta.first, delta.number)
        except ContentError:
            raise
        except ArtifactError as error:
            log.warning("writing over a delta that nobody can read: %s", error)
            self._put(delta, files)

    def _put(self, delta: BankDelta, files: dict[str, bytes]) -> None:
        """The manifest goes last. Raises ArtifactError where what was stored is not what was given."""
        name = span_name(delta.first, delta.number)
        manifest = json.dumps(asdict(self._manifest_of(name, files)), indent=1, sort_keys=True).encode()
        self._store.put_files(_BANK, self._run_id, files | {MANIFEST: manifest}, f"{_FOLDER}/{name}")
        self.read(delta.first, delta.number)

    def _put_merged(self, first: int, number: int) -> None:
        parts = [d for start, end in spans(first - 1, number - 1) for d in self._span(start, end, with_states=True)]
        merged = bank_delta.merge([*parts, self.read(number)])
        self._put(merged, bank_delta.encode(merged))

    def _span(self, first: int, number: int, with_states: bool) -> Iterator[BankDelta]:
        """The merged delta, or where it is missing or damaged, its parts."""
        try:
            whole = self.read(first, number, with_states=with_states)
        except ArtifactError as error:
            if first == number:
                raise
            log.info("reading the parts of deltas %d to %d: %s", first, number, error)
            whole = None
        if whole is not None:
            yield whole
            return
        step = (number - first + 1) // SPAN
        for start in range(first, number + 1, step):
            yield from self._span(start, start + step - 1, with_states)

    def _manifest(self, name: str) -> Manifest | None:
        path = f"{_FOLDER}/{name}/{MANIFEST}"
        content = self._store.read_file(_BANK, self._run_id, path)
        if content is None:
            return None
        manifest = Manifest.parse(content, f"{self._run_id}/{_FOLDER}/{name}")
        wanted = (_KIND, f"{self._run_id}/{name}")
        if (manifest.kind, manifest.run_id) != wanted:
            raise ArtifactError(
                f"bank {self._run_id}, delta {name}: wanted {' '.join(wanted)}, its {MANIFEST} says {manifest.kind} "
                f"{manifest.run_id}; publish it again"
            )
        return manifest

    def _manifest_of(self, name: str, files: dict[str, bytes]) -> Manifest:
        made_from = {_BANK: self._run_id}
        return Manifest(kind=_KIND, run_id=f"{self._run_id}/{name}", files=_hashes(files), made_from=made_from)

    def _content(self, name: str, file: str) -> bytes | None:
        return self._store.read_file(_BANK, self._run_id, f"{_FOLDER}/{name}/{file}")


def spans(after: int, newest: int) -> Iterator[tuple[int, int]]:
    """(first, last) of the deltas to read after delta `after`, the largest merged ones that there are.

    Example:
        >>> list(spans(14, 50))
        [(15, 15), (16, 16), (17, 32), (33, 48), (49, 49), (50, 50)]
    """
    while after < newest:
        size = 1
        while size < MAX_SPAN and after % (size * SPAN) == 0 and after + size * SPAN <= newest:
            size *= SPAN
        yield after + 1, after + size
        after += size


def _hashes(files: Mapping[str, bytes]) -> dict[str, str]:
    return {file: hashlib.sha256(content).hexdigest() for file, content in files.items()}


def _merged_starts(number: int) -> Iterator[int]:
    """First numbers of the merged deltas that end with `number`, the smallest one first."""
    size = SPAN
    while size <= MAX_SPAN and number % size == 0:
        yield number - size + 1
        size *= SPAN
