"""The result of reading an import, and the run folder written from it."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from evalkit.episode import Episode
from evalkit.errors import RunExists, UsageError
from evalkit.execution import Execution
from evalkit.files import Unreadable, read_bytes
from evalkit.locations import own_version
from evalkit.policies.checkpoint import load_checkpoints
from evalkit.records.folder import RunFolder
from evalkit.records.journal import Journal, Record
from evalkit.records.lock import lock_run_folder
from evalkit.records.manifest import Manifest, Origin, Plan, PlannedTask, fingerprint, now
from evalkit.suite import Suite

HOW_TO_COMPLETE = "get the rest, or import the existing part with --allow-partial"


@dataclass(frozen=True)
class ImportOptions:
    """Facts that the user adds to those in the files.

    Attributes:
        checkpoint: the checkpoint's name; None for the name in the files.
        split: the split, if the files do not name it.
        allow_partial: accept an incomplete evaluation.
    """

    checkpoint: str | None = None
    split: str | None = None
    allow_partial: bool = False


@dataclass(frozen=True)
class SourceFile:
    """A file that was read: its path, its text and the SHA-256 of its bytes."""

    path: Path
    text: str
    sha256: str

    @classmethod
    def read(cls, path: Path) -> SourceFile:
        """Read a file.

        Raises:
            UsageError: it cannot be read.
        """
        try:
            content = read_bytes(path)
        except Unreadable as error:
            raise UsageError(f"{path}: cannot be read: {error}") from error
        text = content.decode(errors="replace").replace("\r\n", "\n")
        return cls(path, text, hashlib.sha256(content).hexdigest())


@dataclass(frozen=True)
class ImportedOutcome:
    """The outcome of an imported episode.

    Attributes:
        success: True if it was solved.
        solved: for a chain, the number of sub-tasks solved in a row.
        steps: control steps; None if unknown.
        error: the reason for a missing verdict, if the harness counted a crash as a failure: {"kind", "message"}.
    """

    success: bool
    solved: int | None = None
    steps: int | None = None
    error: Mapping[str, str] | None = None

    def __str__(self) -> str:
        if self.error:
            return f"an error ({self.error['message']})"
        if self.solved is not None:
            return f"{self.solved} solved in a row"
        return "success" if self.success else "failure"

    def record(self, episode: Episode, chain: int | None) -> Record:
        """Return a journal record. The sub-tasks of a chain have no names, because importers do not know them."""
        subtasks: list[list[Any]] = []
        if chain and self.solved is not None and not self.error:
            subtasks = [[None, True]] * self.solved + [[None, False]] * (self.solved < chain)
        return Record(
            episode=episode,
            success=None if self.error else self.success,
            steps=self.steps,
            inferences=None,
            clipped_steps=None,
            subtasks=subtasks,
            error=dict(self.error) if self.error else None,
        )


@dataclass(frozen=True)
class TaskOutcomes:
    """A task's outcomes.

    Attributes:
        split: the split's name in evalkit's suite.
        task: the task's name.
        scenes: number of planned scenes.
        repeats: attempts at each scene.
        outcomes: by (scene, repeat); some may be missing.
    """

    split: str
    task: str
    scenes: int
    repeats: int
    outcomes: Mapping[tuple[int, int], ImportedOutcome]


@dataclass(frozen=True)
class ImportedRun:
    """A run as the files describe it.

    Attributes:
        suite: evalkit's suite.
        checkpoint: the checkpoint's name.
        execution: the conversion of chunks to control steps, as in manifests.
        tasks: the outcomes.
        origin: the source, for the manifest.
        protocol: the known facts about the protocol in words, if it is not that of evalkit's suite.
        incomparable: reasons against a comparison with published results.
    """

    suite: Suite
    checkpoint: str
    execution: Mapping[str, Any]
    tasks: Sequence[TaskOutcomes]
    origin: Origin
    protocol: str | None = None
    incomparable: Sequence[str] = field(default=())


def check_tasks(imported: ImportedRun, path: Path, options: ImportOptions) -> None:
    """Check that every split of the run has outcomes of all of its tasks: its mean depends on each.

    Raises:
        UsageError: a split lacks a task, and partial results were not allowed.
    """
    found: dict[str, set[str]] = {}
    for task in imported.tasks:
        found.setdefault(task.split, set()).update([task.task] if task.outcomes else [])
    for split, names in found.items():
        missing = [name for name in imported.suite.splits[split].tasks if name not in names]
        if missing and not options.allow_partial:
            shown = ", ".join(missing[:10]) + (f" and {len(missing) - 10} more" if len(missing) > 10 else "")
            count = f"{len(missing)} of {len(missing) + len(names)} tasks are missing"
            raise UsageError(f"{path}: {imported.suite.name} {split}: {count} ({shown}): {HOW_TO_COMPLETE}")


def write(imported: ImportedRun, out: Path) -> None:
    """Write the run's folder, journal first: a folder without a manifest is no run and can be written to again.

    Raises:
        RunExists: ``out`` holds a run, or another process is at work there.
        UsageError: ``out`` cannot be written, or holds something else.
    """
    if RunFolder(out).manifest.exists():
        raise RunExists(f"{out}: holds a run already; name another --out")
    manifest = _manifest(imported)
    with lock_run_folder(out, resume=False) as folder:
        draft = RunFolder(folder.logs)  # removed with the folder if the import fails
        with Journal(draft.root) as journal:
            for record in _records(imported):
                journal.append(record)
        draft.journal.replace(folder.journal)
        try:
            manifest.write(out)
        except BaseException:
            folder.journal.unlink()
            raise
        with contextlib.suppress(OSError):
            draft.root.rmdir()


def _manifest(imported: ImportedRun) -> Manifest:
    suite = imported.suite
    known = fingerprint(suite, {}, {})
    if imported.protocol:
        known["protocol"] = imported.protocol
    tasks = [PlannedTask(split=t.split, task=t.task, scenes=t.scenes, repeats=t.repeats) for t in imported.tasks]
    return Manifest(
        fingerprint={**known, "versions": None},
        checkpoint={"id": imported.checkpoint},
        execution=dict(imported.execution),
        plan=Plan(tasks=tasks, seed=suite.seed),
        code={"evalkit": own_version()},
        suite=suite.to_message(),
        incomparable=list(imported.incomparable),
        origin=imported.origin,
        created=now(),
    )


def _records(imported: ImportedRun) -> Iterable[Record]:
    suite = imported.suite
    for task in imported.tasks:
        for (scene, repeat), outcome in sorted(task.outcomes.items()):
            episode = Episode(suite.name, task.split, task.task, scene, suite.seed, repeat)
            yield outcome.record(episode, suite.chain)


def sync_execution(horizon: int | None) -> dict[str, Any]:
    """Return the synchronous execution, as in manifests; ``horizon`` is None if unknown."""
    return {**Execution("sync", horizon or 1).to_dict(), "horizon": horizon}


def file_digests(sources: Iterable[SourceFile], root: Path) -> dict[str, str]:
    """Return the SHA-256 of every file, by its path relative to ``root``."""
    folder = root if root.is_dir() else root.parent
    return {os.path.relpath(s.path, folder).replace(os.sep, "/"): s.sha256 for s in sources}


def released_checkpoint(organisation: str, suite: str, splits: Iterable[str]) -> tuple[str | None, int | None]:
    """Return an organisation's released checkpoint for these splits, and its chunk length; None if unknown."""
    entries = load_checkpoints().items()
    theirs = [(n, e) for n, e in entries if (e.source or "").startswith(f"{organisation}/") and suite in e.splits]
    fitting = [(name, entry) for name, entry in theirs if set(splits) <= set(entry.splits[suite])]
    chunks = {entry.chunk for _, entry in fitting or theirs}
    return (fitting[0][0] if fitting else None), (chunks.pop() if len(chunks) == 1 else None)


