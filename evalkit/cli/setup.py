"""`evalkit setup`: build a suite's environment and get its assets."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from evalkit.cli._common import console, report_errors
from evalkit.cli._options import SuiteName


def setup(
    suite: SuiteName,
    assets: Annotated[Path | None, typer.Option(metavar="DIR", help="Use this copy of the suite's assets.")] = None,
    source: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Use the checkouts of upstream code in this folder.")
    ] = None,
) -> None:
    """Build a suite's isolated Python environment, and get its assets.

    Safe to repeat: finished parts are kept.
    """
    from evalkit.setup.assets import assets_folder, download_assets, set_assets
    from evalkit.setup.environment import Environment
    from evalkit.setup.sources import checkouts, fetch_sources, use_source
    from evalkit.suite import load_suite

    err = console(stderr=True)
    with report_errors():
        loaded = load_suite(suite)
        if source is not None:
            use_source(loaded, source)
        if assets is not None:
            set_assets(loaded, assets)
        environment = Environment.of(loaded)

        def note(text: str) -> None:
            err.print(text, highlight=False, soft_wrap=True)

        with err.status(f"setting up {loaded.name} ..."):
            built = environment.build(note)
            if loaded.assets and assets_folder(loaded) is None:
                set_assets(loaded, download_assets(loaded, note))
            fetch_sources(loaded, note)
            checkouts(loaded)
        where = environment.folder or "evalkit's own environment"
        err.print(f"{loaded.name} is {'ready' if built else 'ready already'}: {where}", highlight=False, soft_wrap=True)
