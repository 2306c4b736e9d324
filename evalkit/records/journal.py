"""The journal: one JSON line per finished episode, appended and never rewritten.

A record depends on the episode and the run's identity alone, except for its ``host`` part (worker, duration, attempts),
which may differ between two runs of the same thing.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import TypeVar

from evalkit.episode import Episode
from evalkit.errors import EvalkitError, UsageError
from evalkit.files import parse_json
from evalkit.records.folder import RunFolder
from evalkit.records.manifest import Manifest, read_manifest
from evalkit.records.planned import PlanRules
from evalkit.records.record import Brief, Record, chain_length

__all__ = ["Journal", "Record", "chain_length", "read_journal"]


_Kept = TypeVar("_Kept", Record, Brief)


class Journal:
    """A run's journal, open for appending by one process.

    Attributes:
        path: the file.
        records: the records in it in brief, by episode.
    """

    def __init__(self, folder: Path, manifest: Manifest | None = None) -> None:
        """Open or create the journal in ``folder``.

        A torn last record, the trace of a killed process, is cut off and kept beside the journal. Everything else that
        is not a record is refused before the file is touched.

        Args:
            folder: the run's folder.
            manifest: the run's manifest, which the records are held against; None if it is written later.

        Raises:
            UsageError: a line other than the last is not a record, or not one of this run.
            EvalkitError: the file cannot be written.
        """
        self.path = RunFolder(folder).journal
        self.records: dict[Episode, Brief] = {}
        with self._naming_errors():
            if self.path.exists():
                rules = PlanRules.of(manifest) if manifest else None
                self.records, whole = _read(self.path, rules, Record.brief, cuts=True)
                _cut(self.path, whole)
            self._file = self.path.open("ab", buffering=0)
            self._size = os.fstat(self._file.fileno()).st_size
            self._sum = _sha256(self.path)

    def append(self, record: Record) -> None:
        """Append one record with a single write, so that a killed process leaves at most one torn line.

        Raises:
            EvalkitError: the file cannot be written, or is not as this process left it.
        """
        self._check_untouched()
        line = record.to_json().encode() + b"\n"
        with self._naming_errors():
            try:
                written = 0
                while written < len(line):
                    written += self._file.write(line[written:]) or 0
            except OSError:
                with contextlib.suppress(OSError):
                    self._file.truncate(self._size)
                raise
        self._size += len(line)
        self._sum.update(line)
        self.records[record.episode] = record.brief()

    def check_written(self, episodes: Iterable[Episode] = ()) -> None:
        """Read the file back, and raise EvalkitError if it is not as written or lacks the record of an episode."""
        missing = [episode for episode in episodes if episode not in self.records]
        if missing:
            raise EvalkitError(f"{self.path}: {len(missing)} planned episodes have no record, {missing[0].id} first")
        self._check_untouched()
        with self._naming_errors():
            if _sha256(self.path).digest() != self._sum.digest():
                raise EvalkitError(f"{self.path}: its content is not what this run wrote; {_RESTORE}")

    def _check_untouched(self) -> None:
        """Raise EvalkitError if the file is gone, another one, or of another size than this process left it with."""
        try:
            found, ours = self.path.stat(), os.fstat(self._file.fileno())
        except OSError as error:
            raise EvalkitError(
                f"{self.path}: is gone while the run writes to it ({error.strerror}); {_RESTORE}"
            ) from error
        if (found.st_dev, found.st_ino) != (ours.st_dev, ours.st_ino):
            raise EvalkitError(f"{self.path}: was replaced by another file while the run writes to it; {_RESTORE}")
        if found.st_size != self._size:
            sizes = f"{found.st_size} bytes long where this run left {self._size}"
            raise EvalkitError(f"{self.path}: was changed while the run writes to it: it is {sizes}; {_RESTORE}")

    @contextlib.contextmanager
    def _naming_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise EvalkitError(f"{error.filename or self.path}: cannot be written: {error.strerror}") from error

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._file, self._naming_errors() if kind is None else contextlib.suppress(OSError):
            os.fsync(self._file.fileno())


_MAX_LINE = 1 << 24  # bytes; the timeline of a very long episode has less
_RESTORE = "restore it, and continue with --resume"


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
    records, _ = _read(RunFolder(folder).journal, PlanRules.of(manifest or read_manifest(folder)), _whole)
    return records


def _whole(record: Record) -> Record:
    return record


def _read(
    path: Path, rules: PlanRules | None, keep: Callable[[Record], _Kept], cuts: bool = False
) -> tuple[dict[Episode, _Kept], int]:
    """Return the records, and the number of bytes before a torn last record.

    Args:
        path: the file.
        rules: the rules that the records must pass, if the manifest is known.
        keep: the part of a record to return.
        cuts: count a last line that is no JSON as torn even if it has an end; lost blocks of a disk leave such lines.
    """
    records: dict[Episode, _Kept] = {}
    length = 0
    for number, line, last in _lines(path):
        if not line.endswith(b"\n"):
            _check_torn(path, number, line)
            break
        try:
            record = Record.from_json(line[:-1])
        except ValueError as error:
            if cuts and last and number > 1 and not _is_json(line):
                break
            raise UsageError(f"{path}: line {number} is not an episode record ({error})") from error
        try:
            if rules:
                rules.check(record)
        except ValueError as error:
            raise UsageError(f"{path}: line {number}: {error}; remove the line that is not this run's") from error
        before = records.get(record.episode)
        if before and before.success is not None and not before.same_outcome(record):
            raise UsageError(
                f"{path}: line {number} contradicts line {_line_of(path, record.episode)}: two results of episode "
                f"{record.episode.id}; remove the line that is not this run's"
            )
        records[record.episode] = keep(record)
        length += len(line)
    return records, length


def _line_of(path: Path, episode: Episode) -> int:
    """Return the number of the last line but those that contradict it that has an episode's verdict."""
    found = 0
    for number, line, _ in _lines(path):
        record = Record.from_json(line[:-1])
        if record.episode == episode:
            if found:
                break
            found = number if record.success is not None else 0
    return found


