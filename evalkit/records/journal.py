"""The journal: one JSON line per finished episode, appended and never rewritten.

A record depends on the episode and the run's identity alone, except for its ``host`` part (worker, duration, attempts),
which may differ between two runs of the same thing.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

from evalkit.episode import Episode
from evalkit.errors import UsageError
from evalkit.records.folder import RunFolder
from evalkit.records.manifest import Manifest, read_manifest
from evalkit.records.planned import PlanRules
from evalkit.records.record import Record, chain_length

__all__ = ["Journal", "Record", "chain_length", "read_journal"]


class Journal:
    """A run's journal, open for appending by one process."""

    def __init__(self, folder: Path, manifest: Manifest | None = None) -> None:
        """Open or create the journal in ``folder`` and drop a torn last line.

        Args:
            folder: the run's folder.
            manifest: the run's manifest, which the records are held against; None if it is written later.

        Raises:
            UsageError: a line other than the last is not a record, or not one of this run.
        """
        self.path = RunFolder(folder).journal
        self._file = self.path.open("ab+")
        whole = _whole_lines(self.path)
        if whole < self.path.stat().st_size:
            os.truncate(self.path, whole)
        self.records = _read(self.path, PlanRules.of(manifest) if manifest else None)

    def append(self, record: Record) -> None:
        """Append one record with a single write, so that a killed process leaves at most one torn line."""
        self._file.write(record.to_json().encode() + b"\n")
        self._file.flush()
        self.records[record.episode] = record

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()


def read_journal(folder: Path, manifest: Manifest | None = None) -> dict[Episode, Record]:
    """Read a run's records by episode, in the order first written.

    A later record of an episode replaces an earlier one, so an episode that ended in an error may be repeated. A torn
    last line, the trace of a killed process, is skipped.

    Args:
        folder: the run's folder.
        manifest: its manifest, which the records are held against; read from the folder if None.

    Raises:
        UsageError: any other damage, a record that the manifest does not plan, or a record that contradicts the verdict
            before it; the message names the file and the line.
    """
    return _read(RunFolder(folder).journal, PlanRules.of(manifest or read_manifest(folder)))


def _read(path: Path, rules: PlanRules | None) -> dict[Episode, Record]:
    records: dict[Episode, Record] = {}
    places: dict[Episode, int] = {}
    for number, line in _lines(path):
        try:
            record = Record.from_json(line)
        except ValueError as error:
            raise UsageError(f"{path}: line {number} is not an episode record ({error})") from error
        try:
            if rules:
                rules.check(record)
        except ValueError as error:
            raise UsageError(f"{path}: line {number}: {error}; remove the line that is not this run's") from error
        before = records.get(record.episode)
        if before and before.success is not None and before.outcome() != record.outcome():
            raise UsageError(
                f"{path}: line {number} contradicts line {places[record.episode]}: two results of episode "
                f"{record.episode.id}; remove the line that is not this run's"
            )
        records[record.episode], places[record.episode] = record, number
    return records


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Yield the number and content of every line that has an end."""
    try:
        if path.exists() and not path.is_file():
            raise UsageError(f"{path}: cannot be read: it is not a file")
        with path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                if line.endswith(b"\n"):
                    yield number, line[:-1]
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror}") from error


def _whole_lines(path: Path) -> int:
    """Return the number of bytes in whole lines."""
    return path.read_bytes().rfind(b"\n") + 1
