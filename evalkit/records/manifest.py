"""The manifest: everything that could change a run's outcome, written before its first episode."""

from __future__ import annotations

import hashlib
import json
import os
import platform
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

from evalkit.documents import first_difference, parse, short
from evalkit.episode import Episode
from evalkit.errors import RunExists, RunMismatch, UsageError
from evalkit.records.folder import RunFolder
from evalkit.suite import Headline, Suite, protocol

FORMAT = 1


class PlannedTask(BaseModel):
    """A task, the number of its scenes from the first, and the attempts at each."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    split: str
    task: str
    scenes: int = Field(gt=0)
    repeats: int = Field(gt=0)

    @property
    def key(self) -> tuple[str, str]:
        """(split, task)."""
        return (self.split, self.task)


class Plan(BaseModel):
    """Which episodes a run is made of."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    tasks: list[PlannedTask] = Field(min_length=1)
    seed: int

    @classmethod
    def of(cls, episodes: Sequence[Episode]) -> Plan:
        """The plan that :meth:`evalkit.suite.Suite.plan` made."""
        last = {e.task_key: (e.scene, e.repeat) for e in episodes}
        tasks = [
            PlannedTask(split=split, task=task, scenes=scene + 1, repeats=repeat + 1)
            for (split, task), (scene, repeat) in last.items()
        ]
        return cls(tasks=tasks, seed=episodes[0].seed)

    @property
    def keys(self) -> list[tuple[str, str]]:
        """The tasks' (split, task)."""
        return [task.key for task in self.tasks]

    @property
    def size(self) -> int:
        """How many episodes."""
        return sum(task.scenes * task.repeats for task in self.tasks)

    def episodes(self, suite: str) -> list[Episode]:
        """The episodes, in order."""
        return [
            Episode(suite, task.split, task.task, scene, self.seed, repeat)
            for task in self.tasks
            for scene in range(task.scenes)
            for repeat in range(task.repeats)
        ]


class Origin(BaseModel):
    """Where an imported run comes from, and what is unknown of it.

    Attributes:
        format: how it was written, as ``evalkit import`` names it.
        source: who wrote it, for people.
        files: SHA-256 of every file that was read, by its name relative to the path that was given.
        lacks: what a run of evalkit's own has and this has not, in the words of docs/importing.md. ``scenes``: outcomes
            are numbered as the files have them, and which scene each of them met is unknown.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: str
    source: str
    files: dict[str, str]
    missing_fields: list[str]

    def describe(self) -> str:
        """One line for people."""
        return f"{self.source}; unknown: {', '.join(self.missing_fields)}"


class Manifest(BaseModel):
    """What a run is.

    Attributes:
        fingerprint: what decides whether two runs may be compared: suite, protocol, simulator versions, assets, GL.
        checkpoint: the policy: id, code, parameters, and what identifies its weights.
        execution: how chunks become control steps.
        plan: which episodes.
        code: evalkit's version and the digest of the suite's files.
        suite: ``suite.yaml`` as it was.
        incomparable: why the results must not be held against published ones; empty where they may.
        origin: where an imported run comes from; None for a run of evalkit's own.
        machine: where it ran, for the record.
        created: when, in UTC.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: int = FORMAT
    fingerprint: dict[str, Any]
    checkpoint: dict[str, Any]
    execution: dict[str, Any]
    plan: Plan
    code: dict[str, str]
    suite: dict[str, Any]
    incomparable: list[str] = []
    origin: Origin | None = None
    machine: dict[str, Any] = {}
    created: str = ""

    @model_validator(mode="after")
    def _parts_are_there(self) -> Manifest:
        parts = {"fingerprint": ["suite"], "checkpoint": ["id"], "execution": ["name", "horizon"]}
        parts["suite"] = ["title", "headline", "splits", "episodes"]
        for part, keys in parts.items():
            for key in keys:
                if key not in getattr(self, part):
                    raise ValueError(f"{part}.{key} is missing")
        Headline.model_validate(self.suite["headline"])
        return self

    @property
    def pairable(self) -> bool:
        """Whether an episode's scene is known, so that it may be compared with another run's episode of that id."""
        return self.origin is None or "scenes" not in self.origin.missing_fields

    def identity(self) -> dict[str, Any]:
        """What must be equal for a run to be continued: all but the record of when and where."""
        whole = self.model_dump(mode="json", exclude={"machine", "created", "incomparable", "suite"})
        metadata = {k: v for k, v in whole["checkpoint"].get("metadata", {}).items() if k != "where"}
        return {**whole, "checkpoint": {**whole["checkpoint"], "metadata": metadata}}

    def write(self, folder: Path) -> None:
        """Writes it into ``folder``; raises RunExists where there is one already, however close the race."""
        text = json.dumps(self.model_dump(mode="json"), indent=1, ensure_ascii=False) + "\n"
        target = RunFolder(folder).manifest
        draft = folder / f".{target.name}.{os.getpid()}"
        try:
            draft.write_text(text, encoding="utf-8")
            os.link(draft, target)
        except FileExistsError as error:
            raise RunExists(exists_already(folder)) from error
        finally:
            draft.unlink(missing_ok=True)

    def check_resumes(self, folder: Path) -> None:
        """Raises RunMismatch that names the first field in which the run in ``folder`` is another one."""
        theirs = read_manifest(folder)
        if theirs.origin:
            raise RunMismatch(f"{folder}: cannot resume: that run was imported; name another --out")
        difference = first_difference(theirs.identity(), self.identity())
        if difference and difference[0] == "fingerprint.protocol":
            difference = first_difference(protocol(theirs.suite), protocol(self.suite), "suite") or difference
        if difference:
            field, was, now = difference
            raise RunMismatch(
                f"{folder}: cannot resume: {field} was {short(was)} in that run and is {short(now)} now; "
                "give the same options, or another --out"
            )


def fingerprint(suite: Suite, versions: dict[str, Any], metadata: dict[str, Any]) -> dict[str, Any]:
    """What decides comparability. ``versions``: the simulator's distributions; ``facts``: what the probe found."""
    rules = json.dumps(protocol(suite.to_message()), sort_keys=True).encode()
    return {
        "suite": suite.name,
        "protocol": hashlib.sha256(rules).hexdigest(),
        "versions": versions,
        **metadata,
    }


def machine() -> dict[str, Any]:
    """Where this process runs."""
    return {"platform": platform.platform(), "processor": platform.machine(), "python": platform.python_version()}


def now() -> str:
    """The time of day in UTC, to the second."""
    return datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


def read_manifest(folder: Path) -> Manifest:
    """A run's manifest. Raises UsageError that names the file and the field at fault."""
    path = RunFolder(folder).manifest
    try:
        if not path.is_file():
            raise UsageError(f"{folder}: not a run (there is no {path.name})")
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"{path}: cannot be read: {error}") from error
    if isinstance(content, dict) and content.get("format") != FORMAT:
        raise UsageError(f"{path}: format {content.get('format')!r} is not one this evalkit reads ({FORMAT})")
    return parse(Manifest, content, path)


def exists_already(folder: Path) -> str:
    """What to say where a folder holds a run."""
    return f"{folder}: holds a run already; continue it with --resume, or name another --out"
