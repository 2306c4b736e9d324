"""Families of policies: folders with ``family.yaml``, ``requirements.txt`` and the code of their policies."""

from __future__ import annotations

import os
from dataclasses import dataclass
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

from pydantic import Field, StringConstraints

from evalkit.documents import Section, parse, read_yaml
from evalkit.errors import EnvironmentProblem, UsageError, unknown
from evalkit.locations import package_folder
from evalkit.setup.environment import Environment

GROUP = "evalkit.policies"  # entry points of other packages: family name → package


class FamilyFile(Section):
    """The file ``family.yaml``."""

    name: Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_-]*$")] = Field(
        description="name of the family, for `evalkit setup`"
    )
    title: str = Field(description="name for people")
    summary: str = Field(description="one line for people")
    libraries: list[str] = Field(
        min_length=1, description="modules without which its policies cannot run; the first decides"
    )
    python: list[Annotated[str, StringConstraints(pattern=r"^3\.\d+$")]] = Field(
        [], description='Python versions that the packages support, such as `"3.11"`; any by default'
    )
    first: list[str] = Field(
        [],
        description="packages to install first, with their dependencies; `evalkit setup --torch` replaces them",
    )


@dataclass(frozen=True)
class Family:
    """A family of policies, and the folder that defines it.

    Attributes:
        file: the content of ``family.yaml``.
        folder: the folder of ``family.yaml``, which is a package.
    """

    file: FamilyFile
    folder: Path

    @property
    def name(self) -> str:
        """The family's name."""
        return self.file.name

    @property
    def environment(self) -> Environment:
        """Its Python environment, built or not."""
        return Environment.in_folder(self.name, self.folder, self.name, self.file.python, self.file.first)

    @property
    def built(self) -> bool:
        """True if it has an environment of its own, which is built; False also where there is no place for one."""
        try:
            return self.environment.folder is not None and self.environment.ready
        except EnvironmentProblem:
            return False

    @property
    def importable(self) -> bool:
        """True if evalkit's own environment has the libraries, so that its policies could run in this process."""
        return all(find_spec(library) is not None for library in self.file.libraries)


def families() -> dict[str, Family]:
    """Return every family by name: evalkit's own, then those of installed packages."""
    own = [_read(path.parent) for path in sorted((package_folder() / "policies").glob("*/family.yaml"))]
    theirs = [_read(_package(entry.value)) for entry in entry_points(group=GROUP)]
    return {family.name: family for family in [*theirs, *own]}


def find_family(name: str) -> Family:
    """Return a family by its name. Raises UsageError that names the nearest ones."""
    known = families()
    if name not in known:
        raise unknown("family", name, known)
    return known[name]


def family_of(policy: str) -> Family | None:
    """Return the family that a factory ``module:name`` belongs to: that of its module's package, or None."""
    module = policy.partition(":")[0]
    while module:
        try:
            spec = find_spec(module)
        except (ImportError, ValueError):
            return None
        places = list(spec.submodule_search_locations or []) if spec else []
        if places and Path(places[0], "family.yaml").is_file():
            return _read(Path(places[0]))
        module = module.rpartition(".")[0]
    return None


def _read(folder: Path) -> Family:
    file = folder / "family.yaml"
    return Family(parse(FamilyFile, read_yaml(file), file), folder)


def _package(name: str) -> Path:
    spec = find_spec(name)
    places = list(spec.submodule_search_locations or []) if spec else []
    if not places or not Path(places[0], "family.yaml").is_file():
        raise UsageError(f"entry point {name!r} in group {GROUP}: no family.yaml there")
    return Path(os.fspath(places[0]))
