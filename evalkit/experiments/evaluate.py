"""The evaluation of a policy in memory, e.g. during training, without a checkpoint on disk or an entry in a file.

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
    """A function as a policy. It is called with one observation at a time."""

    def __init__(self, function: Callable[[Observation], np.ndarray], spec: Spec) -> None:
        self._function = function
        self.spec = spec

    def act(self, requests: Sequence[Request]) -> list[np.ndarray]:
        """Call the function once per request. A single action (A,) counts as a chunk of one."""
        return [np.atleast_2d(np.asarray(self._function(request.observation))) for request in requests]

    def close(self) -> None:
        """Do nothing: a function holds no resources."""


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
    """Run a policy of this process through a suite. The simulators run in their own processes.

    Args:
        policy: a function from an observation to a chunk (T, A) of float32 or float64 actions, or an object with the
            interface of :class:`evalkit.policy.Policy`, which gets batches of requests. It is not closed.
        suite: a suite's name, its folder, or a Suite. It must be set up with ``evalkit setup SUITE``.
        splits: names of splits; the suite's default splits if empty.
        tasks: names or numbers of tasks; all tasks if empty.
        episodes: scenes per task; the protocol's number if None.
        chunk: length T of the function's chunks.
        cameras: the cameras of the function's observations; all of the suite's if None.
        state: the state vectors of the function's observations; all of the suite's if None.
        name: name of the policy, also in the name of the run's folder.
        metadata: JSON values that identify the policy (training step, hash of the weights, ...), for the manifest. The
            run of a function cannot be resumed without them, since nothing else identifies the function.
        workers: simulator processes; one per core if None.
        execution: name of the execution, see :mod:`evalkit.execution.strategies`, or ``NAME:key=number,...``.
        horizon: control steps executed of each chunk; the execution's default if None.
        delay: inference delay in virtual time, as for :meth:`evalkit.execution.delay.Delay.parse`.
        video: the episodes to record as video.
        out: the run's folder; a new one under results/runs/ if None.
        resume: continue the run in ``out``.
        progress: the progress display, see :mod:`evalkit.runner.progress`; none if None.

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
        candidate = _candidate(policy, name, metadata)  # type: ignore[arg-type]  # it has the attributes of a policy
    elif callable(policy):
        if resume and not metadata:
            raise UsageError("resume: pass metadata that identify the function: nothing else tells it from another one")
        candidate = _candidate(_function_policy(policy, loaded, chunk, cameras, state), name, metadata, policy)
    else:
        raise UsageError(f"policy: {type(policy).__name__} is neither a function nor an evalkit.Policy")
    for label, number in {"episodes": episodes, "workers": workers, "horizon": horizon}.items():
        if number is not None:
            _check_number(label, number)
    if video not in get_args(Video):
        raise UsageError(f"video: {video!r} is none of {', '.join(get_args(Video))}")
    options = RunOptions(
        loaded, splits=_names(splits), tasks=_names(tasks), episodes=episodes, workers=workers, execution=execution,
        horizon=horizon, delay=None if delay is None else str(delay), video=video,
        out=None if out is None else Path(out), resume=resume,
    )  # fmt: skip
    run = resolve_run(options, InstalledSuite.find(loaded), candidate)
    return summarize(run_candidate(run, Silent() if progress is None else progress))


def _function_policy(
    function: Callable[[Observation], np.ndarray],
    suite: Suite,
    chunk: int,
    cameras: Sequence[str] | None,
    state: Sequence[str] | None,
) -> FunctionPolicy:
    """Return the function as a policy whose observations have the named cameras and state vectors."""
    _check_number("chunk", chunk)
    inputs = ObservationSpec(
        cameras=tuple(suite.cameras if cameras is None else _names(cameras)),
        state=tuple(suite.state if state is None else _names(state)),
    )
    return FunctionPolicy(function, Spec(inputs, chunk, {}))


def _names(given: str | int | Sequence[str | int]) -> list[str]:
    """Return one or several names or numbers as a list of names."""
    return [str(name) for name in ([given] if isinstance(given, str | int) else given)]


def _check_number(name: str, number: Any) -> None:
    if not isinstance(number, int | np.integer) or isinstance(number, bool) or number < 1:
        raise UsageError(f"{name}: must be a whole number from 1 on, got {number!r}")


def _check_metadata(metadata: Mapping[str, Any] | None) -> None:
    try:
        json.dumps({} if metadata is None else dict(metadata), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise UsageError(f"metadata: must be JSON values: {error}") from error


def _candidate(policy: Policy, name: str, metadata: Mapping[str, Any] | None, function: Any = None) -> Candidate:
    code = policy if function is None else function
    named = code if hasattr(code, "__qualname__") else type(code)
    identity = {"id": name, "policy": f"{named.__module__}:{named.__qualname__}", "parameters": dict(metadata or {})}
    return Candidate(name, policy, identity)
