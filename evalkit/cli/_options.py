"""Options that several commands have: the same names, the same words."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

AsJson = Annotated[
    bool, typer.Option("--json", help="Print one JSON document to standard output, and nothing else there.")
]
CheckpointFile = Annotated[
    Path | None, typer.Option("--checkpoints", metavar="FILE", help="A file of your own checkpoints.")
]
SuiteName = Annotated[str, typer.Argument(metavar="SUITE", help="A suite's name (see `evalkit list`), or its folder.")]
Splits = Annotated[list[str] | None, typer.Option("--split", metavar="S", help="Only this split. Repeatable.")]
Tasks = Annotated[
    list[str] | None,
    typer.Option("--task", metavar="T", help="Only this task, by name or number in its split. Repeatable."),
]
Workers = Annotated[
    int | None, typer.Option("--workers", metavar="N", min=1, help="Simulator processes. One per core if absent.")
]
