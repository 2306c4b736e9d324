"""From a run's episodes to its rows: the one code path that makes every number evalkit prints."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evalkit.errors import UsageError
from evalkit.journal import Record, read_journal
from evalkit.manifest import Manifest, read_manifest
from evalkit.metrics import Estimate, mean_of, success_rate
from evalkit.suite import Headline

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Row:
    """One line of a table: a task's (split and task), a split's (task None) or the suite's (both None).

    Rates are fractions of 1; ``low`` and ``high`` are the ends of the 95 % interval; ``errors`` are episodes without a
    verdict, which are in no other column.
    """

    suite: str
    split: str | None
    task: str | None
    metric: str
    value: float | None
    low: float | None
    high: float | None
    n: int
    n_effective: float
    errors: int


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

    def to_json(self) -> dict[str, Any]:
        """The document that ``evalkit run --json`` prints."""
        named = {"name": self.headline.metric, **{k: getattr(self.headline, k) for k in ("value", "low", "high", "n")}}
        return {
            "run": str(self.folder),
            "suite": self.manifest.fingerprint["suite"],
            "checkpoint": self.manifest.checkpoint["id"],
            "execution": self.manifest.execution["name"],
            "batch_invariant": self.manifest.checkpoint.get("batch_invariant", True),
            "headline": {**named, "complete": self.complete},
            "rows": [asdict(row) for row in self.rows],
            "episodes": self.finished,
            "planned": self.planned,
            "errors": self.errors,
            "incomparable": self.manifest.incomparable,
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
    suite = str(manifest.fingerprint["suite"])
    rows = [
        *(_row(suite, split, task, frame) for split, task in manifest.plan.tasks),
        *(_row(suite, split, None, frame) for split in dict.fromkeys(s for s, _ in manifest.plan.tasks)),
    ]
    errors = sum(r.error is not None for r in records)
    planned = len(manifest.plan.tasks) * manifest.plan.scenes * manifest.plan.repeats
    headline = _headline(manifest, rows)
    covered = _covered(manifest)
    return Summary(
        folder=folder,
        manifest=manifest,
        rows=[*rows, headline],
        headline=headline,
        complete=not covered and len(records) - errors == planned,
        covered=covered,
        planned=planned,
        finished=len(records) - errors,
        errors=errors,
    )


def episodes_frame(records: Iterable[Record]) -> pd.DataFrame:
    """One row per episode: its fields, ``success`` (None for an error), ``steps``, ``digest``, ``error``, and metrics.

    A suite's own metric ``x`` is column ``metric.x``.
    """
    import pandas as pd

    columns = ["suite", "split", "task", "scene", "seed", "repeat", "success", "steps", "inferences", "digest", "error"]
    rows = [
        {
            **r.episode.to_dict(),
            "success": r.success,
            "steps": r.steps,
            "inferences": r.inferences,
            "digest": r.digest,
            "error": r.error["kind"] if r.error else None,
            **{f"metric.{name}": value for name, value in r.metrics.items()},
        }
        for r in records
    ]
    frame: pd.DataFrame = pd.DataFrame(rows, columns=None if rows else columns)
    return frame


def _row(suite: str, split: str, task: str | None, frame: pd.DataFrame) -> Row:
    mine = frame[(frame["split"] == split) & ((frame["task"] == task) if task else True)]
    estimate = success_rate(mine[mine["error"].isna()])
    return _as_row(suite, split, task, "success rate", estimate, int(mine["error"].notna().sum()))


def _covered(manifest: Manifest) -> str:
    """What part of the headline's protocol the plan is, in words; empty where it is all of it."""
    rule = Headline.model_validate(manifest.suite["headline"])
    splits = manifest.suite["splits"]
    asked = {(s, t) for s in (rule.splits or list(splits)) for t in splits[s]["tasks"]}
    tasks, scenes = len(asked & set(manifest.plan.tasks)), manifest.plan.scenes
    if tasks == len(asked) and scenes == manifest.suite["episodes"]:
        return ""
    return f"{tasks} of {len(asked)} tasks, {scenes} scenes a task where the protocol has {manifest.suite['episodes']}"


def _headline(manifest: Manifest, rows: list[Row]) -> Row:
    """The suite's headline over what was run, by its own name only where all of its tasks were."""
    rule = Headline.model_validate(manifest.suite["headline"])
    planned: dict[str, set[str]] = {}
    for split, task in manifest.plan.tasks:
        planned.setdefault(split, set()).add(task)
    splits = manifest.suite["splits"]
    counted = [s for s in (rule.splits or list(splits)) if s in planned] or list(planned)
    whole = all(planned.get(s) == set(splits[s]["tasks"]) for s in (rule.splits or list(splits)))
    parts = [r for r in rows if r.split in counted and (r.task is None) == (rule.mean_of == "splits")]
    name = rule.name if whole else f"{'mean' if len(parts) > 1 else 'success rate'} of {_what(rule, parts)}"
    estimate = mean_of([_estimate(r) for r in parts])
    return _as_row(rows[0].suite, None, None, name, estimate, sum(r.errors for r in parts))


def _what(rule: Headline, parts: list[Row]) -> str:
    names = [str(r.split if rule.mean_of == "splits" else r.task) for r in parts]
    return ", ".join(names) if len(names) <= 3 else f"{len(names)} {rule.mean_of}"


def _estimate(row: Row) -> Estimate:
    return Estimate(row.value, row.low, row.high, row.n, row.n_effective)


def _as_row(suite: str, split: str | None, task: str | None, metric: str, e: Estimate, errors: int) -> Row:
    effective = round(e.n_effective, 1)
    return Row(suite, split, task, metric, e.value, e.low, e.high, e.n, effective, errors)
