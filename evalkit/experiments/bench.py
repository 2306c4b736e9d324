"""How fast a suite and a checkpoint are on this machine, per part: reset, physics, looking, the policy."""

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
from evalkit.policy import Policy, Request
from evalkit.records.journal import Record, read_journal
from evalkit.runner.options import RunOptions
from evalkit.runner.recorder import Progress
from evalkit.runner.resolve import default_workers, resolve_run
from evalkit.runner.run import open_candidate, run_candidate
from evalkit.setup.installed import InstalledSuite


@dataclass(frozen=True)
class Throughput:
    """What some episodes took. Times are of this machine as it was then: compare ratios, in one sitting.

    Attributes:
        workers: simulator processes.
        episodes: episodes played, the first of each worker (which builds the simulator) apart.
        steps: their control steps.
        inferences: how often the policy was asked in them.
        episodes_per_hour: of all workers together.
        steps_per_s: control steps a second, of all workers together.
        reset_ms: setting a scene, per episode.
        physics_ms: per control step, all that is none of the other parts.
        look_ms: rendering, packing and sending an observation, per inference.
        wait_ms: waiting for the reply, per inference.
        policy_ms: of that, the policy itself: the median of its calls.
        batch: requests a call, on average.
        build_s: building the simulator, in each worker's first episode; median.
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
        """As JSON values, rounded to what means something."""
        return {k: float(f"{v:.4g}") if isinstance(v, float) else v for k, v in asdict(self).items()}


class Timed:
    """A policy that is watched: what it is asked goes on to another one, and each call's latency is kept.

    Attributes:
        calls: (requests, seconds) of each call so far.
    """

    def __init__(self, policy: Policy) -> None:
        self.calls: list[tuple[int, float]] = []
        self.spec = policy.spec
        self._policy = policy

    def act(self, requests: Sequence[Request]) -> Sequence[np.ndarray]:
        """Asks the other policy."""
        began = time.perf_counter()
        chunks = self._policy.act(requests)
        self.calls.append((len(requests), time.perf_counter() - began))
        return chunks

    def close(self) -> None:
        """Closes the other policy."""
        self._policy.close()


def bench(
    options: RunOptions, workers: Sequence[int], progress: Callable[[int], Progress], trace: Path | None
) -> list[Throughput]:
    """Plays the same episodes with so many workers each time.

    Args:
        options: what to play; ``out`` and ``workers`` have no say. Without tasks, the first of the first split.
        workers: numbers of simulator processes; one, and one per core, where empty.
        progress: makes what is told how it goes with so many workers.
        trace: where to keep the latencies of single requests, for ``--delay trace:FILE``.

    Raises:
        EvalkitError: see :mod:`evalkit.errors`.
    """
    installed = InstalledSuite.find(options.suite)
    suite = installed.suite
    splits = list(options.splits) or (suite.default.splits or list(suite.splits))[:1]
    tasks = list(options.tasks) or [next(iter(suite.splits[splits[0]].tasks))] if splits[0] in suite.splits else []
    found, latencies = [], []
    with open_candidate(suite, options) as candidate:
        for count in workers or sorted({1, default_workers()}):
            timed = Timed(candidate.policy)
            with tempfile.TemporaryDirectory(prefix="evalkit-bench-") as folder:
                one = replace(options, splits=splits, tasks=tasks, workers=count, out=Path(folder) / "run", shuffle=0)
                run = resolve_run(one, installed, replace(candidate, policy=timed))
                with progress(count) as shown:  # type: ignore[attr-defined]  # every display is a context manager
                    run_candidate(run, shown)
                found.append(_throughput(list(read_journal(run.folder.root).values()), timed, count))
            single = [1000 * seconds for requests, seconds in timed.calls[1:] if requests == 1]  # the first warms up
            latencies += single
    if trace is not None:
        if not latencies:
            raise UsageError(f"--trace {trace}: no request was asked alone; add --workers 1")
        trace.write_text(json.dumps({"latency_ms": [round(ms, 3) for ms in latencies]}) + "\n", encoding="utf-8")
    return found


def _throughput(records: Sequence[Record], timed: Timed, workers: int) -> Throughput:
    judged = [r for r in records if r.error is None]
    first = {r.host["worker"]: r for r in reversed(judged)}
    later = [r for r in judged if r is not first[r.host["worker"]]]
    if not later:
        raise UsageError("--episodes: play more, at least two for each worker: its first builds the simulator")

    def total(part: str) -> float:
        return sum(float(r.host[part]) for r in later)

    steps, inferences = sum(r.steps or 0 for r in later), sum(r.inferences or 0 for r in later)
    busy = total("wall_s") / workers  # each worker's own
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
