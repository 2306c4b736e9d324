"""`evalkit list`: the suites, the checkpoints and the runs."""

from __future__ import annotations

import json
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from evalkit.cli._common import console, report_errors
from evalkit.cli._options import AsJson, CheckpointFile

if TYPE_CHECKING:
    from rich.console import Console

    from evalkit.suite import Suite


class ListKind(str, Enum):
    """The kinds of things that `list` lists."""

    suites = "suites"
    checkpoints = "checkpoints"
    runs = "runs"


def list_(
    kind: Annotated[ListKind | None, typer.Argument(help="suites, checkpoints or runs. Default: all three.")] = None,
    folder: Annotated[Path, typer.Option("--runs", help="The folder of the runs.")] = Path("results/runs"),
    checkpoint_file: CheckpointFile = None,
    as_json: AsJson = False,
) -> None:
    """List suites, checkpoints and runs."""
    with report_errors():
        content = {}
        if kind in (None, ListKind.suites):
            content["suites"] = suites()
        if kind in (None, ListKind.checkpoints):
            content["checkpoints"] = checkpoints(checkpoint_file)
        if kind in (None, ListKind.runs):
            content["runs"] = runs(folder)
        if as_json:
            typer.echo(json.dumps(content, indent=1))
        else:
            for title, rows in content.items():
                show(title, rows, console(stderr=False))


def suites() -> list[dict[str, Any]]:
    """Return every suite with its splits, their number of tasks, and the state of its environment."""
    from evalkit.locations import suite_folders
    from evalkit.suite import load_suite

    rows = []
    for name in suite_folders():
        suite = load_suite(name)
        rows.append(
            {
                "suite": name,
                "title": suite.title,
                "summary": suite.summary,
                "splits": {split: len(section.tasks) for split, section in suite.splits.items()},
                "ready": _is_ready(suite),
            }
        )
    return rows


def _is_ready(suite: Suite) -> bool:
    """Return True if the suite's environment is built; a machine without a place for environments has none."""
    from evalkit.errors import EnvironmentProblem
    from evalkit.setup.environment import Environment

    try:
        return Environment.of(suite).ready
    except EnvironmentProblem:
        return False


def checkpoints(more: Path | None = None) -> list[dict[str, Any]]:
    """Return every checkpoint of checkpoints.yaml and of the user's own file."""
    from evalkit.policies.checkpoint import load_checkpoints

    return [
        {
            "checkpoint": name,
            "summary": entry.summary,
            "suites": entry.suites,
            "source": entry.source,
            "published": entry.published.model_dump() if entry.published else None,
        }
        for name, entry in load_checkpoints(more).items()
    ]


def runs(folder: Path) -> list[dict[str, Any]]:
    """Return every run under a folder, oldest first."""
    from evalkit.errors import EvalkitError
    from evalkit.records.folder import RunFolder
    from evalkit.records.frame import count_verdicts
    from evalkit.records.manifest import read_manifest

    rows: list[dict[str, Any]] = []
    found = [one for path in folder.glob("*") if (one := RunFolder(path)).is_run]
    for run in sorted(found, key=lambda one: one.manifest.stat().st_mtime):
        try:
            manifest = read_manifest(run.root)
            finished = count_verdicts(run.root, manifest) if run.journal.exists() else 0
        except EvalkitError as error:
            rows.append({"run": str(run.root), "problem": str(error)})
            continue
        rows.append(
            {
                "run": str(run.root),
                "suite": manifest.fingerprint["suite"],
                "checkpoint": manifest.checkpoint["id"],
                "episodes": finished,
                "planned": manifest.plan.size,
                "created": manifest.created,
            }
        )
    return rows


def show(title: str, rows: list[dict[str, Any]], out: Console) -> None:
    """Print rows of one kind as a table."""
    from rich.table import Table

    if not rows:
        out.print(f"[bold]{title}[/bold]: none")
        return
    table = Table(title=title, title_style="bold", title_justify="left", box=None, pad_edge=False)
    columns = list(dict.fromkeys(key for row in rows for key in row if key not in ("title", "source")))
    for column in columns:
        first = column == columns[0]  # users copy it, so it must not wrap
        table.add_column(column, style="bold" if first else "", overflow="fold", no_wrap=first and title != "runs")
    for row in rows:
        table.add_row(*(_scores(row) if column == "published" else _cell(row.get(column)) for column in columns))
    out.print(table)
    out.print()


def _scores(row: dict[str, Any]) -> str:
    """Return the authors' figures, preferably the whole suite's."""
    published = row["published"]
    if not published:
        return ""
    scores = {name: score for name, score in published["scores"].items() if "/" not in name} or published["scores"]
    rates = published["metric"] == "success rate"
    return ", ".join(
        f"{name.rpartition('/')[2]} {score * 100:.1f} %" if rates else f"{name.rpartition('/')[2]} {score:.2f}"
        for name, score in scores.items()
    )


def _cell(value: Any) -> str:
    from rich.markup import escape

    if isinstance(value, dict):
        return escape(", ".join(f"{k} ({v})" for k, v in value.items()))
    if isinstance(value, list):
        return escape(", ".join(value))
    if isinstance(value, bool):
        return "yes" if value else "no: evalkit setup"
    return "any" if value is None else escape(str(value))
