"""The manifest: everything that could change a run's outcome, written before its first episode."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

from evalkit.documents import first_difference, parse, read_json, short
from evalkit.episode import Episode
from evalkit.errors import RunExists, RunMismatch, UsageError
from evalkit.locations import naming
from evalkit.records.folder import RunFolder
from evalkit.records.recorded import check_parts
from evalkit.suite import Suite, protocol

FORMAT = 1
_MAX_EPISODES = 10**7  # of a plan; a manifest with more is damaged


class PlannedTask(BaseModel):
    """A task, the number of its scenes, counted from the first, and the attempts at each."""

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
    """The planned episodes of a run."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    tasks: list[PlannedTask] = Field(min_length=1)
    seed: int

    @classmethod
    def of(cls, episodes: Sequence[Episode]) -> Plan:
        """Return the plan of the episodes that :meth:`evalkit.suite.Suite.plan` made."""
        last = {e.task_key: (e.scene, e.repeat) for e in episodes}
        tasks = [
            PlannedTask(split=split, task=task, scenes=scene + 1, repeats=repeat + 1)
            for (split, task), (scene, repeat) in last.items()
        ]
        return cls(tasks=tasks, seed=episodes[0].seed)

    @model_validator(mode="after")
    def _is_possible(self) -> Plan:
        if len(set(self.keys)) < len(self.keys):
            raise ValueError("tasks: each must be named once")
        if self.size > _MAX_EPISODES:
            raise ValueError(f"{self.size} episodes are more than a run can have ({_MAX_EPISODES})")
        return self

    @property
    def keys(self) -> list[tuple[str, str]]:
        """The tasks as (split, task)."""
        return [task.key for task in self.tasks]

    @property
    def size(self) -> int:
        """The number of episodes."""
        return sum(task.scenes * task.repeats for task in self.tasks)

    def episodes(self, suite: str) -> list[Episode]:
        """Return the episodes, in order."""
        return [
            Episode(suite, task.split, task.task, scene, self.seed, repeat)
            for task in self.tasks
            for scene in range(task.scenes)
            for repeat in range(task.repeats)
        ]