def _lines(path: Path) -> Iterator[tuple[int, bytes, bool]]:
    """Yield the number of every line, its bytes, and True for the last."""
    try:
        if path.exists() and not path.is_file():
            raise UsageError(f"{path}: cannot be read: it is not a file")
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            end = 0
            for number in itertools.count(1):
                line = file.readline(_MAX_LINE + 1)
                if not line:
                    break
                if len(line) > _MAX_LINE:
                    raise UsageError(f"{path}: line {number} is no record: it has more than {_MAX_LINE:,} bytes")
                end += len(line)
                yield number, line, end >= size
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror}") from error


def _check_torn(path: Path, number: int, line: bytes) -> None:
    """Raise UsageError if a line without an end is more, or something else, than what one broken write leaves."""
    begin = b'{"id":"'
    if b"\r" in line:
        why = "it has line ends of another system (CR)"
    elif line.count(begin) > 1:
        why = "it has more than one record"
    elif number == 1 and line[: len(begin)] != begin[: len(line)]:
        why = f"it begins with {line[:7]!r}, and a record with {begin!r}"
    else:
        return
    raise UsageError(f"{path}: line {number} has no end and is no torn record: {why}; restore the file")


def _is_json(line: bytes) -> bool:
    try:
        parse_json(line)
    except ValueError:
        return False
    return True


def _cut(path: Path, length: int) -> None:
    """Move the bytes after the first ``length`` to a new file ``<name>.torn-<number>``."""
    with path.open("rb") as file:
        file.seek(length)
        torn = file.read()
    if not torn:
        return
    numbered = (path.with_name(f"{path.name}.torn-{number}") for number in itertools.count(1))
    with next(place for place in numbered if not place.exists()).open("xb") as kept:
        kept.write(torn)
        kept.flush()
        os.fsync(kept.fileno())
    os.truncate(path, length)


def _sha256(path: Path) -> hashlib._Hash:
    """Return the SHA-256 of a file, to go on with."""
    summary = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            summary.update(block)
    return summary
