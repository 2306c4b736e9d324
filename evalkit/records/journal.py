"""The journal: one JSON line per finished episode, appended and never rewritten.

A record depends on the episode and the run's identity alone, except for its ``host`` part (worker, duration, attempts),
which may differ between two runs of the same thing.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

from evalkit.episode import Episode
from evalkit.errors import UsageError
from evalkit.records.folder import RunFolder


@dataclass(frozen=True)
class Record:
    """The result of one episode.

    Attributes:
        episode: the episode.
        success: the suite's verdict; None if the episode ended in an error.
        steps: control steps executed, without waiting steps; None if unknown, as in imported runs.
        inferences: number of inference requests; None if unknown.
        clipped_steps: steps whose action was outside the action space and was clipped under the protocol; None if
            unknown.
        metrics: further numbers of the suite, by name.
        execution_stats: statistics of the execution (:meth:`evalkit.worker.trace.Trace.execution_stats`).
        timeline: for an asynchronous execution, its inference requests and the steps that each chunk drove
            (:meth:`~.Trace.timeline`).
        subtasks: the attempted sub-tasks of a chain, in order: [name, solved]; the name is None if unknown.
        digest: SHA-256 over all executed actions and the final physics state; None if unknown.
        error: the reason for a missing verdict: {"kind", "message"}; None with a verdict.
        host: attempts, worker, wall-clock seconds, time of day; not part of the outcome.
    """

    episode: Episode
    success: bool | None
    steps: int | None = 0
    inferences: int | None = 0
    clipped_steps: int | None = 0
    metrics: dict[str, float] = field(default_factory=dict)
    subtasks: list[list[Any]] = field(default_factory=list)
    execution_stats: dict[str, float] = field(default_factory=dict)
    timeline: dict[str, Any] | None = None
    digest: str | None = None
    error: dict[str, str] | None = None
    host: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> str:
        """Return one line, with the keys in the order of the fields."""
        return json.dumps({"id": self.episode.id, **asdict(self)}, separators=(",", ":"), allow_nan=False)

    @classmethod
    def from_json(cls, line: str) -> Record:
        """Parse a line of :meth:`to_json`.

        Raises:
            ValueError, KeyError or TypeError: the line is anything else.
        """
        fields = json.loads(line)
        if not isinstance(fields, dict) or not isinstance(fields["episode"], dict):
            raise ValueError("it is not a mapping")
        if not isinstance(fields["success"], bool | None) or not isinstance(fields["error"], dict | None):
            raise ValueError("success must be true, false or null, and error a mapping or null")
        if (fields["success"] is None) == (fields["error"] is None):
            raise ValueError("it must have either a verdict or an error")
        check_subtasks(fields.get("subtasks", []))
        if not all(isinstance(fields.get(name, 0), int | None) for name in ("steps", "inferences")):
            raise ValueError("steps and inferences must be whole numbers")
        if not all(isinstance(fields.get(name, {}), dict) for name in ("metrics", "execution_stats")):
            raise ValueError("metrics and execution_stats must be mappings")
        identity = fields.pop("id")
        record = cls(**{**fields, "episode": Episode.from_dict(fields["episode"])})
        if record.episode.id != identity:
            raise ValueError(f"id {identity!r} is not that of its episode")
        return record

    def outcome(self) -> dict[str, Any]:
        """Return the record without its ``host`` part: equal for equal episodes of equal runs."""
        fields = asdict(self)
        del fields["host"]
        return fields


class Journal:
    """A run's journal, open for appending by one process."""

    def __init__(self, folder: Path) -> None:
        """Open or create the journal in ``folder`` and drop a torn last line.

        Raises:
            UsageError: a line other than the last is not a record.
        """
        self.path = RunFolder(folder).journal
        self._file = self.path.open("ab+")
        whole = _whole_lines(self.path)
        if whole < self.path.stat().st_size:
            os.truncate(self.path, whole)
        self.records = read_journal(folder)

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


def read_journal(folder: Path) -> dict[Episode, Record]:
    """Read a run's records by episode, in the order first written.

    A later record of an episode replaces an earlier one, so an episode that ended in an error may be repeated. A torn
    last line, the trace of a killed process, is skipped.

    Raises:
        UsageError: any other damage, or two different verdicts on one episode; the message names the file and the line.
    """
    path = RunFolder(folder).journal
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror}") from error
    records: dict[Episode, Record] = {}
    verdicts: dict[Episode, tuple[int, Any]] = {}
    for number, line in enumerate(lines[:-1], start=1):
        try:
            record = Record.from_json(line.decode())
        except (ValueError, KeyError, TypeError) as error:
            raise UsageError(f"{path}: line {number} is not an episode record ({error})") from error
        records[record.episode] = record
        if record.success is not None:
            verdict = (record.success, record.subtasks)
            before, earlier = verdicts.setdefault(record.episode, (number, verdict))
            if verdict != earlier:
                raise UsageError(
                    f"{path}: line {number} contradicts line {before}: two verdicts on episode {record.episode.id}; "
                    "remove the line that is not this run's"
                )
    return records


def check_subtasks(subtasks: Any) -> list[list[Any]]:
    """Return a chain's sub-tasks, checked.

    Raises:
        ValueError or TypeError: they are not pairs of a name (or None) and a bool.
    """
    for name, solved in subtasks:
        if not isinstance(name, str | None) or not isinstance(solved, bool):
            raise ValueError("subtasks must be pairs of a name (or null) and true or false")
    return list(subtasks)


def chain_length(subtasks: list[list[Any]]) -> int:
    """Return the number of sub-tasks solved before the first that was not."""
    return next((place for place, (_, solved) in enumerate(subtasks) if not solved), len(subtasks))


def _whole_lines(path: Path) -> int:
    """Return the number of bytes in whole lines."""
    return path.read_bytes().rfind(b"\n") + 1