def add_outcome(
    outcomes: dict[Any, tuple[ImportedOutcome, Path]], key: Any, outcome: ImportedOutcome, path: Path, what: str
) -> None:
    """Add an outcome.

    Raises:
        UsageError: another outcome of the same episode contradicts it.
    """
    if key not in outcomes:
        outcomes[key] = (outcome, path)
    elif outcomes[key][0] != outcome:
        other, first = outcomes[key]
        place = "before" if first == path else f"in {first}"
        raise UsageError(f"{path}: {what}: {outcome} here and {other} {place}; remove the wrong one")


def grid_outcomes(
    suite: Suite, split: str, task: str, size: int, outcomes: Mapping[int, ImportedOutcome], path: Path
) -> TaskOutcomes:
    """Place a task's ``size`` numbered episodes on its scenes; further rounds over the scenes become repeats.

    Raises:
        UsageError: the last round is incomplete.
    """
    scenes = suite.scenes_of(split, task)
    if size > scenes and size % scenes:
        raise UsageError(f"{path}: {split}/{task}: {size} episodes are not a multiple of its {scenes} scenes")
    by_scene = {(number % scenes, number // scenes): outcome for number, outcome in outcomes.items()}
    return TaskOutcomes(split, task, min(size, scenes), max(1, size // scenes), by_scene)


def format_ranges(numbers: Iterable[int]) -> str:
    """Format numbers as ranges: ``1-3, 7``; of many ranges only the first few."""
    ordered = sorted(set(numbers))
    found: list[list[int]] = []
    for number in ordered:
        if found and number == found[-1][1] + 1:
            found[-1][1] = number
        else:
            found.append([number, number])
    words = [f"{a}-{b}" if b > a else str(a) for a, b in found]
    return ", ".join(words[:4]) + (f" and {len(words) - 4} more ranges" if len(words) > 4 else "")
