"""Options that several commands have: the same names, the same words."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer

AsJson = Annotated[
    bool, typer.Option("--json", help="Print one JSON document to standard output, and nothing else there.")
]
CheckpointFile = Annotated[
    Path | None, typer.Option("--checkpoint-file", metavar="FILE", help="A file of your own checkpoints.")
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
MaxBatch = Annotated[
    int | None,
    typer.Option(metavar="N", min=1, help="Most requests in one forward pass. 1, as released, if absent."),
]
BatchInvariant = Annotated[
    bool, typer.Option("--batch-invariant", help="Passes of one shape: a chunk depends on no other request.")
]
Allow = Annotated[
    list[str] | None,
    typer.Option(metavar="FIELD", help="Compare although FIELD differs, and put that on record. Repeatable."),
]


class VideoChoice(str, Enum):
    """Which episodes `run` films."""

    none = "none"
    failures = "failures"
    all = "all"


def batching(max_batch: int | None, batch_invariant: bool) -> dict[str, Any]:
    """Return the checkpoint parameters that ``--max-batch`` and ``--batch-invariant`` set."""
    return {**({"max_batch": max_batch} if max_batch else {}), **({"batch_invariant": True} if batch_invariant else {})}
