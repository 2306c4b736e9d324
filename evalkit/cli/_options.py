"""Options that several commands share: the same name, type and help everywhere."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer


class VideoChoice(str, Enum):
    """The episodes to record as video."""

    none = "none"
    failures = "failures"
    all = "all"


AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document, and nothing else, to standard output.")]
SuiteName = Annotated[str, typer.Argument(metavar="SUITE", help="A suite's name (see `evalkit list`) or its folder.")]
CheckpointId = Annotated[
    str | None, typer.Option("--checkpoint", metavar="ID", help="A checkpoint, as for `evalkit run`.")
]
CheckpointFile = Annotated[
    Path | None, typer.Option("--checkpoint-file", metavar="FILE", help="A file with your own checkpoints.")
]
Splits = Annotated[list[str] | None, typer.Option("--split", metavar="S", help="Only this split. Repeatable.")]
Tasks = Annotated[
    list[str] | None,
    typer.Option("--task", metavar="T", help="Only this task, by name or by number in its split. Repeatable."),
]
Episodes = Annotated[
    int | None,
    typer.Option(
        "--episodes", metavar="N", help="Scenes per task, in the protocol's order. Default: the protocol's number."
    ),
]
Workers = Annotated[
    int | None, typer.Option("--workers", metavar="N", min=1, help="Simulator processes. Default: one per core.")
]
MaxBatch = Annotated[
    int | None,
    typer.Option("--max-batch", metavar="N", min=1, help="Most requests in one forward pass. Default: 1, as released."),
]
BatchInvariant = Annotated[
    bool,
    typer.Option(
        "--batch-invariant",
        help="Pad every forward pass to one shape, so that a chunk never depends on other requests.",
    ),
]
TrustRemoteCode = Annotated[
    bool,
    typer.Option("--trust-remote-code", help="Allow the code of a checkpoint on the Hugging Face hub, without asking."),
]
LockFile = Annotated[
    Path | None,
    typer.Option(
        "--lock",
        metavar="FILE",
        envvar="EVALKIT_LOCK",
        help="Keep commits and allowed code in FILE, to be committed with a project. Default: a file of your own.",
    ),
]
WorkerTimeout = Annotated[
    float,
    typer.Option(
        "--worker-timeout", metavar="S", min=1, max=86400, help="Replace a worker after this many seconds of silence."
    ),
]
VideoOption = Annotated[VideoChoice, typer.Option("--video", help="Record episodes as mp4.")]
Out = Annotated[
    Path | None, typer.Option("--out", metavar="DIR", help="The run's folder. Default: a new one under results/runs/.")
]
Allow = Annotated[
    list[str] | None,
    typer.Option("--allow", metavar="FIELD", help="Compare although FIELD differs, and record that. Repeatable."),
]


def batching(max_batch: int | None, batch_invariant: bool) -> dict[str, Any]:
    """Return the checkpoint parameters that ``--max-batch`` and ``--batch-invariant`` set."""
    return {**({"max_batch": max_batch} if max_batch else {}), **({"batch_invariant": True} if batch_invariant else {})}
