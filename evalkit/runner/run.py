"""The run: checkpoint × suite × execution, from what was asked for to a journal of finished episodes."""

from __future__ import annotations

import itertools
import os
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol

from evalkit.episode import Episode
from evalkit.errors import EnvironmentProblem, UsageError, WorkerLost
from evalkit.execution import Execution
from evalkit.execution.delay import Delay
from evalkit.execution.resolve import resolve_execution
from evalkit.locations import own_version
from evalkit.policies.checkpoint import find_checkpoint
from evalkit.policy import Policy
from evalkit.records.folder import RunFolder
from evalkit.records.journal import Journal, Record
from evalkit.records.lock import lock_run_folder
from evalkit.records.manifest import Manifest, Plan, fingerprint, machine, now
from evalkit.runner.process import WorkerConfig, WorkerProcess, started
from evalkit.runner.recorder import Progress, Recorder, Video
from evalkit.runner.scheduler import Scheduler
from evalkit.setup.assets import assets_folder
from evalkit.setup.environment import Environment
from evalkit.setup.sources import checkouts, described
from evalkit.suite import Suite, load_suite, suite_digest


@dataclass(frozen=True)
class RunOptions:
    """What was asked for. The command line's options, by the same names.

    Attributes:
        suite: a suite's name, or the path of its folder.
        checkpoint: ``ID`` or ``ID:key=value,...``; the suite's default where None.
        checkpoints: a file of the user's own checkpoints.
        settings: parameters of the checkpoint, over those that came with its name.
        splits: names of splits; the suite's default ones where empty.
        tasks: names or numbers of tasks; all where empty.
        episodes: scenes per task; the protocol's number where None.
        repeats: attempts at each scene; the protocol's number where None.
        workers: worker processes; one per core where None.
        execution: how chunks become control steps; one of :data:`evalkit.execution.strategies.EXECUTORS`.
        horizon: control steps executed of each chunk; as the execution has it where None.
        delay: inference delay, or as :meth:`evalkit.execution.delay.Delay.parse` reads one; none where None.
        prefix: committed actions, for the execution ``prefix``.
        parameters: what else the execution has.
        out: the run's folder; a new one under results/runs/ where None.
        resume: continue the run in ``out``.
        video: which episodes to film.
        shuffle: seed of a shuffled order of episodes; the planned order where None. Changes no outcome.
        patience_s: a worker that is silent for so long has hung.
    """

    suite: str
    checkpoint: str | None = None
    checkpoint_file: Path | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    splits: Sequence[str] = ()
    tasks: Sequence[str] = ()
    episodes: int | None = None
    repeats: int | None = None
    workers: int | None = None
    execution: str = "sync"
    horizon: int | None = None
    delay: str | Delay | None = None
    prefix: int | None = None
    parameters: Mapping[str, float] = field(default_factory=dict)
    out: Path | None = None
    resume: bool = False
    video: Video = "none"
    shuffle: int | None = None
    worker_timeout_s: float = 300.0


@dataclass(frozen=True)
class Candidate:
    """What is run: a policy and what the manifest says of it.

    Attributes:
        id: its name.
        policy: the policy, which whoever made it closes.
        identity: id, code and parameters; JSON values.
        splits: by suite, the splits that it is for; all where absent.
    """

    id: str
    policy: Policy
    identity: Mapping[str, Any]
    splits: Mapping[str, Sequence[str]] = field(default_factory=dict)


class EpisodeSelector(Protocol):
    """Says what of a run is played, and in which order, while it is played."""

    def on_start(self, manifest: Manifest) -> None:
        """Called before the first episode; raises EvalkitError where the run is not to begin."""

    def order(self, episodes: Sequence[Episode]) -> list[Episode]:
        """Which of the planned episodes to play, and in which order."""

    def on_record(self, record: Record) -> None:
        """A result; those that are there already when the run is continued come first."""

    def needs(self, episode: Episode) -> bool:
        """Whether an episode is still to be played."""


def play(options: RunOptions, progress: Progress, selector: EpisodeSelector | None = None) -> Path:
    """Plays what is missing of a checkpoint's run; returns its folder, the manifest and the whole journal in it.

    Everything is checked before the first episode, and nothing of a run that is there already is touched by a refusal.
    Where there is a ``judge``, it says what is played.

    Raises:
        EvalkitError: see :mod:`evalkit.errors`; the message is for the user.
    """
    suite = load_suite(options.suite)
    name = suite.default.checkpoint if options.checkpoint is None else options.checkpoint
    checkpoint = find_checkpoint(name, options.checkpoint_file).having(options.settings)
    _check_options(options)
    Environment.of(suite, options.suite).require()  # before a model takes its time to load
    checkouts(suite)
    try:
        policy = checkpoint.build(suite)
    except EnvironmentProblem as error:
        asked = options.splits or suite.default.splits or list(suite.splits)
        here = "oracle" if set(asked) & set(suite.oracle) and not set(options.splits) - set(suite.oracle) else "random"
        raise EnvironmentProblem(f"{error}; --checkpoint {here} needs no weights and runs here") from error
    try:
        candidate = Candidate(checkpoint.id, policy, checkpoint.identity(), checkpoint.entry.splits)
        return run_candidate(suite, candidate, options, progress, selector)
    finally:
        policy.close()


