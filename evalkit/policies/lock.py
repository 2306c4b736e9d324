"""The file ``evalkit.lock``: the commit of each repository, and the code that the user allowed to run.

It is YAML, so that it can be read and committed. It is replaced as a whole and never changed in place.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Literal

import yaml
from pydantic import Field, StringConstraints, model_validator

from evalkit.documents import Section, parse, read_yaml
from evalkit.errors import UsageError
from evalkit.locations import home_folder
from evalkit.policies.hub import COMMIT, HUB_ID, inside

LOCK_NAME = "evalkit.lock"
HEAD = "HEAD"  # the revision of a repository that is named without one
_HEADER = "# Written by evalkit: commits of repositories on the Hugging Face hub, and the code that may run.\n"

Commit = Annotated[str, StringConstraints(pattern=COMMIT.pattern)]
Repository = Annotated[str, StringConstraints(pattern=HUB_ID.pattern)]
By = Literal["an answer on the terminal", "--trust-remote-code", "trust_remote_code=true", "no code to run"]


class LockedCode(Section):
    """A Python file."""

    sha256: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
    size: int = Field(ge=0)


class LockedCommit(Section):
    """A commit that was confirmed.

    Attributes:
        code: its Python files, by relative path.
        files: the sizes of its other files in bytes, None if the hub stated none.
        confirmed: the time, ISO 8601.
        by: the way it was confirmed.
    """

    code: dict[str, LockedCode]
    files: dict[str, int | None]
    confirmed: str
    by: By

    @model_validator(mode="after")
    def _stay_inside(self) -> LockedCommit:
        for name in (*self.code, *self.files):
            if not inside(name):
                raise ValueError(f"{name!r} is outside the repository's folder")
        return self

    def digests(self) -> dict[str, str]:
        """Return its code as :func:`evalkit.policies.remote_code.code_files` does."""
        return {name: file.sha256 for name, file in self.code.items()}

    def missing_file(self, folder: Path) -> str | None:
        """Return the first file that is not in ``folder`` in full, or None. Content is compared for code alone."""
        sizes = {**{name: file.size for name, file in self.code.items()}, **self.files}
        for name, size in sizes.items():
            path = folder / name
            if not path.is_file() or size not in (None, path.stat().st_size):
                return name
        return None


class LockedRepository(Section):
    """A repository.

    Attributes:
        revisions: the name that was asked for (a branch, a tag, HEAD for none) → its commit.
        commits: the confirmed commits, the last one last.
    """

    revisions: dict[str, Commit] = Field(default_factory=dict)
    commits: dict[Commit, LockedCommit] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _revisions_are_confirmed(self) -> LockedRepository:
        for name, commit in self.revisions.items():
            if commit not in self.commits:
                raise ValueError(f"revisions.{name}: commit {commit} is not among the commits")
        return self


class Lock(Section):
    """The content of a lock file."""

    version: Literal[1] = 1
    repositories: dict[Repository, LockedRepository] = Field(default_factory=dict)

    def commit_of(self, repository: str, revision: str | None) -> str | None:
        """Return the confirmed commit of a revision (HEAD if None), or None."""
        known = self.repositories.get(repository, LockedRepository())
        if revision is not None and COMMIT.match(revision):
            return revision if revision in known.commits else None
        return known.revisions.get(revision or HEAD)

    def confirmed(self, repository: str, commit: str) -> LockedCommit | None:
        """Return a commit if it was confirmed, or None."""
        return self.repositories.get(repository, LockedRepository()).commits.get(commit)

    def last(self, repository: str) -> str | None:
        """Return the commit that was confirmed last, or None."""
        return next(reversed(self.repositories.get(repository, LockedRepository()).commits), None)

    def having(self, repository: str, revision: str | None, commit: str, entry: LockedCommit) -> Lock:
        """Return a copy with a commit confirmed for a revision (HEAD if None)."""
        known = self.repositories.get(repository, LockedRepository())
        named = {} if revision is not None and COMMIT.match(revision) else {revision or HEAD: commit}
        commits = {**{name: one for name, one in known.commits.items() if name != commit}, commit: entry}
        changed = LockedRepository(revisions={**known.revisions, **named}, commits=commits)
        return Lock(repositories={**self.repositories, repository: changed})


def read_lock(path: Path) -> Lock:
    """Return the content of a lock file, empty if it does not exist. Raises UsageError if it is damaged."""
    if not path.exists():
        return Lock()
    try:
        return parse(Lock, read_yaml(path), path)
    except UsageError as error:
        raise UsageError(f"{error}; restore this lock file, or remove it and confirm again") from error


def write_lock(path: Path, lock: Lock) -> None:
    """Replace a lock file. Raises UsageError if it cannot be written."""
    target = path.resolve()  # a link stays a link
    content = yaml.safe_dump(lock.model_dump(mode="json"), sort_keys=False, allow_unicode=True, width=120)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(
            "w", encoding="utf-8", dir=target.parent, prefix=f".{target.name}.", delete=False
        ) as file:
            try:
                file.write(_HEADER + content)
                file.flush()
                os.fsync(file.fileno())
                Path(file.name).chmod(0o644)
                Path(file.name).replace(target)
            except BaseException:
                Path(file.name).unlink(missing_ok=True)
                raise
    except OSError as error:
        raise UsageError(f"{path}: the lock file cannot be written: {error.strerror}") from error


def check_writable(path: Path) -> None:
    """Raise UsageError if a lock file could not be written."""
    place = path.resolve().parent
    while not place.exists():
        place = place.parent
    if path.is_dir() or not place.is_dir() or not os.access(place, os.W_OK | os.X_OK):
        raise UsageError(f"{path}: the lock file cannot be written there; name another one with --lock FILE")


@contextlib.contextmanager
def one_at_a_time(path: Path, waiting: Callable[[], None]) -> Iterator[None]:
    """Hold the right to change a lock file, so that two processes do not ask the same question.

    Args:
        path: the lock file.
        waiting: called once if another process holds it.
    """
    folder = home_folder() / "locks"
    name = hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:16]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        guard = (folder / f"{name}.guard").open("w")
    except OSError as error:
        raise UsageError(f"{folder}: cannot be written: {error.strerror} (set EVALKIT_HOME)") from error
    with guard:
        try:
            fcntl.flock(guard, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            waiting()
            fcntl.flock(guard, fcntl.LOCK_EX)
        yield


def code_changes(before: Mapping[str, str], after: Mapping[str, str]) -> list[tuple[str, str]]:
    """Return (``changed``, ``added`` or ``removed``; file) for each file that differs between two listings of code."""
    kinds = [
        ("changed", [name for name in after if name in before and before[name] != after[name]]),
        ("added", [name for name in after if name not in before]),
        ("removed", [name for name in before if name not in after]),
    ]
    return [(kind, name) for kind, names in kinds for name in sorted(names)]
