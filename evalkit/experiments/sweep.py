"""Success against inference delay: the same episodes under several executions and delays, compared pair by pair."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evalkit.analysis.pairs import Side, paired, side
from evalkit.analysis.summary import summarize
from evalkit.errors import UsageError
from evalkit.execution.strategies import EXECUTORS
from evalkit.records.folder import RunFolder
from evalkit.runner.options import RunOptions
from evalkit.runner.recorder import Progress
from evalkit.runner.resolve import default_folder, resolve_run
from evalkit.runner.run import open_candidate, run_candidate
from evalkit.setup.installed import InstalledSuite
from evalkit.stats.contrasts import paired_verdicts

if TYPE_CHECKING:
    import pandas as pd

BASELINE = "sync"


@dataclass(frozen=True)
class Cell:
    """One run of a sweep: an execution under a delay, in a folder of its own."""

    execution: str
    delay: str
    folder: Path

    @property
    def title(self) -> str:
        """For people."""
        return self.execution if self.execution == BASELINE else f"{self.execution}, delay {self.delay}"


def sweep(
    options: RunOptions,
    executions: Sequence[str],
    delays: Sequence[str],
    progress: Callable[[str], Progress],
) -> tuple[Path, pd.DataFrame]:
    """Plays every execution under every delay, and the synchronous run that they are compared with.

    All of it is checked before the first episode. Runs that are there already are continued where ``options.resume``.

    Args:
        options: what to run; its execution and delay have no say. The horizon is the same for all: H / 2 where None.
        executions: names of asynchronous executions.
        delays: as :meth:`evalkit.execution.delay.Delay.parse` reads them.
        progress: makes what is told how a run goes, from the run's title.

    Returns:
        The folder, and the table of :func:`table_of`.

    Raises:
        EvalkitError: see :mod:`evalkit.errors`.
    """
    for execution in executions:
        if execution not in EXECUTORS or execution == BASELINE:
            known = ", ".join(e for e in EXECUTORS if e != BASELINE)
            raise UsageError(f"--execution {execution}: a sweep compares {known} with {BASELINE}")
    installed = InstalledSuite.find(options.suite)
    suite = installed.suite
    with open_candidate(suite, options) as candidate:
        out = options.out or default_folder(suite, f"{candidate.id}-sweep")
        chunk_size = candidate.policy.spec.chunk_size
        horizon = max(1, chunk_size // 2) if options.horizon is None else options.horizon
        cells = list(_cells(out, executions, delays))
        if len({cell.folder for cell in cells}) < len(cells):
            raise UsageError("--delay, --execution: name each once")
        runs = [resolve_run(_options_of(cell, options, horizon), installed, candidate) for cell in cells]
        for cell, run in zip(cells, runs, strict=True):
            with progress(cell.title) as shown:  # type: ignore[attr-defined]  # every display is a context manager
                run_candidate(run, shown)
    return out, table_of(cells)


def table_of(cells: Sequence[Cell]) -> pd.DataFrame:
    """One row per cell: its measures, and the difference to the synchronous run on the episodes that both have.

    Columns: execution, delay, the headline with its interval, n; ``difference``, ``difference_low``,
    ``difference_high`` and ``pairs``; then the means over episodes of what the execution did, and ``seconds``, the mean
    virtual time to success.
    """
    import pandas as pd

    sides = {cell: side(cell.folder) for cell in cells}
    base = next(one for cell, one in sides.items() if cell.execution == BASELINE)
    rows = []
    for cell, one in sides.items():
        summary = summarize(cell.folder)
        head = summary.headline
        row: dict[str, Any] = {"execution": cell.execution, "delay": cell.delay}
        row |= {"metric": head.metric, "value": head.value, "low": head.low, "high": head.high, "n": head.n}
        row |= _difference(base, one) | dict(summary.execution_stats)
        rows.append({**row, "errors": summary.errors, "run": cell.folder.name})
    table: pd.DataFrame = pd.DataFrame(rows)
    return table


def _cells(out: Path, executions: Sequence[str], delays: Sequence[str]) -> Iterator[Cell]:
    yield Cell(BASELINE, "0", out / BASELINE)
    for execution in executions:
        for delay in delays:
            label = "".join(c if c.isalnum() or c in "._-" else "-" for c in delay.rpartition("/")[2])
            yield Cell(execution, delay, out / f"{execution}-{label}")


def _options_of(cell: Cell, options: RunOptions, horizon: int) -> RunOptions:
    return replace(
        options,
        execution=cell.execution,
        delay=None if cell.execution == BASELINE else cell.delay,
        horizon=horizon,
        out=cell.folder,
        resume=options.resume and RunFolder(cell.folder).is_run,
    )


def _difference(base: Side, other: Side) -> dict[str, Any]:
    """The paired difference in success with its interval (Bonett and Price 2012)."""
    pairs = paired(base, other)
    if pairs.empty:
        return {"difference": None, "difference_low": None, "difference_high": None, "pairs": 0}
    solved = pairs.assign(**{name: (pairs[name] == 1).astype(float) for name in ("score_a", "score_b")})
    found = paired_verdicts(solved)
    interval = {"difference_low": found.low, "difference_high": found.high}
    return {"difference": found.difference, **interval, "pairs": found.n}