def run_candidate(
    suite: Suite, candidate: Candidate, options: RunOptions, progress: Progress, selector: EpisodeSelector | None = None
) -> Path:
    """:func:`play` for a policy that is there already; ``options.checkpoint`` has no say."""
    _check_options(options)
    environment = Environment.of(suite, options.suite)
    out = options.out or default_folder(suite, candidate.id)
    splits = options.splits or _default_splits(suite, candidate, options, progress)
    episodes = suite.plan(splits, options.tasks, options.episodes, options.repeats)
    unsupported_splits = {e.split for e in episodes} - set(candidate.splits.get(suite.name, suite.splits))
    if unsupported_splits:
        progress.note(f"{candidate.id} was not made for {', '.join(sorted(unsupported_splits))}")
    _check_fits(suite, candidate, episodes, options)
    environment.require()
    with lock_run_folder(out, options.resume):
        config = _worker_config(suite, environment, candidate.policy, options, episodes, out)
        with started(config, min(options.workers or default_workers(), len(episodes))) as workers:
            manifest = _preflight(config, workers, candidate, episodes)
            if selector:
                selector.on_start(manifest)
            if options.resume:
                manifest.check_resumes(out)
            else:
                manifest.write(out)
            for reason in manifest.incomparable:
                progress.note(f"not comparable with published figures: {reason}")
            _play_missing(config, workers, candidate.policy, episodes, options, out, progress, selector)
    return out


def _check_options(options: RunOptions) -> None:
    if options.resume and options.out is None:
        raise UsageError("--resume needs --out DIR, the folder of the run to continue")


def default_folder(suite: Suite, checkpoint: str) -> Path:
    """``results/runs/<suite>-<checkpoint>-<local time>`` under the working folder, one that does not exist yet."""
    stamp = datetime.now().strftime("%Y%m%d-%H%M%S")
    folder = Path("results") / "runs" / f"{suite.name}-{checkpoint}-{stamp}"
    numbered = (folder.with_name(f"{folder.name}-{n}") for n in itertools.count(2))
    return next(path for path in itertools.chain([folder], numbered) if not path.exists())


def _default_splits(suite: Suite, candidate: Candidate, options: RunOptions, progress: Progress) -> Sequence[str]:
    """The suite's own, or those of them that the policy is for, where nothing was asked for."""
    chosen = suite.default.splits or list(suite.splits)
    expert = candidate.policy.spec.observation_spec.oracle_steps
    known = suite.oracle if expert else candidate.splits.get(suite.name, chosen)
    fitting = [split for split in chosen if split in known] or [split for split in suite.splits if split in known]
    if options.tasks or not fitting or fitting == chosen:
        return ()
    who = "the scripted expert" if expert else candidate.id
    progress.note(f"{who} knows {', '.join(fitting)} of {', '.join(chosen)}: running those")
    return fitting


