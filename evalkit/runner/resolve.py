"""The step from options to a run that can start: defaults filled in, conflicts refused."""

from __future__ import annotations

import itertools
import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from evalkit.episode import Episode
from evalkit.errors import UsageError
from evalkit.execution import Execution
from evalkit.execution.delay import Delay
from evalkit.execution.resolve import parse_execution, resolve_execution
from evalkit.locations import as_file_name
from evalkit.records.folder import RunFolder
from evalkit.runner.options import Candidate, RunOptions, Video
from evalkit.setup.installed import InstalledSuite
from evalkit.suite import Suite


@dataclass(frozen=True)
class ResolvedRun:
    """A run with nothing left to decide; everything after :func:`resolve_run` takes this.

    Attributes:
        installed: the suite, its environment, assets and sources.
        candidate: the policy under evaluation.
        episodes: the planned episodes, in the protocol's order.
        execution: the way from chunks to control steps.
        folder: the run's folder.
        resume: continue the run in ``folder``.
        workers: number of worker processes.
        video: the episodes to record as video.
        shuffle: seed of a shuffled episode order, or None.
        worker_timeout_s: seconds of silence after which a worker counts as hung.
        notes: lines that the user should read before the run starts.
    """

    installed: InstalledSuite
    candidate: Candidate
    episodes: tuple[Episode, ...]
    execution: Execution
    folder: RunFolder
    resume: bool
    workers: int
    video: Video
    shuffle: int | None
    worker_timeout_s: float
    notes: tuple[str, ...]

    @property
    def suite(self) -> Suite:
        """The suite under its protocol."""
        return self.installed.suite

    @property
    def video_camera(self) -> str | None:
        """The camera of the run's videos, or None if it records none."""
        return self.suite.video.camera if self.suite.video and self.video != "none" else None


def resolve_run(options: RunOptions, installed: InstalledSuite, candidate: Candidate) -> ResolvedRun:
    """Resolve a run's options for a candidate. Reads and writes no files.

    Args:
        options: the user's options; those of the suite and the checkpoint are not read again.
        installed: the suite on this machine.
        candidate: the policy under evaluation.

    Raises:
        UsageError: an option does not exist, or does not fit the suite, the policy or another option.
    """
    check_options(options)
    suite = installed.suite
    splits, notes = _default_splits(suite, candidate, options)
    episodes = suite.plan(splits, options.tasks, options.episodes, options.repeats)
    unsupported_splits = {e.split for e in episodes} - set(candidate.splits.get(suite.name, suite.splits))
    if unsupported_splits:
        notes = [*notes, f"{candidate.id} was not made for {', '.join(sorted(unsupported_splits))}"]
    _check_fits(suite, candidate, episodes, options)
    return ResolvedRun(
        installed=installed,
        candidate=candidate,
        episodes=tuple(episodes),
        execution=_execution(suite, candidate, options, episodes),
        folder=RunFolder(options.out or default_folder(suite, candidate.id)),
        resume=options.resume,
        workers=min(options.workers or default_workers(), len(episodes)),
        video=options.video,
        shuffle=options.shuffle,
        worker_timeout_s=options.worker_timeout_s,
        notes=tuple(notes),
    )


def check_options(options: RunOptions) -> None:
    """Raise UsageError for options that contradict each other for every suite and policy."""
    if options.resume and options.out is None:
        raise UsageError("--resume needs --out DIR, the folder of the run to continue")


def default_folder(suite: Suite, checkpoint: str) -> Path:
    """Return ``results/runs/<suite>-<checkpoint>-<local time>`` under the working folder, numbered if it exists."""
    stamp = datetime.now().strftime("%Y%m%d-%H%M%S")
    folder = Path("results") / "runs" / f"{as_file_name(f'{suite.name}-{checkpoint}')}-{stamp}"
    numbered = (folder.with_name(f"{folder.name}-{n}") for n in itertools.count(2))
    return next(path for path in itertools.chain([folder], numbered) if not path.exists())


def default_workers() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _default_splits(suite: Suite, candidate: Candidate, options: RunOptions) -> tuple[Sequence[str], list[str]]:
    """Return the splits to plan (empty for the suite's default) and a note if the policy supports only some of them."""
    if options.splits:
        return options.splits, []
    usual = suite.default.splits or list(suite.splits)
    oracle = candidate.policy.spec.observation_spec.oracle_steps
    supported = suite.oracle if oracle else candidate.splits.get(suite.name, usual)
    fitting = [s for s in usual if s in supported] or [s for s in suite.splits if s in supported]
    if options.tasks or not fitting or fitting == usual:
        return (), []
    who = "the scripted oracle" if oracle else candidate.id
    return fitting, [f"{who} supports {', '.join(fitting)} of {', '.join(usual)}: running those"]


def _check_fits(suite: Suite, candidate: Candidate, episodes: Sequence[Episode], options: RunOptions) -> None:
    """Raise UsageError if the candidate, the suite and the options do not fit together."""
    spec = candidate.policy.spec
    unsupported_splits = {e.split for e in episodes} - set(suite.oracle)
    if spec.observation_spec.oracle_steps and unsupported_splits:
        remedy = f"only {', '.join(suite.oracle)}: pass --split" if suite.oracle else "none of its splits"
        raise UsageError(
            f"checkpoint {candidate.id!r} needs a scripted oracle, and {suite.name} has none for "
            f"{', '.join(sorted(unsupported_splits))} ({remedy}, or use another checkpoint)"
        )
    for camera in spec.observation_spec.cameras:
        if camera not in suite.cameras:
            raise UsageError(f"checkpoint {candidate.id!r} needs camera {camera!r}, which {suite.name} lacks")
    for name in spec.observation_spec.state:
        if name not in suite.state:
            raise UsageError(f"checkpoint {candidate.id!r} reads state {name!r}, which {suite.name} lacks")
    execution, _ = parse_execution(options.execution)
    if execution in ("prefix", "rtc") and execution not in spec.supported_prefixes:
        supported = ", ".join(spec.supported_prefixes) or "none"
        raise UsageError(
            f"--execution {execution}: checkpoint {candidate.id!r} does not support it "
            f"(it supports: {supported}); use naive"
        )
    if options.video != "none" and suite.video is None:
        raise UsageError(f"--video: {suite.name} has no camera for videos")


def _execution(suite: Suite, candidate: Candidate, options: RunOptions, episodes: Sequence[Episode]) -> Execution:
    """Return the requested execution. Raises UsageError if it is impossible at the splits' highest control rate."""
    try:
        delay = Delay.parse(options.delay) if isinstance(options.delay, str) else options.delay or Delay()
    except ValueError as error:
        raise UsageError(f"--delay: {error}") from error
    rates = [suite.splits[split].control_hz or suite.control_hz for split in {e.split for e in episodes}]
    return resolve_execution(
        options.execution,
        candidate.policy.spec.chunk_size,
        max(rates),
        options.horizon,
        delay,
        options.prefix,
        options.parameters,
    )
