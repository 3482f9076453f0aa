"""`validate`: checks tables against the contract and reports everything that is wrong, not only the first thing.

Where nothing is wrong it looks across the tables too, and warns of what looks wrong. Warnings are no errors.

Run: python -m pipelines validate --config FILE.yaml
"""

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from pipelines.runtime.run import Run
from pipelines.sources import across
from pipelines.tables import contract, values
from pipelines.tables.contract import ContractError
from pipelines.tables.day_rows import DayFile, all_columns
from pipelines.tables.storage import Storage

ROWS_PER_BATCH = 4096


@dataclass(frozen=True, kw_only=True, slots=True)
class ValidateConfig:
    """What to check."""

    tables: tuple[str, ...] = ()
    """Tables to check; empty = every table that has a day below storage.root, and what there is between them."""
    sample_frames: int = 200
    """Frames of a day of segments that are decoded to find damaged JPEGs, evenly spread; 0 = none."""

    def __post_init__(self) -> None:
        for name in self.tables:
            contract.spec(name)
        if self.sample_frames < 0:
            raise ValueError(f"sample_frames: wanted 0 or more, got {self.sample_frames}")


def run(config: ValidateConfig, run: Run) -> dict[str, Any]:
    """Reads every table and day, writes nothing, and reports {days, rows, warnings}.

    Raises ContractError with all that was found wrong.
    """
    storage = run.storage.with_oracle()
    rows, days, errors = 0, 0, []
    for name in config.tables or contract.TABLES:
        try:
            present = storage.days(name)
        except ContractError as error:  # a damaged commit marker
            errors.append(str(error))
            continue
        if name in config.tables and not present:
            errors.append(f"table {name}: wanted a day below {storage.root}, got none; run the job that writes it")
        for day in present:
            check = _Check(storage, name, day, config.sample_frames if name == "segments" else 0)
            new_errors = check.errors()
            print(f"{name:<20}{day}  {check.rows:>10,} rows  {f'{len(new_errors)} error(s)' if new_errors else 'ok'}")
            errors.extend(new_errors)
            rows, days = rows + check.rows, days + 1
    if not days and not errors:
        raise ContractError(f"storage.root {storage.root}: wanted tables, got none; run `ingest` or `world` first")
    if errors:
        raise ContractError(f"{len(errors)} error(s)\n" + "\n".join(f"  {error}" for error in errors))
    warnings = [] if config.tables else across.warnings(storage)
    for warning in warnings:
        print(f"warning: {warning}")
    return {"validate/days": days, "validate/rows": rows, "validate/warnings": warnings}


class _Check:
    """One table's day, read file by file in batches. Memory is a batch plus the key columns."""

    def __init__(self, storage: Storage, name: str, day: str, sample_frames: int) -> None:
        self.rows = 0
        self._storage, self._name, self._day = storage, name, day
        self._sample = sample_frames
        self._errors: dict[str, None] = {}
        self._keys: list[pa.Table] = []
        self._where = f"table {name}, day {day}"

    def errors(self) -> list[str]:
        """What is wrong with the day, [] where nothing is. The same error of several batches counts once."""
        readable = [file for file in map(self._open, self._storage.files(self._name, self._day)) if file is not None]
        total = sum(file.fragment.count_rows() for file in readable)
        columns = contract.schema_of(self._name, all_columns(readable)).names
        for file in readable:
            self._read(file, columns, total)
        self._check_day()
        return list(self._errors)

    def _note(self, error: object) -> None:
        self._errors.setdefault(str(error))

    def _open(self, path: str) -> DayFile | None:
        try:
            return DayFile.open(self._storage.filesystem, path, self._name, self._day)
        except ContractError as error:
            self._note(error)
            return None

    def _read(self, file: DayFile, columns: Sequence[str], total: int) -> None:
        """Reads a file as the jobs do. A column in which something is wrong is looked at no further."""
        wrong = {column for column in columns if column not in file.schema.names}
        if wrong:
            self._note(contract.missing_columns(self._name, self._day, sorted(wrong), file.schema.names))
        try:
            for first_row, raw in file.raw(columns, ROWS_PER_BATCH if not self._sample else 64):
                sound = [c for c in columns if c not in wrong and self._is_cast(raw, c)]
                rows = contract.conform(raw, self._name, self._day, sound)
                for fault in values.faults(rows, self._name, self._day, times=not file.is_ours):
                    self._note(fault.error(self._name, self._day, first_row, file.name))
                    sound.remove(fault.column)
                wrong.update(set(columns).difference(sound))
                self._check_rows(rows, wrong, total)
        except ContractError as error:
            self._note(error)

    def _is_cast(self, raw: pa.Table, column: str) -> bool:
        try:
            contract.conform(raw, self._name, self._day, [column])
        except ContractError as error:
            self._note(error)
            return False
        return True

    def _check_rows(self, rows: pa.Table, wrong: set[str], total: int) -> None:
        key = contract.spec(self._name).key
        if not wrong.intersection(key):
            self._keys.append(rows.select(list(key)))
        if self._sample and not wrong:
            for problem in self._bad_frames(rows, total):
                self._note(problem)
        self.rows += rows.num_rows

    def _check_day(self) -> None:
        if not self.rows and not self._errors:
            self._note(contract.empty_day(self._name, self._day))
        commit = self._storage.commit_of(self._name, self._day)
        if commit is not None and commit.rows != self.rows and not self._errors:
            self._note(f"{self._where}: wanted the {commit.rows} rows committed, got {self.rows}; write the day again")
        if self._keys:
            try:
                contract.check_keys(pa.concat_tables(self._keys), self._name, self._day)
            except ContractError as error:
                self._note(error)

    def _bad_frames(self, table: pa.Table, total: int) -> Iterator[str]:
        """Decodes the frames that are in the sample: some of every row, or one of every few rows."""
        step, per_row = max(1, total // self._sample), max(1, -(-self._sample // total))
        for row_number in range(-self.rows % step, table.num_rows, step):
            row = table.slice(row_number, 1).to_pylist()[0]
            first = (self.rows + row_number) % max(1, len(row["frames"])) if per_row == 1 else 0
            for frame in row["frames"][first : first + per_row]:
                problem = _damage(frame["jpeg"])
                if problem:
                    yield (
                        f"{self._where}, column frames: wanted a JPEG, got {problem} (author_id {row['author_id']}, "
                        f"live_id {row['live_id']}, segment {row['segment']}, offset_ms {frame['offset_ms']}); "
                        "write that segment again"
                    )


def _damage(jpeg: bytes | None) -> str:
    """Why an image cannot be decoded to its last row, "" where it can."""
    from PIL import Image

    try:
        with Image.open(io.BytesIO(jpeg or b""), formats=["JPEG"]) as image:
            image.load()
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        return f"{type(error).__name__}: {error}"
    return ""
