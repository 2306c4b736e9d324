"""The commands that say whether one run is as good as another: compare, gate, baseline. They parse and print."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from evalkit.cli._common import console, explained, nothing_on_standard_output, progress_for
from evalkit.cli._options import AsJson, CheckpointFile, Splits, Tasks, Workers

Allow = Annotated[
    list[str] | None,
    typer.Option(metavar="FIELD", help="Compare although FIELD differs, and put that on record. Repeatable."),
]
Baselines = Annotated[Path, typer.Option("--baselines", metavar="DIR", help="Where baselines are.")]
EXIT_CODES = {"PASS": 0, "REGRESSION": 1, "INCONCLUSIVE": 3}


def add_to(app: typer.Typer) -> None:
    """Adds the commands."""
    app.command()(compare)
    app.command()(gate)
    baselines = typer.Typer(
        help="Accept a run as the baseline that gates measure against, and list those that were.", no_args_is_help=True
    )
    baselines.command("accept")(accept)
    baselines.command("list")(list_baselines)
    app.add_typer(baselines, name="baseline")


def compare(
    a: Annotated[Path, typer.Argument(metavar="A", help="The folder of the run to measure against.")],
    b: Annotated[Path, typer.Argument(metavar="B", help="The folder of the run that is judged.")],
    margin: Annotated[
        float, typer.Option(metavar="M", help="Largest loss that still passes, as a fraction: 0.05 is 5 points.")
    ] = 0.05,
    alpha: Annotated[float, typer.Option(metavar="P", help="Level of the test that finds a regression.")] = 0.05,
    allow: Allow = None,
    as_json: AsJson = False,
) -> None:
    """Compare two finished runs on the episodes that both have.

    Success rates by the exact McNemar test, average lengths by a paired bootstrap, tasks with Holm's correction for
    there being many. Lists the episodes that flipped, with their videos. Runs whose suite, protocol, simulator
    versions, assets or delay differ are refused, and the field is named.

    Examples:
        evalkit compare results/runs/before results/runs/after

        evalkit compare results/runs/sync results/runs/delayed --allow execution
    """
    from evalkit.analysis.compare import compare as compared
    from evalkit.errors import NotComparable
    from evalkit.report import comparison

    with explained():
        try:
            found = compared(a, b, allow or (), margin, alpha)
        except NotComparable as error:
            if as_json:
                typer.echo(_no_verdict("NOT COMPARABLE", error))
            raise
        if as_json:
            typer.echo(json.dumps(found.to_json(), indent=1))
        else:
            comparison.show(found, console(stderr=False))


def gate(
    what: Annotated[
        str,
        typer.Argument(metavar="SUITE|RUN", help="The suite to run a checkpoint through, or a finished run's folder."),
    ],
    baseline: Annotated[
        str, typer.Option(metavar="BASELINE", help="An accepted baseline (`evalkit baseline list`), or a run's folder.")
    ],
    checkpoint: Annotated[
        str | None, typer.Option(metavar="ID", help="The checkpoint that is judged, as for `evalkit run`.")
    ] = None,
    checkpoints: CheckpointFile = None,
    split: Splits = None,
    task: Tasks = None,
    episodes: Annotated[
        int | None, typer.Option(metavar="N", help="Scenes per task; the baseline's if absent.")
    ] = None,
    cap: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Play so many scenes at most; all of them if absent.")
    ] = None,
    alpha: Annotated[
        float, typer.Option(metavar="P", help="How often a checkpoint that is not worse may be called a REGRESSION.")
    ] = 0.01,
    beta: Annotated[
        float, typer.Option(metavar="P", help="How often one that is worse by the margin may PASS.")
    ] = 0.05,
    margin: Annotated[
        float, typer.Option(metavar="M", help="The drop that must not pass, as a fraction: 0.05 is 5 points.")
    ] = 0.05,
    seed: Annotated[int, typer.Option(min=0, help="Of the order in which scenes are played and weighed.")] = 0,
    max_errors: Annotated[
        float, typer.Option(metavar="SHARE", help="No verdict where more episodes than this share end in errors.")
    ] = 0.02,
    allow: Allow = None,
    horizon: Annotated[
        int | None, typer.Option(metavar="S", help="Control steps executed of each chunk; the baseline's if absent.")
    ] = None,
    workers: Workers = None,
    video: Annotated[str, typer.Option(metavar="none|failures|all", help="Film episodes as mp4.")] = "none",
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="The run's folder. A new one under results/runs/ if absent.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the gate's run in --out.")] = False,
    junit: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the verdict as JUnit XML too.")] = None,
    summary: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            envvar="GITHUB_STEP_SUMMARY",
            help="Append the verdict to FILE as markdown; a GitHub step's summary if absent.",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Judge a checkpoint against a baseline, for CI: PASS, REGRESSION or INCONCLUSIVE.

    Plays the baseline's scenes in a seeded shuffle and stops as soon as the verdict is clear: REGRESSION where the
    checkpoint is worse, PASS where it is not worse by the margin. The verdict is valid whenever it comes: see
    docs/gate.md. A finished run is judged as it would have been while it ran.

    Exit codes: 0 PASS, 1 REGRESSION, 2 no verdict (usage, infrastructure, not comparable), 3 INCONCLUSIVE.

    Examples:
        evalkit baseline accept results/runs/released --reason "the release of May" --name released

        evalkit gate metaworld --checkpoint my-checkpoint --baseline released --junit gate.xml

        evalkit gate results/runs/candidate --baseline results/runs/before --margin 0.03
    """
    from evalkit.experiments.baselines import find_baseline
    from evalkit.errors import EvalkitError, NotComparable, UsageError
    from evalkit.experiments.gate import GateOptions, Outlook, judge_live, judge_run
    from evalkit.records.manifest import FILE
    from evalkit.report import gates
    from evalkit.runner.run import RunOptions
    from evalkit.stats.sequential import Levels

    err = console(stderr=True)
    finished = (Path(what) / FILE).is_file()
    progress = progress_for(f"gate {what}")
    with explained(progress):
        try:
            live_only = {
                "--checkpoint": checkpoint, "--checkpoints": checkpoints, "--split": split, "--task": task,
                "--episodes": episodes, "--horizon": horizon, "--workers": workers, "--out": out,
                "--resume": resume or None,
            }  # fmt: skip
            for option, value in live_only.items():
                if finished and value is not None:
                    raise UsageError(f"{option}: {what} is a finished run, of which nothing is played")
            if not finished and checkpoint is None:
                raise UsageError("--checkpoint: name the checkpoint that is judged")
            if video not in ("none", "failures", "all"):
                raise UsageError(f"--video {video}: must be none, failures or all")
            try:
                options = GateOptions(
                    find_baseline(baseline), Levels(alpha, beta, margin), cap, seed, allow or (), max_errors
                )
            except ValueError as error:
                raise UsageError(f"--{error}".replace("_", "-", 1)) from error

            def announce(outlook: Outlook) -> None:
                gates.show_outlook(outlook, err)

            if finished:
                found = judge_run(Path(what), options, announce)
            else:
                asked = RunOptions(
                    suite=what,
                    checkpoint=checkpoint,
                    checkpoints=checkpoints,
                    splits=split or (),
                    tasks=task or (),
                    episodes=episodes,
                    workers=workers,
                    horizon=horizon,
                    out=out,
                    resume=resume,
                    video=video,  # type: ignore[arg-type]  # it was checked
                )
                with nothing_on_standard_output(as_json), progress:
                    found = judge_live(asked, options, progress, announce)
        except EvalkitError as error:
            kind = "NOT COMPARABLE" if isinstance(error, NotComparable) else "ERROR"
            message = _one_line(error)
            if as_json:
                typer.echo(_no_verdict(kind, error))
            if junit:
                gates.write(junit, gates.junit_error(Path(what).name, kind, message))
            if summary:
                gates.write(summary, f"## ⚠️ {kind}: no verdict\n\n{message}\n", append=True)
            raise
        if junit:
            gates.write(junit, gates.junit(found))
        if summary:
            gates.write(summary, gates.markdown(found), append=True)
        if as_json:
            typer.echo(json.dumps(found.to_json(), indent=1))
        else:
            gates.show(found, console(stderr=False))
        raise typer.Exit(EXIT_CODES[found.verdict])


