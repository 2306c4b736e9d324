"""What an import found, and how it becomes a run's folder."""

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
from evalkit.locations import own_version
from evalkit.policies.checkpoint import load_checkpoints
from evalkit.records.folder import RunFolder
from evalkit.records.journal import Journal, Record
from evalkit.records.lock import lock_run_folder
from evalkit.records.manifest import Manifest, Origin, Plan, PlannedTask, fingerprint, now
from evalkit.suite import Suite

WHOLE = "get the whole of it, or import what is there with --allow-partial"


@dataclass(frozen=True)
class ImportOptions:
    """What the user adds to what the files say.

    Attributes:
        checkpoint: the checkpoint's name; as the files have it where None.
        split: the split, where the files do not say it.
        partial: whether to take what is there of an evaluation that is not whole.
    """

    checkpoint: str | None = None
    split: str | None = None
    allow_partial: bool = False


@dataclass(frozen=True)
class Source:
    """A file that was read: its place, its text and the SHA-256 of its bytes."""

    path: Path
    text: str
    sha256: str

    @classmethod
    def read(cls, path: Path) -> Source:
        """Reads it. Raises UsageError where that is not possible."""
        try:
            content = path.read_bytes()
        except OSError as error:
            raise UsageError(f"{path}: cannot be read: {error.strerror}") from error
        text = content.decode(errors="replace").replace("\r\n", "\n")
        return cls(path, text, hashlib.sha256(content).hexdigest())


@dataclass(frozen=True)
class Outcome:
    """A verdict on an episode.

    Attributes:
        success: whether it was solved.
        solved: of a chain, how many sub-tasks were solved in a row.
        steps: control steps; None where unknown.
        error: why there is no verdict, where the harness counted a crash as a failure: {"kind", "message"}.
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
        """As a line of a journal. The sub-tasks of a chain have no names here: who imports does not know them."""
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
        task: the task's.
        scenes: how many scenes were to be played.
        repeats: attempts at each.
        outcomes: by (scene, repeat); some may be missing.
    """

    split: str
    task: str
    scenes: int
    repeats: int
    outcomes: Mapping[tuple[int, int], Outcome]


@dataclass(frozen=True)
class Imported:
    """A run as it was found.

    Attributes:
        suite: evalkit's suite.
        checkpoint: its name.
        execution: how chunks became control steps, as manifests have it.
        tasks: the outcomes.
        origin: where they come from.
        protocol: what is known of the protocol in words, where it is not that of evalkit's suite.
        incomparable: why the results must not be held against published ones.
    """

    suite: Suite
    checkpoint: str
    execution: Mapping[str, Any]
    tasks: Sequence[TaskOutcomes]
    origin: Origin
    protocol: str | None = None
    incomparable: Sequence[str] = field(default=())


def write(imported: Imported, out: Path) -> None:
    """Makes the run's folder, journal first: a folder without a manifest is no run, and can be written to again.

    Raises:
        RunExists: ``out`` holds a run, or another process is at work there.
        UsageError: it cannot be written, or holds something else.
    """
    if RunFolder(out).manifest.exists():
        raise RunExists(f"{out}: holds a run already; name another --out")
    manifest = _manifest(imported)
    with lock_run_folder(out, resume=False) as folder:
        draft = RunFolder(folder.logs)  # what lies there is taken away with the folder, if nothing comes of it
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


def _manifest(imported: Imported) -> Manifest:
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


def _records(imported: Imported) -> Iterable[Record]:
    suite = imported.suite
    for task in imported.tasks:
        for (scene, repeat), outcome in sorted(task.outcomes.items()):
            episode = Episode(suite.name, task.split, task.task, scene, suite.seed, repeat)
            yield outcome.record(episode, suite.chain)


def synchronous(horizon: int | None) -> dict[str, Any]:
    """The synchronous execution, as manifests have it; ``horizon`` is None where it is unknown."""
    return {**Execution("sync", horizon or 1).to_dict(), "horizon": horizon}


def files_of(sources: Iterable[Source], root: Path) -> dict[str, str]:
    """What the manifest says of the files that were read."""
    folder = root if root.is_dir() else root.parent
    return {os.path.relpath(s.path, folder).replace(os.sep, "/"): s.sha256 for s in sources}


def released(organisation: str, suite: str, splits: Iterable[str]) -> tuple[str | None, int | None]:
    """The checkpoint that an organisation released for these splits, and the length of its chunks; None if unknown."""
    entries = load_checkpoints().items()
    theirs = [(n, e) for n, e in entries if (e.source or "").startswith(f"{organisation}/") and suite in e.splits]
    fitting = [(name, entry) for name, entry in theirs if set(splits) <= set(entry.splits[suite])]
    chunks = {entry.chunk for _, entry in fitting or theirs}
    return (fitting[0][0] if fitting else None), (chunks.pop() if len(chunks) == 1 else None)


def add_outcome(kept: dict[Any, tuple[Outcome, Path]], key: Any, outcome: Outcome, path: Path, what: str) -> None:
    """Keeps an outcome. Raises UsageError where one of the same episode says something else."""
    if key not in kept:
        kept[key] = (outcome, path)
    elif kept[key][0] != outcome:
        there, first = kept[key]
        also = "before" if first == path else f"in {first}"
        raise UsageError(f"{path}: {what}: {outcome} here and {there} {also}; remove the one that is wrong")


def grid_outcomes(
    suite: Suite, split: str, task: str, size: int, outcomes: Mapping[int, Outcome], path: Path
) -> TaskOutcomes:
    """A task's ``size`` numbered episodes as scenes, and as repeats of all its scenes where there are more than those.

    Raises UsageError where the last round is not whole.
    """
    scenes = suite.scenes_of(split, task)
    if size > scenes and size % scenes:
        raise UsageError(
            f"{path}: {split}/{task}: {size} episodes are no whole number of rounds of its {scenes} scenes"
        )
    placed = {(number % scenes, number // scenes): outcome for number, outcome in outcomes.items()}
    return TaskOutcomes(split, task, min(size, scenes), max(1, size // scenes), placed)


def format_ranges(numbers: Iterable[int]) -> str:
    """Numbers as people write them: ``1-3, 7``; of many spans the first few."""
    ordered = sorted(set(numbers))
    found: list[list[int]] = []
    for number in ordered:
        if found and number == found[-1][1] + 1:
            found[-1][1] = number
        else:
            found.append([number, number])
    words = [f"{a}-{b}" if b > a else str(a) for a, b in found]
    return ", ".join(words[:4]) + (f" and {len(words) - 4} more spans" if len(words) > 4 else "")
