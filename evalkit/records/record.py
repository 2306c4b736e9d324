"""The record of one episode, and the schema of its line in a journal."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Annotated, Any, Protocol

from pydantic import BaseModel, ConfigDict, Field, Strict, ValidationError

from evalkit.episode import Episode
from evalkit.files import parse_json


class Verdict(Protocol):
    """The part of a result that counts it: of a :class:`Record`, or of a :class:`Brief`."""

    @property
    def episode(self) -> Episode:
        """The episode."""

    @property
    def success(self) -> bool | None:
        """The suite's verdict; None if the episode ended in an error."""

    @property
    def subtasks(self) -> Sequence[Sequence[Any]]:
        """The attempted sub-tasks of a chain, in order: [name, solved]."""


@dataclass(frozen=True, slots=True)
class Brief:
    """The part of a written record that a run still needs, so that a million of them fit into memory.

    Attributes:
        episode, success, subtasks: see :class:`Record`.
        outcome_sum: a digest of the whole outcome.
    """

    episode: Episode
    success: bool | None
    subtasks: tuple[tuple[str | None, bool], ...]
    outcome_sum: bytes

    def same_outcome(self, record: Record) -> bool:
        """Return True if a record of the same episode has the same outcome."""
        return self.outcome_sum == record.brief().outcome_sum


MAX_DIGITS = 15  # of a whole number: it fits a float64 exactly


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
    def from_json(cls, line: bytes) -> Record:
        """Parse a line of :meth:`to_json`, given without its line end.

        Raises:
            ValueError: the line is anything else; the message names the field.
        """
        if line[:1] != b"{" or line[-1:] != b"}":
            raise ValueError(f"it begins with {line[:1]!r} and ends with {line[-1:]!r}, not with {{ and }}")
        try:
            fields = parse_json(line)
            _Line.model_validate(fields)
        except ValidationError as error:
            fault = error.errors(include_url=False, include_context=False, include_input=False)[0]
            message = _MESSAGES.get(fault["type"]) or fault["msg"].replace("Input should be", "must be")
            raise ValueError(f"{'.'.join(map(str, fault['loc']))}: {message}") from None
        if (fields["success"] is None) == (fields["error"] is None):
            raise ValueError("it must have either a verdict or an error")
        identity, episode = fields.pop("id"), Episode(**fields.pop("episode"))
        if episode.id != identity:
            raise ValueError(f"id {identity!r} is not that of its episode")
        return cls(episode=episode, **fields)

    def brief(self) -> Brief:
        """Return the part that a run still needs once the record is written."""
        outcome = json.dumps(self.outcome(), sort_keys=True, allow_nan=False)
        subtasks = tuple((name, solved) for name, solved in self.subtasks)
        return Brief(self.episode, self.success, subtasks, hashlib.sha256(outcome.encode()).digest()[:16])

    def same_outcome(self, record: Record) -> bool:
        """Return True if a record of the same episode has the same outcome."""
        return self.outcome() == record.outcome()

    def outcome(self) -> dict[str, Any]:
        """Return the record without its ``host`` part: equal for equal episodes of equal runs."""
        fields = asdict(self)
        del fields["host"]
        return fields


_Count = Annotated[int, Field(ge=0, lt=10**MAX_DIGITS)]
_Number = Annotated[float, Field(allow_inf_nan=False)]  # a whole number will do, true and false will not


class _Section(BaseModel):
    """A part of a line: no other keys, and no value of another type that could be converted."""

    model_config = ConfigDict(extra="forbid", strict=True)


class _Episode(_Section):
    suite: str
    split: str
    task: str
    scene: _Count
    seed: _Count
    repeat: _Count


class _Error(_Section):
    kind: Annotated[str, Field(min_length=1)]
    message: str


class _Timeline(_Section):
    requests: list[Annotated[tuple[_Count, _Count | None], Strict(False)]]
    segments: list[Annotated[tuple[_Count | None, _Count], Strict(False)]]


class _Line(_Section):
    """A line. ``evalkit.records.lines`` states the same as a regular expression."""

    id: str
    episode: _Episode
    success: bool | None
    steps: _Count | None
    inferences: _Count | None
    clipped_steps: _Count | None
    metrics: dict[str, _Number]
    subtasks: list[Annotated[tuple[str | None, bool], Strict(False)]]
    execution_stats: dict[str, _Number]
    timeline: _Timeline | None
    digest: str | None
    error: _Error | None
    host: dict[str, str | _Number | bool | None]


_MESSAGES = {"missing": "is missing", "extra_forbidden": "unknown key"}


def chain_length(subtasks: Sequence[Sequence[Any]]) -> int:
    """Return the number of sub-tasks solved before the first that was not."""
    return next((place for place, (_, solved) in enumerate(subtasks) if not solved), len(subtasks))
