"""Checkouts, at a fixed commit, of upstream code that a suite runs and no package registry has."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from evalkit.descendants import MARK, Guard
from evalkit.errors import EnvironmentProblem, UsageError, excerpt
from evalkit.locations import expanded, given_folder, home_folder, remember_folder
from evalkit.suite import Repository, Suite


@dataclass(frozen=True)
class Checkout:
    """A repository's files on this machine.

    Attributes:
        folder: its root.
        commit: its commit; None if it is not a git checkout, or git is not installed.
        changed: True if files in it differ from that commit.
    """

    folder: Path
    commit: str | None
    changed: bool


def checkouts(suite: Suite) -> dict[str, Checkout]:
    """Return the suite's checkouts by name; empty for a suite that needs none.

    The places, in order: the folder of the suite's environment variable, the folder given to
    ``evalkit setup --source``, and evalkit's own folder of fetched checkouts.

    Raises:
        EnvironmentProblem: a checkout is missing or at another commit; the message says what to do.
    """
    if suite.sources is None:
        return {}
    given = given_folder(suite.name, "source", suite.sources.variable)
    found = {}
    for name, repository in suite.sources.repositories.items():
        folder = _search(given, name, repository) if given else _fetched(name, repository)
        if folder is None or not (folder / repository.marker).is_file():
            where = f"is not in {given}" if given else "is not here"
            raise EnvironmentProblem(
                f"{suite.name}: the checkout of {name} {where}: run `evalkit setup {suite.name}`, or give a local copy "
                f"with `evalkit setup {suite.name} --source DIR` or {suite.sources.variable}"
            )
        found[name] = _checked(name, repository, folder)
    return found


def use_source(suite: Suite, folder: Path) -> None:
    """Record a folder with the suite's checkouts. Raises UsageError or EnvironmentProblem if a checkout is missing."""
    if suite.sources is None:
        raise UsageError(f"--source: {suite.name} is installed from a package registry and takes no checkout")
    folder = expanded(folder).absolute()
    if not folder.is_dir():
        raise UsageError(f"--source {folder}: no such folder")
    for name, repository in suite.sources.repositories.items():
        found = _search(folder, name, repository)
        if found is None:
            raise UsageError(
                f"--source {folder}: no checkout of {name} there ({name}/{repository.marker}): "
                f"git clone {repository.url} {folder / name}"
            )
        _checked(name, repository, found)
    remember_folder(suite.name, "source", folder)


def fetch_sources(suite: Suite, say: Callable[[str], None]) -> None:
    """Fetch with git the missing checkouts that neither the variable nor ``--source`` provides.

    Raises:
        EnvironmentProblem: git is not installed, or the fetch failed.
    """
    if suite.sources is None or given_folder(suite.name, "source", suite.sources.variable):
        return
    for name, repository in suite.sources.repositories.items():
        target = _fetched(name, repository)
        if (target / repository.marker).is_file():
            continue
        say(f"fetching {repository.url} at {repository.commit[:12]}")
        draft = target.with_name(f"{target.name}.{os.getpid()}")
        shutil.rmtree(draft, ignore_errors=True)
        try:
            draft.mkdir(parents=True)
            with Guard() as guard:  # a killed setup leaves no download behind
                for command in (["init", "-q"], ["fetch", "-q", "--depth", "1", repository.url, repository.commit]):
                    _git(draft, *command, mark=guard.mark())
                _git(draft, "checkout", "-q", "FETCH_HEAD", mark=guard.mark())
            shutil.rmtree(target, ignore_errors=True)
            draft.replace(target)
        except (OSError, subprocess.CalledProcessError) as error:
            shutil.rmtree(draft, ignore_errors=True)
            said = (getattr(error, "stderr", "") or str(error)).strip().splitlines()
            why = excerpt(said[-1] if said else error)
            raise EnvironmentProblem(
                f"{suite.name}: {repository.url} could not be fetched ({why}); give a local "
                f"copy with `evalkit setup {suite.name} --source DIR` or {suite.sources.variable}"
            ) from error


def describe_sources(found: Mapping[str, Checkout]) -> tuple[dict[str, str], list[str]]:
    """Return, for the manifest, commits by name and the reasons why results with them are not comparable."""
    commits = {name: (c.commit or "unknown") + ("+changes" if c.changed else "") for name, c in found.items()}
    unknown = [f"{name} is not a git checkout: its commit is unknown" for name, c in found.items() if c.commit is None]
    changed = [f"{name} has local changes" for name, c in found.items() if c.changed]
    return commits, unknown + changed


def _search(folder: Path, name: str, repository: Repository) -> Path | None:
    places = [folder, folder / name, *sorted(folder.glob(f"*/{name}"))]
    return next((place for place in places if (place / repository.marker).is_file()), None)


def _fetched(name: str, repository: Repository) -> Path:
    return home_folder() / "sources" / f"{name}-{repository.commit[:12]}"


def _checked(name: str, repository: Repository, folder: Path) -> Checkout:
    """Return the checkout at ``folder``. Raises EnvironmentProblem if its commit is not the suite's."""
    try:
        root = _git(folder, "rev-parse", "--show-toplevel")
        if Path(root).resolve() != folder.resolve():  # a copy inside some other repository
            return Checkout(folder, None, False)
        commit = _git(folder, "rev-parse", "HEAD")
        changed = bool(_git(folder, "status", "--porcelain", "--untracked-files=no", "--ignore-submodules"))
    except (OSError, subprocess.CalledProcessError):
        return Checkout(folder, None, False)
    if commit != repository.commit:
        raise EnvironmentProblem(
            f"{folder} is {name} at commit {commit[:12]}, and the suite is made for {repository.commit[:12]}: "
            f"git -C {folder} checkout {repository.commit}"
        )
    return Checkout(folder, commit, changed)


def _git(folder: Path, *command: str, mark: str = "") -> str:
    """Return git's output. ``safe.directory``: a checkout may belong to another user, as in a container."""
    whole = ["git", "-c", "safe.directory=*", "-C", str(folder), *command]
    variables = {**os.environ, "GIT_TERMINAL_PROMPT": "0", MARK: mark}
    return subprocess.run(
        whole, check=True, capture_output=True, text=True, stdin=subprocess.DEVNULL, env=variables
    ).stdout.strip()
