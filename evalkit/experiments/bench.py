"""The throughput of a suite and a checkpoint on this machine, per part: reset, physics, observation, policy."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from evalkit.errors import UsageError
from evalkit.locations import naming
from evalkit.policy import Policy, Request
from evalkit.records.journal import Record, read_journal
from evalkit.runner.options import RunOptions
from evalkit.runner.recorder import Progress
from evalkit.runner.resolve import default_workers, resolve_run
from evalkit.runner.run import open_candidate, run_candidate
from evalkit.setup.installed import InstalledSuite


@dataclass(frozen=True)
class Throughput:
    """The time that episodes took. It depends on the machine and its load: compare ratios from one session.

    Attributes:
        workers: number of simulator processes.
        episodes: number of episodes, without the first of each worker, which builds the simulator.
        steps: their control steps.
        inferences: their inferences.
        episodes_per_hour: episodes per hour, of all workers together.
        steps_per_s: control steps per second, of all workers together.
        reset_ms: time to set a scene, per episode.
        physics_ms: time outside the other parts, per control step.
        observe_ms: time to render, pack and send an observation, per inference.
        wait_ms: time until the reply, per inference.
        policy_ms: the policy's own part of the wait, median over its calls.
        batch: requests per call of the policy, mean.
        build_s: time to build the simulator, in each worker's first episode; median.
    """

    workers: int
    episodes: int
    steps: int
    inferences: int
    episodes_per_hour: float
    steps_per_s: float
    reset_ms: float
    physics_ms: float
    observe_ms: float
    wait_ms: float
    policy_ms: float
    batch: float
    build_s: float

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values, rounded to four digits."""
        return {k: float(f"{v:.4g}") if isinstance(v, float) else v for k, v in asdict(self).items()}


class TimedPolicy:
    """A wrapper that records the latency of each call of a policy.

    Attributes:
        calls: (number of requests, seconds) of each call so far.
    """

    def __init__(self, policy: Policy) -> None:
        self.calls: list[tuple[int, float]] = []
        self.spec = policy.spec
        self._policy = policy

    def act(self, requests: Sequence[Request]) -> Sequence[np.ndarray]:
        """Call the wrapped policy."""
        began = time.perf_counter()
        chunks = self._policy.act(requests)
        self.calls.append((len(requests), time.perf_counter() - began))
        return chunks

    def close(self) -> None:
        """Close the wrapped policy."""
        self._policy.close()


def bench(
    options: RunOptions, workers: Sequence[int], progress: Callable[[int], Progress], trace: Path | None
) -> list[Throughput]:
    """Play the same episodes with each number of workers, and return the throughputs.

    Args:
        options: the options of the run, without effect of ``out`` and ``workers``. The default task is the first of the
            first split.
        workers: numbers of simulator processes; one, and one per core, if empty.
        progress: makes the display for a number of workers.
        trace: the file for the latencies of single requests, for ``--delay trace:FILE``; none if None.

    Raises:
        EvalkitError: see :mod:`evalkit.errors`.
    """
    installed = InstalledSuite.find(options.suite)
    suite = installed.suite
    splits = list(options.splits) or (suite.default.splits or list(suite.splits))[:1]
    tasks = list(options.tasks) or [next(iter(suite.splits[splits[0]].tasks))] if splits[0] in suite.splits else []
    throughputs, latencies = [], []
    with open_candidate(suite, options) as candidate:
        for count in workers or sorted({1, default_workers()}):
            timed = TimedPolicy(candidate.policy)
            with tempfile.TemporaryDirectory(prefix="evalkit-bench-") as folder:
                out = Path(folder) / "run"
                own = replace(options, splits=splits, tasks=tasks, workers=count, out=out, shuffle=0)
                run = resolve_run(own, installed, replace(candidate, policy=timed))
                with progress(count) as display:  # type: ignore[attr-defined]  # every display is a context manager
                    run_candidate(run, display)
                throughputs.append(_throughput(list(read_journal(run.folder.root).values()), timed, count))
            warm_calls = timed.calls[1:]
            latencies += [1000 * seconds for requests, seconds in warm_calls if requests == 1]
    if trace is not None:
        if not latencies:
            raise UsageError(f"--trace {trace}: no call had a single request; add --workers 1")
        with naming(trace):
            trace.write_text(json.dumps({"latency_ms": [round(ms, 3) for ms in latencies]}) + "\n", encoding="utf-8")
    return throughputs


def _throughput(records: Sequence[Record], timed: TimedPolicy, workers: int) -> Throughput:
    finished = [r for r in records if r.error is None]
    first = {r.host["worker"]: r for r in reversed(finished)}
    later = [r for r in finished if r is not first[r.host["worker"]]]
    if not later:
        raise UsageError("--episodes: play more, at least two for each worker: its first builds the simulator")

    def total(part: str) -> float:
        return sum(float(r.host[part]) for r in later)

    steps, inferences = sum(r.steps or 0 for r in later), sum(r.inferences or 0 for r in later)
    busy = total("wall_s") / workers  # mean per worker
    physics = total("wall_s") - total("reset_s") - total("observe_s") - total("policy_s")
    calls = timed.calls[1:] or timed.calls
    return Throughput(
        workers=workers,
        episodes=len(later),
        steps=steps,
        inferences=inferences,
        episodes_per_hour=3600 * len(later) / busy,
        steps_per_s=steps / busy,
        reset_ms=1000 * total("reset_s") / len(later),
        physics_ms=1000 * physics / max(1, steps),
        observe_ms=1000 * total("observe_s") / max(1, inferences),
        wait_ms=1000 * total("policy_s") / max(1, inferences),
        policy_ms=1000 * median(seconds for _, seconds in calls),
        batch=sum(n for n, _ in calls) / len(calls),
        build_s=median(float(r.host["reset_s"]) for r in first.values()),
    )