def accept(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a finished run.")],
    reason: Annotated[str, typer.Option(metavar="TEXT", help="Why it is the baseline; reviewers read it.")],
    name: Annotated[
        str | None, typer.Option(metavar="NAME", help="The baseline's name; <suite>-<checkpoint> if absent.")
    ] = None,
    replaces: Annotated[
        bool, typer.Option("--replace", help="Put it in the place of the baseline of that name.")
    ] = False,
    folder: Baselines = Path("results/baselines"),
) -> None:
    """Make a finished run a baseline: files under results/baselines/ to review and commit.

    Example:
        evalkit baseline accept results/runs/released --reason "the release of May" --name released
    """
    from evalkit.experiments.baselines import accept as accepted

    with explained():
        place = accepted(run, reason, name, replaces, folder)
        console(stderr=False).print(
            f"accepted: {place} (review and commit it)", highlight=False, markup=False, soft_wrap=True
        )


def list_baselines(folder: Baselines = Path("results/baselines"), as_json: AsJson = False) -> None:
    """Show the accepted baselines, and why they were accepted."""
    from rich.table import Table

    from evalkit.experiments.baselines import accepted_baselines

    with explained():
        found = accepted_baselines(folder)
        if as_json:
            typer.echo(json.dumps({"baselines": [one.model_dump() for one in found]}, indent=1))
            return
        table = Table(box=None, pad_edge=False)
        for column in ("baseline", "suite", "checkpoint", "headline", "accepted", "reason"):
            table.add_column(column, overflow="fold")
        for one in found:
            value = one.headline.get("value")
            shown = f"{one.headline.get('name')} {value:.3g}" if isinstance(value, float) else "–"
            table.add_row(one.name, one.suite, one.checkpoint, shown, one.accepted[:10], one.reason)
        console(stderr=False).print(table if found else f"no baseline in {folder}")


def _no_verdict(kind: str, error: Exception) -> str:
    return json.dumps({"verdict": kind, "reason": _one_line(error)}, indent=1)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
