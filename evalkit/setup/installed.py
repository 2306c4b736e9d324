"""A suite with everything of it that is on this machine, looked up once a run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from evalkit.setup.assets import assets_folder
from evalkit.setup.environment import Environment
from evalkit.setup.sources import Checkout, checkouts
from evalkit.suite import Suite, load_suite


@dataclass(frozen=True)
class InstalledSuite:
    """A suite, and the places of its parts.

    Attributes:
        suite: the suite under its protocol.
        environment: its Python environment, which is built.
        assets: its asset folder, or None if it carries its own or none was found.
        sources: its checkouts of upstream code, by name.
    """

    suite: Suite
    environment: Environment
    assets: Path | None
    sources: Mapping[str, Checkout]

    @classmethod
    def find(cls, suite: str | Suite) -> InstalledSuite:
        """Look up a suite and its parts.

        Args:
            suite: a suite, or its name or folder.

        Raises:
            UsageError: there is no such suite, or a file of it is wrong.
            EnvironmentProblem: its environment is not built, or a checkout is missing or at another commit.
        """
        loaded = load_suite(suite)
        environment = Environment.of(loaded)
        environment.require()
        return cls(loaded, environment, assets_folder(loaded), checkouts(loaded))
