"""Evaluating a policy that you hold, during training say, without a checkpoint on disk or an entry in a file.

An example::

    import evalkit

    def policy(observation: evalkit.Observation) -> np.ndarray:      # (T, A) float32
        return my_model(observation.images["corner2"], observation.state["proprioception"], observation.instruction)

    summary = evalkit.evaluate(policy, suite="metaworld", splits=["easy"], episodes=2, chunk=10)
    summary.headline.value, summary.headline.low, summary.headline.high
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import numpy as np

from evalkit.analysis.summary import Summary, summarize
from evalkit.errors import UsageError
from evalkit.observation import Observation, ObservationSpec
from evalkit.policy import Policy, Request, Spec
from evalkit.runner.options import Candidate, RunOptions, Video
from evalkit.runner.progress import Silent
from evalkit.runner.recorder import Progress
from evalkit.runner.resolve import resolve_run
from evalkit.runner.run import run_candidate
from evalkit.setup.installed import InstalledSuite
from evalkit.suite import Suite, load_suite


class FunctionPolicy:
    """A plain function as a policy: it is called with one observation after the other."""

    def __init__(self, function: Callable[[Observation], np.ndarray], spec: Spec) -> None:
        self._function = function
        self.spec = spec

    def act(self, requests: Sequence[Request]) -> list[np.ndarray]:
        """One call per request. A single action (A,) counts as a chunk of one."""
        return [np.atleast_2d(np.asarray(self._function(request.observation))) for request in requests]

    def close(self) -> None:
        """Nothing to release."""


def evaluate(
    policy: Policy | Callable[[Observation], np.ndarray],
    *,
    suite: str | Path | Suite,
    splits: str | Sequence[str] = (),
    tasks: str | int | Sequence[str | int] = (),
    episodes: int | None = None,
    chunk: int = 1,
    cameras: Sequence[str] | None = None,
    state: Sequence[str] | None = None,
    name: str = "policy",
    metadata: Mapping[str, Any] | None = None,
    workers: int | None = None,
    execution: str = "sync",
    horizon: int | None = None,
    delay: str | int | None = None,
    video: Video = "none",
    out: Path | str | None = None,
    resume: bool = False,
    progress: Progress | None = None,
) -> Summary:
    """Runs a policy of this process through a suite; the simulators run in processes of their own.

    Args:
        policy: a function from an observation to a chunk (T, A) of float32 actions, or an object with the interface of
            :class:`evalkit.policy.Policy`, which is asked in batches. It stays open.
        suite: a suite's name, its folder, or a Suite; set up with ``evalkit setup SUITE``.
        splits: names of splits; the suite's default ones where empty.
        tasks: names or numbers of tasks; all where empty.
        episodes: scenes per task; as the protocol has it where None.
        chunk: length T of the function's chunks.
        cameras: the cameras that the function looks through; all of the suite's where None.
        state: the state vectors that it reads; all of the suite's where None.
        name: what the run and its folder are called after.
        facts: what identifies the policy (step of training, weights' hash, ...), for the manifest; JSON values. Without
            them a run of a function cannot be resumed: nothing would tell it from another function's.
        workers: simulator processes; one per core where None.
        execution: how chunks become control steps; see :mod:`evalkit.execution.strategies`.
        horizon: control steps executed of each chunk; as the execution has it where None.
        delay: inference delay in virtual time, as :meth:`evalkit.execution.delay.Delay.parse` reads it.
        video: which episodes to film.
        out: the run's folder; a new one under results/runs/ where None.
        resume: continue the run in ``out``.
        progress: told how it goes; nobody where None. See :mod:`evalkit.runner.progress`.

    Returns:
        The run in numbers; ``Summary.folder`` holds its manifest, journal and videos.

    Raises:
        EvalkitError: see :mod:`evalkit.errors`.
    """
    loaded = load_suite(str(suite) if isinstance(suite, Path) else suite)
    _check_metadata(metadata)
    if not re.fullmatch(r"[^/\\\s.][^/\\\n]*", name):
        raise UsageError(f"name: {name!r} names the run's folder, so it must have no slash and begin with no dot")
    if isinstance(getattr(policy, "spec", None), Spec):
        candidate = _candidate(policy, name, metadata)  # type: ignore[arg-type]  # it has what a policy has
    elif callable(policy):
        _check_number("chunk", chunk)
        if resume and not metadata:
            raise UsageError("resume: pass facts that identify the function: nothing else tells it from another one")
        seen = loaded.cameras if cameras is None else _names(cameras)
        observation_spec = ObservationSpec(tuple(seen), tuple(loaded.state if state is None else _names(state)))
        called = FunctionPolicy(policy, Spec(observation_spec, chunk, {}))
        candidate = _candidate(called, name, metadata, policy)
    else:
        raise UsageError(f"policy: {type(policy).__name__} is neither a function nor an evalkit.Policy")
    for label, number in {"episodes": episodes, "workers": workers, "horizon": horizon}.items():
        if number is not None:
            _check_number(label, number)
    if video not in get_args(Video):
        raise UsageError(f"video: {video!r} is none of {', '.join(get_args(Video))}")
    options = RunOptions(
        suite=loaded,
        splits=_names(splits),
        tasks=_names(tasks),
        episodes=episodes,
        workers=workers,
        execution=execution,
        horizon=horizon,
        delay=None if delay is None else str(delay),
        video=video,
        out=None if out is None else Path(out),
        resume=resume,
    )
    installed = InstalledSuite.find(loaded)
    return summarize(
        run_candidate(resolve_run(options, installed, candidate), Silent() if progress is None else progress)
    )


def _names(given: str | int | Sequence[str | int]) -> list[str]:
    """One name or several, as names."""
    return [str(name) for name in ([given] if isinstance(given, str | int) else given)]


def _check_number(label: str, number: Any) -> None:
    if not isinstance(number, int | np.integer) or isinstance(number, bool) or number < 1:
        raise UsageError(f"{label}: must be a whole number from 1 on, got {number!r}")


def _check_metadata(metadata: Mapping[str, Any] | None) -> None:
    try:
        json.dumps({} if metadata is None else dict(metadata), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise UsageError(f"facts: must be JSON values: {error}") from error


def _candidate(policy: Policy, name: str, metadata: Mapping[str, Any] | None, function: Any = None) -> Candidate:
    code = policy if function is None else function
    made = code if hasattr(code, "__qualname__") else type(code)
    identity = {"id": name, "policy": f"{made.__module__}:{made.__qualname__}", "parameters": dict(metadata or {})}
    return Candidate(name, policy, identity)
