"""The command line: one command, one file. Each parses, calls one function and prints."""

from __future__ import annotations

import io
import sys
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from evalkit.cli._common import FAILED, explain_defect, report_errors
from evalkit.cli.baseline import accept, list_baselines
from evalkit.cli.bench import bench
from evalkit.cli.compare import compare
from evalkit.cli.doctor import doctor
from evalkit.cli.gate import gate
from evalkit.cli.import_ import import_
from evalkit.cli.list import list_
from evalkit.cli.plan import plan
from evalkit.cli.run import run
from evalkit.cli.serve import serve
from evalkit.cli.setup import setup
from evalkit.cli.sweep import sweep
from evalkit.cli.table import table
from evalkit.cli.timeline import timeline


class Commands(TyperGroup):
    """The commands. Options that the parser refuses, and errors before a command's own code, are one line too."""

    def make_context(self, *args: Any, **more: Any) -> Any:
        """Parse the options before the command's name."""
        with report_errors():
            return super().make_context(*args, **more)

    def invoke(self, *args: Any, **more: Any) -> Any:
        """Run the command."""
        with report_errors():
            return super().invoke(*args, **more)


app = typer.Typer(
    name="evalkit",
    cls=Commands,
    help="Evaluate Vision-Language-Action robot policies: run a checkpoint through a benchmark, get the table.",
    epilog="First steps:  evalkit setup metaworld  ·  evalkit run metaworld --checkpoint oracle",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)

app.command("list")(list_)
for _command in (setup, doctor, run, table, serve, sweep, timeline, compare, gate, plan):
    app.command()(_command)
_baseline = typer.Typer(
    help="Accept a run as the baseline of later gates, and list the accepted ones.", no_args_is_help=True
)
_baseline.command("accept")(accept)
_baseline.command("list")(list_baselines)
app.add_typer(_baseline, name="baseline")
app.command("import")(import_)
app.command()(bench)


def version(requested: bool) -> None:
    """Print the version and exit, if ``--version`` was given."""
    if requested:
        from evalkit.locations import own_version

        typer.echo(f"evalkit {own_version()}")
        raise typer.Exit


@app.callback()
def root(
    requested: Annotated[
        bool, typer.Option("--version", callback=version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Evaluate Vision-Language-Action robot policies: run a checkpoint through a benchmark, get the table."""


def main() -> None:
    """Run the command line and exit. Exit code 1 is given by a gate alone; whatever goes wrong has another."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a locale without these characters must not end a run
    try:
        app()
    except SystemExit as end:
        if end.code == 1 and not isinstance(end.__context__, typer.Exit):  # the library's own code for a closed pipe
            raise SystemExit(FAILED) from end
        raise
    except Exception as error:
        raise SystemExit(explain_defect(error)) from None
