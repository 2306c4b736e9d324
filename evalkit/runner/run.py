"""The run: checkpoint × suite × execution, from options to a journal of finished episodes."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from evalkit.errors import EnvironmentProblem, WorkerLost
from evalkit.locations import own_version
from evalkit.policies.checkpoint import find_checkpoint
from evalkit.policies.trust import confirm
from evalkit.records.journal import Journal
from evalkit.records.lock import lock_run_folder
from evalkit.records.manifest import Manifest, Plan, fingerprint, machine, now
from evalkit.runner.options import Candidate, EpisodeSelector, RunOptions
from evalkit.runner.process import WorkerConfig, WorkerProcess, start_workers
from evalkit.runner.recorder import Progress, Recorder
from evalkit.runner.resolve import ResolvedRun, check_options, resolve_run
from evalkit.runner.scheduler import Scheduler
from evalkit.setup.installed import InstalledSuite
from evalkit.setup.sources import describe_sources
from evalkit.suite import Suite, suite_digest

__all__ = ["Candidate", "EpisodeSelector", "RunOptions", "open_candidate", "play", "run_candidate"]


def play(options: RunOptions, progress: Progress, selector: EpisodeSelector | None = None) -> Path:
    """Play the missing episodes of a checkpoint's run and return the run's folder.

    Everything is checked before the first episode. A refusal leaves a run that already exists untouched.

    Args:
        options: what to run.
        progress: receives the run's progress.
        selector: selects and orders the episodes; all of them in the protocol's order if None.

    Raises:
        EvalkitError: see :mod:`evalkit.errors`; the message is for the user.
    """
    check_options(options)
    installed = InstalledSuite.find(options.suite)  # fails before a model is loaded
    with open_candidate(installed.suite, options) as candidate:
        return run_candidate(resolve_run(options, installed, candidate), progress, selector)


@contextmanager
def open_candidate(suite: Suite, options: RunOptions) -> Iterator[Candidate]:
    """Load the checkpoint that ``options`` name, and close it at the end."""
    name = suite.default.checkpoint if options.checkpoint is None else options.checkpoint
    checkpoint = find_checkpoint(name, options.checkpoint_file).having(options.settings)
    try:
        checkpoint.check_ready(suite)
        checkpoint = confirm(checkpoint, options.trust)
        policy = checkpoint.build(suite, options.worker_timeout_s)
    except EnvironmentProblem as error:
        wanted = options.splits or suite.default.splits or list(suite.splits)
        oracle = set(wanted) & set(suite.oracle) and not set(options.splits) - set(suite.oracle)
        hint = f"--checkpoint {'oracle' if oracle else 'random'} needs no weights and runs here"
        raise EnvironmentProblem(f"{error}; {hint}") from error
    try:
        yield Candidate(checkpoint.id, policy, checkpoint.identity(), checkpoint.entry.splits)
    finally:
        policy.close()


def run_candidate(run: ResolvedRun, progress: Progress, selector: EpisodeSelector | None = None) -> Path:
    """Play the missing episodes of a resolved run and return the run's folder. See :func:`play`."""
    for note in run.notes:
        progress.note(note)
    out = run.folder.root
    with lock_run_folder(out, run.resume):
        config = WorkerConfig.of(run)
        with start_workers(config, run.workers) as workers:
            manifest = _preflight(run, workers)
            if selector:
                selector.on_start(manifest)
            if run.resume:
                manifest.check_resumes(out)
            else:
                manifest.write(out)
            for reason in manifest.incomparable:
                progress.note(f"not comparable with published figures: {reason}")
            _play_missing(run, manifest, config, workers, progress, selector)
    return out


def _preflight(run: ResolvedRun, workers: list[WorkerProcess]) -> Manifest:
    """Probe the suite and return the manifest. Raises EnvironmentProblem that names the missing part."""
    plan = Plan.of(run.episodes)
    try:
        ready, probed = workers[0].wait_ready(), workers[0].probe(plan.keys)
    except WorkerLost:  # one loss may be chance, so start another worker
        workers[0].kill()
        workers[0] = workers[0].replacement()
        ready, probed = workers[0].wait_ready(), workers[0].probe(plan.keys)
    suite, spec = run.suite, run.candidate.policy.spec
    if probed.problems:
        more = f" (and {len(probed.problems) - 1} more; see `evalkit doctor {suite.name}`)"
        raise EnvironmentProblem(f"{suite.name}: {probed.problems[0]}{more if len(probed.problems) > 1 else ''}")
    metadata = {k: v for k, v in probed.metadata.items() if k != "gl" or spec.observation_spec.cameras}
    commits, doubts = describe_sources(run.installed.sources)
    return Manifest(
        fingerprint=fingerprint(suite, dict(ready.versions), {"sources": commits, **metadata} if commits else metadata),
        checkpoint={
            **run.candidate.identity,
            "observation_spec": spec.observation_spec.to_dict(),
            "chunk_size": spec.chunk_size,
            "batch_invariant": spec.batch_invariant,
            "metadata": spec.metadata,
        },
        execution=run.execution.to_dict(),
        plan=plan,
        code={"evalkit": own_version(), "suite": suite_digest(suite.folder)},
        suite=suite.to_message(),
        incomparable=[*doubts, *probed.incomparable],
        machine={**machine(), "worker_python": ready.python},
        created=now(),
    )


def _play_missing(
    run: ResolvedRun,
    manifest: Manifest,
    config: WorkerConfig,
    workers: list[WorkerProcess],
    progress: Progress,
    selector: EpisodeSelector | None,
) -> None:
    """Play every episode without an outcome, and retry those that ended in errors."""
    episodes, out = list(run.episodes), run.folder.root
    with Journal(out, manifest) as journal:
        finished = [r for r in journal.records.values() if r.success is not None]
        if selector:
            episodes = selector.order(episodes)
            for record in finished:
                selector.on_record(record)
        progress.begin(out, len(episodes), finished)
        recorder = Recorder(run, journal, progress, selector.on_record if selector else None)
        done = {r.episode for r in finished if not recorder.wants_video(r)}
        missing = [e for e in episodes if e not in done]
        if run.shuffle is not None:
            random.Random(run.shuffle).shuffle(missing)
        if not selector:  # earlier attempts that ended in an error or lost their video come last
            missing.sort(key=lambda e: e in journal.records)
        in_order = run.shuffle is not None or selector is not None
        scheduler = Scheduler(config, run.candidate.policy, recorder, workers, grouped=not in_order)
        try:
            scheduler.run(missing, selector.needs if selector else lambda _: True)
        finally:
            workers[:] = scheduler.workers
        journal.check_written(() if selector else episodes)
