"""`evalkit setup`: build the environment of a suite, with its assets, or of a family of policies."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from evalkit.cli._common import console, report_errors


def setup(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="A suite or its folder, or a family of policies (evalkit list).")
    ],
    assets: Annotated[Path | None, typer.Option(metavar="DIR", help="Use this copy of the suite's assets.")] = None,
    source: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Use the checkouts of upstream code in this folder.")
    ] = None,
    torch: Annotated[
        str | None,
        typer.Option(
            metavar="ARGS",
            help="For a family: the torch to install, as arguments of pip, for example 'torch==2.8.0 --index-url "
            "https://download.pytorch.org/whl/cpu'. Default: the family's version from pip's own index. Kept until "
            "another is named.",
        ),
    ] = None,
) -> None:
    """Build the isolated Python environment of a suite or of a family of policies, and get a suite's assets.

    Safe to repeat: finished parts are kept.
    """
    from evalkit.errors import UsageError
    from evalkit.policies.process.family import families
    from evalkit.setup.assets import assets_folder, download_assets, set_assets
    from evalkit.setup.environment import Environment
    from evalkit.setup.sources import checkouts, fetch_sources, use_source
    from evalkit.suite import load_suite

    err = console(stderr=True)

    def note(text: str) -> None:
        err.print(text, highlight=False, soft_wrap=True)

    with report_errors():
        if name in families():
            if assets is not None or source is not None:
                raise UsageError(f"--assets, --source: {name} is a family of policies, which has neither")
            environment = families()[name].environment
            with err.status(f"setting up {name} ..."):
                built = environment.build(note, shlex.split(torch) if torch is not None else None)
            note(f"{name} is {'ready' if built else 'ready already'}: {environment.folder}")
            return
        if torch is not None:
            raise UsageError(f"--torch: {name} is no family of policies; there are: {', '.join(families())}")
        loaded = load_suite(name)
        if source is not None:
            use_source(loaded, source)
        if assets is not None:
            set_assets(loaded, assets)
        environment = Environment.of(loaded)
        with err.status(f"setting up {loaded.name} ..."):
            built = environment.build(note)
            if loaded.assets and assets_folder(loaded) is None:
                set_assets(loaded, download_assets(loaded, note))
            fetch_sources(loaded, note)
            checkouts(loaded)
        where = environment.folder or "evalkit's own environment"
        err.print(f"{loaded.name} is {'ready' if built else 'ready already'}: {where}", highlight=False, soft_wrap=True)
