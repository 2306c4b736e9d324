"""`evalkit import`: import another harness's results as a run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from evalkit.cli._common import report, report_errors
from evalkit.cli._options import AsJson


def import_(
    form: Annotated[str, typer.Argument(metavar="FORMAT", help="xiaomi-logs, vla-eval or lerobot.")],
    path: Annotated[Path, typer.Argument(metavar="PATH", help="The logs or results of one evaluation.")],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="The new run's folder.")],
    checkpoint: Annotated[
        str | None,
        typer.Option(metavar="ID", help="The checkpoint's name. Default for xiaomi-logs: the released one."),
    ] = None,
    split: Annotated[
        str | None, typer.Option(metavar="S", help="The split, if neither files nor folder name it (CALVIN).")
    ] = None,
    allow_partial: Annotated[
        bool, typer.Option("--allow-partial", help="Import an incomplete evaluation as far as it goes.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Import another harness's results as a run, and print its table.

    The run has every episode of the files, and a manifest with its origin and its unknown fields. Every other command
    works on it. Contradictory or truncated files are refused, and then nothing is written. See docs/importing.md.

    FORMAT is

    xiaomi-logs: the folder of one evaluation by Xiaomi-Robotics-0's scripts (LIBERO: the folder over libero_goal, ...);

    vla-eval: a result file of vla-eval, or the folder with those of one evaluation;

    lerobot: the eval_info.json of a lerobot-eval.

    Examples:
        evalkit import xiaomi-logs eval_libero/eval_logs --out results/runs/xiaomi-libero

        evalkit import xiaomi-logs eval_calvin/eval_logs/calvin_abc --out results/runs/xiaomi-calvin-abc

        evalkit import lerobot outputs/eval/my-policy --checkpoint my-policy --out results/runs/my-policy
    """
    from evalkit.analysis.summary import summarize
    from evalkit.importers import import_run
    from evalkit.importers.result import ImportOptions

    with report_errors():
        folder = import_run(form, path, out, ImportOptions(checkpoint, split, allow_partial))
        report(summarize(folder), as_json)
