"""Success against inference delay: the same episodes under several executions and delays, compared pair by pair."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evalkit.analysis.pairs import Side, pair_episodes, read_side
from evalkit.analysis.summary import summarize
from evalkit.errors import RunExists, UsageError
from evalkit.execution.resolve import parse_execution
from evalkit.execution.strategies import EXECUTORS
from evalkit.locations import as_file_name
from evalkit.records.folder import RunFolder
from evalkit.records.lock import check_free
from evalkit.runner.options import RunOptions
from evalkit.runner.recorder import Progress
from evalkit.runner.resolve import ResolvedRun, default_folder, resolve_run
from evalkit.runner.run import open_candidate, run_candidate
from evalkit.setup.installed import InstalledSuite
from evalkit.stats.contrasts import paired_rates

if TYPE_CHECKING:
    import pandas as pd

BASELINE = "sync"


@dataclass(frozen=True)
class SweepRun:
    """One run of a sweep: an execution under a delay, in a folder of its own."""

    execution: str
    delay: str
    folder: Path

    @property
    def title(self) -> str:
        """Title for the progress display."""
        return self.execution if self.execution == BASELINE else f"{self.execution}, delay {self.delay}"


def sweep(
    options: RunOptions,
    executions: Sequence[str],
    delays: Sequence[str],
    progress: Callable[[str], Progress],
) -> tuple[Path, pd.DataFrame]:
    """Play every execution under every delay, and the synchronous run for comparison.

    Everything is checked before the first episode. With ``options.resume``, existing runs are continued.

    Args:
        options: the options of every run, without effect of their execution and delay. All runs have the same horizon,
            by default half of the chunk.
        executions: names of asynchronous executions, each as in ``options.execution``.
        delays: delays, as text for :meth:`evalkit.execution.delay.Delay.parse`.
        progress: makes the display of a run from its title.

    Returns:
        The folder, and the table of :func:`sweep_table`.

    Raises:
        EvalkitError: see :mod:`evalkit.errors`.
    """
    for execution in executions:
        if execution.partition(":")[0] not in EXECUTORS or parse_execution(execution)[0] == BASELINE:
            known = ", ".join(e for e in EXECUTORS if e != BASELINE)
            raise UsageError(f"--execution {execution}: a sweep compares {known} with {BASELINE}")
    installed = InstalledSuite.find(options.suite)
    suite = installed.suite
    with open_candidate(suite, options) as candidate:
        out = options.out or default_folder(suite, f"{candidate.id}-sweep")
        chunk_size = candidate.policy.spec.chunk_size
        horizon = max(1, chunk_size // 2) if options.horizon is None else options.horizon
        runs = list(_plan_runs(out, executions, delays))
        if len({run.folder for run in runs}) < len(runs):
            raise UsageError("--delay, --execution: name each once")
        resolved = [resolve_run(_options_of(run, options, horizon), installed, candidate) for run in runs]
        _check_out(out, resolved)
        for run, resolved_run in zip(runs, resolved, strict=True):
            with progress(run.title) as display:  # type: ignore[attr-defined]  # every display is a context manager
                run_candidate(resolved_run, display)
    return out, sweep_table(runs)


def _check_out(out: Path, runs: Sequence[ResolvedRun]) -> None:
    """Raise an error if the sweep's folder is a run's, or if a new run's folder holds something."""
    if RunFolder(out).is_run:
        raise RunExists(f"--out {out}: holds a run; name another folder for a sweep")
    for run in runs:
        if not run.resume:
            check_free(run.folder)


def sweep_table(runs: Sequence[SweepRun]) -> pd.DataFrame:
    """Return one row per run, with its difference to the synchronous run on the episodes that both have.

    Columns: execution, delay, the headline with its interval, n; ``difference``, ``difference_low``,
    ``difference_high`` and ``pairs``; then the means over episodes of the execution's statistics, and ``seconds``, the
    mean virtual time to success.
    """
    import pandas as pd

    sides = {run: read_side(run.folder) for run in runs}
    base = next(own for run, own in sides.items() if run.execution == BASELINE)
    rows = []
    for run, own in sides.items():
        summary = summarize(run.folder)
        head = summary.headline
        row: dict[str, Any] = {"execution": run.execution, "delay": run.delay}
        row |= {"metric": head.metric, "value": head.value, "low": head.low, "high": head.high, "n": head.n}
        row |= _difference(base, own) | dict(summary.execution_stats)
        rows.append({**row, "errors": summary.errors, "run": run.folder.name})
    table: pd.DataFrame = pd.DataFrame(rows)
    return table


def _plan_runs(out: Path, executions: Sequence[str], delays: Sequence[str]) -> Iterator[SweepRun]:
    yield SweepRun(BASELINE, "0", out / BASELINE)
    for execution in executions:
        for delay in delays:
            label = as_file_name(f"{execution}-{delay.rpartition('/')[2]}")
            yield SweepRun(execution, delay, out / label)


def _options_of(run: SweepRun, options: RunOptions, horizon: int) -> RunOptions:
    return replace(
        options,
        execution=run.execution,
        delay=None if run.execution == BASELINE else run.delay,
        horizon=horizon,
        out=run.folder,
        resume=options.resume and RunFolder(run.folder).is_run,
    )


def _difference(base: Side, other: Side) -> dict[str, Any]:
    """Return the paired difference in success with its interval (Bonett and Price 2012)."""
    pairs = pair_episodes(base, other)
    if pairs.empty:
        return {"difference": None, "difference_low": None, "difference_high": None, "pairs": 0}
    solved = pairs.assign(**{name: (pairs[name] == 1).astype(float) for name in ("score_a", "score_b")})
    contrast = paired_rates(solved)
    interval = {"difference_low": contrast.low, "difference_high": contrast.high}
    return {"difference": contrast.difference, **interval, "pairs": contrast.n}
