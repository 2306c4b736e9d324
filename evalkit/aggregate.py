"""From a run's episodes to its rows: the one code path that makes every number evalkit prints."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evalkit.errors import UsageError
from evalkit.journal import Record, read_journal
from evalkit.manifest import Manifest, read_manifest
from evalkit.rows import Row, rows_of, uncovered

if TYPE_CHECKING:
    import pandas as pd


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
        motion: how chunks were executed, means over episodes (:func:`measures`).
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
    motion: Mapping[str, float]

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
            "motion": dict(self.motion),
            "incomparable": self.manifest.incomparable,
            "origin": self.manifest.origin.model_dump() if self.manifest.origin else None,
        }


def summarize(folder: Path) -> Summary:
    """Reads a run and makes its rows. Raises UsageError where the folder holds no readable run."""
    manifest = read_manifest(folder)
    journal = read_journal(folder)
    strangers = set(journal) - set(manifest.plan.episodes(str(manifest.fingerprint["suite"])))
    if strangers:
        raise UsageError(f"{folder}: the journal has an episode that the manifest does not plan: {min(strangers).id}")
    records = list(journal.values())
    frame = episodes_frame(records)
    rows = rows_of(manifest, frame)
    errors = sum(r.error is not None for r in records)
    missing = uncovered(manifest)
    return Summary(
        folder=folder,
        manifest=manifest,
        rows=rows,
        headline=rows[-1],
        complete=not missing and len(records) - errors == manifest.plan.size,
        covered=missing,
        planned=manifest.plan.size,
        finished=len(records) - errors,
        errors=errors,
        motion=measures(manifest, frame),
    )


def measures(manifest: Manifest, frame: pd.DataFrame) -> dict[str, float]:
    """Means over the episodes with a verdict.

    ``inferences``; what :meth:`evalkit.trace.Trace.motion` names; ``seconds``, the virtual time of solved ones. What no
    record has is left out.
    """
    judged = frame[frame["error"].isna()]
    if judged.empty:
        return {}
    found: dict[str, float] = {}
    for column in (c for c in judged.columns if c == "inferences" or c.startswith("motion.")):
        if judged[column].notna().any():
            found[column.removeprefix("motion.")] = float(judged[column].mean())
    solved = judged[judged["success"].astype(bool) & judged["steps"].notna()]
    splits, hz = manifest.suite["splits"], manifest.suite.get("control_hz", 1)
    seconds = [n / (splits[s].get("control_hz") or hz) for n, s in zip(solved["steps"], solved["split"], strict=True)]
    return found | ({"seconds": sum(seconds) / len(seconds)} if seconds else {})


def episodes_frame(records: Iterable[Record]) -> pd.DataFrame:
    """One row per episode: its fields, ``success`` (None for an error), ``steps``, ``digest``, ``error``, and metrics.

    A suite's own metric ``x`` is column ``metric.x``, and what its execution did is under ``motion.``. Of
    a chain, ``parts`` has its sub-tasks with their verdicts and ``solved`` how many of them were solved in a row.
    """
    import pandas as pd

    columns = ["suite", "split", "task", "scene", "seed", "repeat", "success", "steps", "inferences", "digest", "error"]
    columns += ["parts", "solved"]
    rows = [
        {
            **r.episode.to_dict(),
            "success": r.success,
            "steps": r.steps,
            "inferences": r.inferences,
            "digest": r.digest,
            "error": r.error["kind"] if r.error else None,
            "parts": r.parts,
            "solved": next((i for i, (_, solved) in enumerate(r.parts) if not solved), len(r.parts)),
            **{f"metric.{name}": value for name, value in r.metrics.items()},
            **{f"motion.{name}": value for name, value in r.motion.items()},
        }
        for r in records
    ]
    frame: pd.DataFrame = pd.DataFrame(rows, columns=None if rows else columns)
    return frame
