"""From a run's episodes to its rows: the one code path that makes every number evalkit prints."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evalkit.analysis.rows import Row, coverage_note, rows_of
from evalkit.episode import Episode
from evalkit.errors import UsageError
from evalkit.records.frame import episodes_frame, read_frame
from evalkit.records.manifest import Manifest, read_manifest

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Summary", "episodes_frame", "measures", "read_episodes", "read_frame", "rows_frame", "summarize", "table"]


@dataclass(frozen=True)
class Summary:
    """A run in numbers.

    Attributes:
        folder: the run's folder.
        manifest: what the run is.
        rows: tasks, splits and last the suite's headline.
        headline: the suite's number, under the name that fits what was run.
        complete: whether every planned episode has a verdict and the plan is the protocol's whole.
        covered: what part of the protocol was planned, in words; empty where it is the whole.
        planned: episodes in the plan.
        finished: episodes with a verdict.
        errors: episodes that ended in an error.
        execution_stats: how chunks were executed, means over episodes (:func:`measures`).
    """

    folder: Path
    manifest: Manifest
    rows: list[Row]
    headline: Row
    complete: bool
    covered: str
    planned: int
    finished: int
    errors: int
    execution_stats: Mapping[str, float]

    def to_json(self) -> dict[str, Any]:
        """The document that ``evalkit run --json`` prints."""
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
    """Reads a run and makes its rows.

    Args:
        folder: the run's.
        execution_stats: whether to say what the chunks did where the execution is synchronous, which tables do not show.

    Raises:
        UsageError: the folder holds no readable run, or the journal and the manifest contradict one another.
    """
    manifest = read_manifest(folder)
    frame = read_frame(folder, extras=execution_stats or manifest.execution["name"] != "sync")
    _check_planned(folder, manifest, frame)
    rows = rows_of(manifest, frame)
    errors = int(frame["error"].notna().sum())
    missing = coverage_note(manifest)
    return Summary(
        folder=folder,
        manifest=manifest,
        rows=rows,
        headline=rows[-1],
        complete=not missing and len(frame) - errors == manifest.plan.size,
        covered=missing,
        planned=manifest.plan.size,
        finished=len(frame) - errors,
        errors=errors,
        execution_stats=measures(manifest, frame),
    )


def _check_planned(folder: Path, manifest: Manifest, frame: pd.DataFrame) -> None:
    """Raises UsageError that names an episode of the frame that the manifest does not plan."""
    planned = {task.key: task for task in manifest.plan.tasks}
    strange = (frame["suite"] != str(manifest.fingerprint["suite"])) | (frame["seed"] != manifest.plan.seed)
    for (split, name), episodes in frame.groupby(["split", "task"], observed=True):
        task = planned.get((str(split), str(name)))
        if task is None:
            strange[episodes.index] = True
        elif episodes["scene"].max() >= task.scenes or episodes["repeat"].max() >= task.repeats:
            strange[episodes.index] |= (episodes["scene"] >= task.scenes) | (episodes["repeat"] >= task.repeats)
    if strange.any():
        fields = frame.loc[strange, list(Episode.__dataclass_fields__)].astype(object).to_dict("records")
        first = min(Episode(**episode) for episode in fields)
        raise UsageError(f"{folder}: the journal has an episode that the manifest does not plan: {first.id}")


def rows_frame(summaries: Sequence[Summary]) -> pd.DataFrame:
    """Every row of every run, with the run's folder and checkpoint: what CSV has, and :func:`table` gives."""
    import pandas as pd

    columns = ["run", "checkpoint", *(f.name for f in fields(Row) if f.name != "most")]
    rows = [
        {"run": str(s.folder), "checkpoint": s.manifest.checkpoint["id"], **r.to_dict()}
        for s in summaries
        for r in s.rows
    ]
    frame: pd.DataFrame = pd.DataFrame(rows, columns=columns)
    return frame


def table(*runs: Path | str) -> pd.DataFrame:
    """The rows of finished runs: one per task, split and suite, with intervals. Raises UsageError as `summarize`."""
    return rows_frame([summarize(Path(run), execution_stats=False) for run in runs])


def read_episodes(*runs: Path | str) -> pd.DataFrame:
    """The episodes of finished runs, one row each: ``run``, ``checkpoint``, and what :func:`episodes_frame` has."""
    import pandas as pd

    frames = []
    for run in map(Path, runs):
        manifest = read_manifest(run)
        frame = read_frame(run)
        _check_planned(run, manifest, frame)
        frame.insert(0, "run", str(run))
        frame.insert(1, "checkpoint", str(manifest.checkpoint["id"]))
        frames.append(frame.astype(dict.fromkeys(("suite", "split", "task", "digest"), object)))
    return pd.concat(frames, ignore_index=True) if frames else episodes_frame([])


def measures(manifest: Manifest, frame: pd.DataFrame) -> dict[str, float]:
    """Means over the episodes with a verdict.

    ``inferences``; what :meth:`evalkit.worker.trace.Trace.execution_stats` names; ``seconds``, the virtual time of solved ones. What no
    record has is left out.
    """
    judged = frame[frame["error"].isna()]
    if judged.empty:
        return {}
    found: dict[str, float] = {}
    for column in (c for c in judged.columns if c == "inferences" or c.startswith("execution_stats.")):
        if judged[column].notna().any():
            found[column.removeprefix("execution_stats.")] = float(judged[column].mean())
    solved = judged[judged["success"].astype(bool) & judged["steps"].notna()]
    splits, hz = manifest.suite["splits"], manifest.suite.get("control_hz", 1)
    rates = solved["split"].map(lambda split: splits[split].get("control_hz") or hz).astype(float)
    return found | ({"seconds": float((solved["steps"] / rates).mean())} if len(solved) else {})