def default_workers() -> int:
    """One worker per core that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _check_fits(suite: Suite, candidate: Candidate, episodes: list[Episode], options: RunOptions) -> None:
    """Refuses what could only fail later."""
    policy = candidate.policy
    unsupported_splits = {e.split for e in episodes} - set(suite.oracle)
    if policy.spec.observation_spec.oracle_steps and unsupported_splits:
        known = f"only {', '.join(suite.oracle)}: pass --split" if suite.oracle else "none of its splits"
        raise UsageError(
            f"checkpoint {candidate.id!r} needs a scripted expert, and {suite.name} has none for "
            f"{', '.join(sorted(unsupported_splits))} ({known}, or use another checkpoint)"
        )
    for camera in policy.spec.observation_spec.cameras:
        if camera not in suite.cameras:
            raise UsageError(f"checkpoint {candidate.id!r} looks through camera {camera!r}, which {suite.name} lacks")
    for name in policy.spec.observation_spec.state:
        if name not in suite.state:
            raise UsageError(f"checkpoint {candidate.id!r} reads state {name!r}, which {suite.name} lacks")
    if options.execution in ("prefix", "rtc") and options.execution not in policy.spec.supported_prefixes:
        able = ", ".join(policy.spec.supported_prefixes) or "none"
        raise UsageError(
            f"--execution {options.execution}: checkpoint {candidate.id!r} takes no account of the running chunk so "
            f"(it can: {able}); use naive"
        )
    if options.video != "none" and suite.video is None:
        raise UsageError(f"--video: {suite.name} has no camera to film with")


def _execution(suite: Suite, policy: Policy, options: RunOptions, episodes: Sequence[Episode]) -> Execution:
    """The execution that was asked for. Raises UsageError where it cannot work at the fastest control rate here."""
    try:
        delay = Delay.parse(options.delay) if isinstance(options.delay, str) else options.delay or Delay()
    except ValueError as error:
        raise UsageError(f"--delay: {error}") from error
    rates = [suite.splits[split].control_hz or suite.control_hz for split in {e.split for e in episodes}]
    return resolve_execution(
        options.execution,
        policy.spec.chunk_size,
        max(rates),
        options.horizon,
        delay,
        options.prefix,
        options.parameters,
    )


def _worker_config(
    suite: Suite,
    environment: Environment,
    policy: Policy,
    options: RunOptions,
    episodes: Sequence[Episode],
    out: Path,
) -> WorkerConfig:
    return WorkerConfig(
        suite=suite,
        environment=environment,
        observation_spec=policy.spec.observation_spec,
        execution=_execution(suite, policy, options, episodes),
        video_camera=suite.video.camera if suite.video and options.video != "none" else None,
        assets=assets_folder(suite),
        sources=checkouts(suite),
        logs=RunFolder(out).logs,
        worker_timeout_s=options.worker_timeout_s,
    )


def _preflight(
    config: WorkerConfig,
    workers: list[WorkerProcess],
    candidate: Candidate,
    episodes: list[Episode],
) -> Manifest:
    """Asks the suite whether everything is there. Raises EnvironmentProblem with what is missing, or the manifest."""
    plan = Plan.of(episodes)
    try:
        ready, found = workers[0].wait_ready(), workers[0].probe(plan.keys)
    except WorkerLost:  # once may be chance; twice is not
        workers[0].kill()
        workers[0] = WorkerProcess(config, 0)
        ready, found = workers[0].wait_ready(), workers[0].probe(plan.keys)
    if found["problems"]:
        more = f" (and {len(found['problems']) - 1} more; see `evalkit doctor {config.suite.name}`)"
        raise EnvironmentProblem(
            f"{config.suite.name}: {found['problems'][0]}{more if len(found['problems']) > 1 else ''}"
        )
    metadata = {k: v for k, v in found["metadata"].items() if k != "gl" or config.observation_spec.cameras}
    commits, doubts = described(config.sources)
    return Manifest(
        fingerprint=fingerprint(
            config.suite, ready["versions"], {"sources": commits, **metadata} if commits else metadata
        ),
        checkpoint={
            **candidate.identity,
            "observation_spec": candidate.policy.spec.observation_spec.to_dict(),
            "chunk_size": candidate.policy.spec.chunk_size,
            "batch_invariant": candidate.policy.spec.batch_invariant,
            "metadata": candidate.policy.spec.metadata,
        },
        execution=config.execution.to_dict(),
        plan=plan,
        code={"evalkit": own_version(), "suite": suite_digest(config.environment.source)},
        suite=config.suite.to_message(),
        incomparable=[*doubts, *found["incomparable"]],
        machine={**machine(), "worker_python": ready["python"]},
        created=now(),
    )


def _play_missing(
    config: WorkerConfig,
    workers: list[WorkerProcess],
    policy: Policy,
    episodes: list[Episode],
    options: RunOptions,
    out: Path,
    progress: Progress,
    selector: EpisodeSelector | None,
) -> None:
    """Plays every episode that has no verdict yet; an earlier error gets another chance."""
    with Journal(out) as journal:
        for stranger in set(journal.records) - set(episodes):
            raise UsageError(f"{journal.path}: {stranger.id} is not in the run's plan")
        finished = [r for r in journal.records.values() if r.error is None]
        if selector:
            episodes = selector.order(episodes)
            for record in finished:
                selector.on_record(record)
        progress.begin(out, len(episodes), finished)
        recorder = Recorder(
            journal, progress, options.video, out, config.suite, selector.on_record if selector else None
        )
        done = {r.episode for r in finished if not recorder.wants_video(r)}
        missing = [e for e in episodes if e not in done]
        if options.shuffle is not None:
            random.Random(options.shuffle).shuffle(missing)
        if not selector:  # what was tried before, in an error or for a lost video, comes last
            missing.sort(key=lambda e: e in journal.records)
        frame_every = max(1, round(config.suite.control_hz / config.suite.video.fps)) if config.suite.video else 0
        in_order = options.shuffle is not None or selector is not None
        frames = frame_every if config.video_camera else 0
        scheduler = Scheduler(config, policy, recorder, workers, grouped=not in_order, frame_every=frames)
        try:
            scheduler.run(missing, selector.needs if selector else lambda _: True)
        finally:
            workers[:] = scheduler.workers
