"""The rows of a run, from its episodes: the one code path for every number that evalkit prints."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evalkit.analysis.rows import Row, compute_rows, coverage_note
from evalkit.records.frame import episodes_frame, read_frame
from evalkit.records.manifest import Manifest, read_manifest

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "Summary",
    "episodes_frame",
    "mean_execution_stats",
    "read_episodes",
    "read_frame",
    "rows_frame",
    "summarize",
    "table",
]


@dataclass(frozen=True)
class Summary:
    """A run in numbers.

    Attributes:
        folder: the run's folder.
        manifest: the run's manifest.
        rows: tasks, splits and last the suite's headline.
        headline: the suite's number, named after the tasks that were run.
        complete: True if every planned episode has a verdict and the plan covers the protocol.
        coverage_note: the planned part of the protocol, in words; empty if the plan covers all of it.
        planned: episodes in the plan.
        finished: episodes with a verdict.
        errors: episodes that ended in an error.
        execution_stats: means over episodes of the execution's statistics (:func:`mean_execution_stats`).
    """

    folder: Path
    manifest: Manifest
    rows: list[Row]
    headline: Row
    complete: bool
    coverage_note: str
    planned: int
    finished: int
    errors: int
    execution_stats: Mapping[str, float]

    def to_json(self) -> dict[str, Any]:
        """Return the document that ``evalkit run --json`` prints."""
        named = {"name": self.headline.metric, **{k: getattr(self.headline, k) for k in ("value", "low", "high", "n")}}
        return {
            "run": str(self.folder),
            "suite": self.manifest.fingerprint["suite"],
            "checkpoint": self.manifest.checkpoint["id"],
            "execution": self.manifest.execution["name"],
            "batch_invariant": self.manifest.checkpoint.get("batch_invariant", None if self.manifest.origin else True),
            "headline": {**named, "complete": self.complete},
            "rows": [row.to_dict() for row in self.rows],
            "episodes": self.finished,
            "planned": self.planned,
            "errors": self.errors,
            "execution_stats": dict(self.execution_stats),
            "incomparable": self.manifest.incomparable,
            "origin": self.manifest.origin.model_dump() if self.manifest.origin else None,
        }


def summarize(folder: Path, execution_stats: bool = True) -> Summary:
    """Read a run and compute its rows.

    Args:
        folder: the run's folder.
        execution_stats: read the execution's statistics even of a synchronous run; tables do not show them.

    Raises:
        UsageError: the folder holds no readable run, or the journal and the manifest contradict each other.
    """
    manifest = read_manifest(folder)
    frame = read_frame(folder, execution_stats or manifest.execution["name"] != "sync", manifest)
    rows = compute_rows(manifest, frame)
    errors = int(frame["error"].notna().sum())
    uncovered = coverage_note(manifest)
    return Summary(
        folder=folder,
        manifest=manifest,
        rows=rows,
        headline=rows[-1],
        complete=not uncovered and len(frame) - errors == manifest.plan.size,
        coverage_note=uncovered,
        planned=manifest.plan.size,
        finished=len(frame) - errors,
        errors=errors,
        execution_stats=mean_execution_stats(manifest, frame),
    )


def rows_frame(summaries: Sequence[Summary]) -> pd.DataFrame:
    """Return every row of every run, with the run's folder and checkpoint, as in CSV and :func:`table`."""
    import pandas as pd

    columns = ["run", "checkpoint", *(f.name for f in fields(Row) if f.name != "max_value")]
    rows = [
        {"run": str(s.folder), "checkpoint": s.manifest.checkpoint["id"], **r.to_dict()}
        for s in summaries
        for r in s.rows
    ]
    frame: pd.DataFrame = pd.DataFrame(rows, columns=columns)
    return frame


def table(*runs: Path | str) -> pd.DataFrame:
    """Return the rows of finished runs: one per task, split and suite, with intervals.

    Raises:
        UsageError: see :func:`summarize`.
    """
    return rows_frame([summarize(Path(run), execution_stats=False) for run in runs])


def read_episodes(*runs: Path | str) -> pd.DataFrame:
    """Return the episodes of finished runs, one row each.

    Columns: ``run``, ``checkpoint``, and those of :func:`episodes_frame`.

    Raises:
        UsageError: see :func:`summarize`.
    """
    import pandas as pd

    frames = []
    for run in map(Path, runs):
        manifest = read_manifest(run)
        frame = read_frame(run, manifest=manifest)
        frame.insert(0, "run", str(run))
        frame.insert(1, "checkpoint", str(manifest.checkpoint["id"]))
        frames.append(frame.astype(dict.fromkeys(("suite", "split", "task", "digest"), object)))
    return pd.concat(frames, ignore_index=True) if frames else episodes_frame([])


def mean_execution_stats(manifest: Manifest, frame: pd.DataFrame) -> dict[str, float]:
    """Return the means over the episodes with a verdict.

    Keys: ``inferences``; those of :meth:`evalkit.worker.trace.Trace.execution_stats`; ``seconds``, the virtual time of
    solved episodes. Statistics that no record has are absent.
    """
    scored = frame[frame["error"].isna()]
    if scored.empty:
        return {}
    found: dict[str, float] = {}
    for column in (c for c in scored.columns if c == "inferences" or c.startswith("execution_stats.")):
        if scored[column].notna().any():
            found[column.removeprefix("execution_stats.")] = float(scored[column].mean())
    solved = scored[scored["success"].astype(bool) & scored["steps"].notna()]
    splits, hz = manifest.suite["splits"], manifest.suite.get("control_hz", 1)
    rates = solved["split"].map(lambda split: splits[split].get("control_hz") or hz).astype(float)
    return found | ({"seconds": float((solved["steps"] / rates).mean())} if len(solved) else {})