class Origin(BaseModel):
    """The source of an imported run, and its unknown fields.

    Attributes:
        format: the format, as ``evalkit import`` names it.
        source: the tool that wrote the files, for people.
        files: SHA-256 of every file that was read, by its name relative to the given path.
        missing_fields: fields that evalkit's own runs have and this run lacks, in the words of docs/importing.md.
            ``scenes``: outcomes are numbered as in the files, and the scene of each is unknown.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: str
    source: str
    files: dict[str, str]
    missing_fields: list[str]

    def describe(self) -> str:
        """Return one line for people."""
        return f"{self.source}; unknown: {', '.join(self.missing_fields)}"


class Manifest(BaseModel):
    """The identity of a run.

    Attributes:
        fingerprint: the fields that decide whether two runs may be compared: suite, protocol, simulator versions,
            assets, GL.
        checkpoint: the policy: id, code, parameters, and the identity of its weights.
        execution: the conversion of chunks to control steps.
        plan: the planned episodes.
        code: evalkit's version and the digest of the suite's files.
        suite: the content of ``suite.yaml``.
        incomparable: reasons against a comparison with published results; empty if there are none.
        origin: source of an imported run; None for evalkit's own runs.
        machine: the machine, for the record.
        created: date and time in UTC.
        sha256: digest of the other fields, set by :meth:`write`; None in a manifest that an earlier version wrote.
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
    sha256: str | None = None

    @model_validator(mode="after")
    def _check_parts(self) -> Manifest:
        check_parts(dict(self))
        for split, task in self.plan.keys:
            if task not in self.suite["splits"].get(split, {"tasks": {}})["tasks"]:
                raise ValueError(f"plan.tasks: the suite has no task {split}/{task}")
        stated = self.fingerprint["protocol"]
        of_another_harness = self.origin is not None and not re.fullmatch(r"[0-9a-f]{64}", stated)
        if not of_another_harness and stated != protocol_digest(self.suite):
            raise ValueError("fingerprint.protocol is not the digest of suite: one of the two was changed")
        return self

    @property
    def pairable(self) -> bool:
        """True if the scene of every episode is known, so that it may be paired with another run's episode."""
        return self.origin is None or "scenes" not in self.origin.missing_fields

    def identity(self) -> dict[str, Any]:
        """Return the fields that must be equal to resume a run: all but the record of time and machine."""
        whole = self.model_dump(mode="json", exclude={"machine", "created", "incomparable", "suite", "sha256"})
        metadata = {k: v for k, v in whole["checkpoint"].get("metadata", {}).items() if k != "where"}
        return {**whole, "checkpoint": {**whole["checkpoint"], "metadata": metadata}}

    def write(self, folder: Path) -> None:
        """Write the manifest into ``folder``.

        Raises:
            RunExists: the folder has one already, even if it was written at the same moment.
            EvalkitError: the file cannot be written, or its content is not JSON.
        """
        try:
            content = self.model_dump(mode="json", exclude={"sha256"})
            sealed = {**content, "sha256": content_digest(content)}
            text = json.dumps(sealed, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
        except (TypeError, ValueError) as error:
            raise UsageError(f"{folder}: the run's identity is not JSON: {error}") from error
        target, draft = RunFolder(folder).manifest, RunFolder(folder).manifest_draft()
        with naming(target):
            try:
                draft.write_text(text, encoding="utf-8")
                _publish(draft, target)
            finally:
                draft.unlink(missing_ok=True)

    def check_resumes(self, folder: Path) -> None:
        """Raise RunMismatch, naming the first field that differs, if the run in ``folder`` is not this one."""
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


def _publish(draft: Path, target: Path) -> None:
    """Give a draft its name, unless there is a file of that name."""
    try:
        os.link(draft, target)
    except FileExistsError as error:
        raise RunExists(run_exists_message(target.parent)) from error
    except OSError as error:  # a file system without hard links; the folder's lock keeps other processes out
        if target.exists():
            raise RunExists(run_exists_message(target.parent)) from error
        draft.rename(target)


def fingerprint(suite: Suite, versions: dict[str, Any], metadata: dict[str, Any]) -> dict[str, Any]:
    """Return the fields that decide comparability.

    Args:
        suite: the suite; its protocol enters as a SHA-256.
        versions: versions of the simulator's distributions.
        metadata: further fields, from the probe of the environment.
    """
    return {
        "suite": suite.name,
        "protocol": protocol_digest(suite.to_message()),
        "versions": versions,
        **metadata,
    }


def protocol_digest(suite: Mapping[str, Any]) -> str:
    """Return the SHA-256 of a suite's protocol (:func:`evalkit.suite.protocol`), given the suite as plain data."""
    return content_digest(protocol(suite))


def content_digest(content: Mapping[str, Any]) -> str:
    """Return the SHA-256 of JSON values, whatever the order of the keys."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def machine() -> dict[str, Any]:
    """Describe the machine of this process."""
    return {"platform": platform.platform(), "processor": platform.machine(), "python": platform.python_version()}


def now() -> str:
    """Return the time in UTC, to the second."""
    return datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


def read_manifest(folder: Path) -> Manifest:
    """Read a run's manifest.

    Raises:
        UsageError: it is missing, damaged or changed after it was written; the message names the file and the field.
    """
    path = RunFolder(folder).manifest
    try:
        is_run = path.is_file()
    except OSError as error:  # of a name that no file can have
        raise UsageError(f"{short(str(folder))}: not a run ({error.strerror})") from error
    if not is_run:
        raise UsageError(f"{folder}: not a run (there is no {path.name})")
    content = read_json(path)
    if isinstance(content, dict) and content.get("format") != FORMAT:
        raise UsageError(f"{path}: format {content.get('format')!r} is not one this evalkit reads ({FORMAT})")
    manifest = parse(Manifest, content, path)
    if manifest.sha256 is not None and manifest.sha256 != content_digest(
        {name: value for name, value in content.items() if name != "sha256"}
    ):
        raise UsageError(f"{path}: was changed after it was written (sha256 is not the digest of the rest): restore it")
    return manifest


def run_exists_message(folder: Path) -> str:
    """Return the error message for a folder that already holds a run."""
    return f"{folder}: holds a run already; continue it with --resume, or name another --out"
