"""`evalkit doctor`: check this machine."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from evalkit.cli._common import FAILED, console, report_errors
from evalkit.cli._options import AsJson


def doctor(
    suite: Annotated[str | None, typer.Argument(metavar="[SUITE]", help="The suite to check. Default: all.")] = None,
    as_json: AsJson = False,
) -> None:
    """Check this machine: working parts, missing parts, and the way to get them.

    With a SUITE, the exit code is 2 if that suite cannot run.
    """
    from dataclasses import asdict

    from evalkit.locations import suite_folders
    from evalkit.runner.doctor import check_suite, machine_checks

    with report_errors():
        findings = {"machine": machine_checks()}
        with console(stderr=True).status("checking ..."):
            findings |= {name: check_suite(name) for name in ([suite] if suite else suite_folders())}
        if as_json:
            typer.echo(json.dumps({name: [asdict(c) for c in checks] for name, checks in findings.items()}, indent=1))
        else:
            out = console(stderr=False)
            for name, checks in findings.items():
                out.print(name, style="bold", markup=False)
                for check in checks:
                    mark = "[green]✓[/green]" if check.ok else "[red]✗[/red]"
                    out.print(f"  {mark} {check.what:<12} ", end="")
                    out.print(check.seen, markup=False, highlight=False, soft_wrap=True)
        if suite and not all(check.ok for check in findings[suite]):
            raise typer.Exit(FAILED)
