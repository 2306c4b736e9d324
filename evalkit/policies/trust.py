"""Confirmation of a checkpoint on the Hugging Face hub: its commit is found, and its code shown to the user, once.

The answer is kept in a lock file (:mod:`evalkit.policies.lock`). Later uses take the commit from there, hold the files
to it and need no network. Nothing here imports or runs a file of the checkpoint.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path

from evalkit.errors import EnvironmentProblem, UsageError
from evalkit.locations import home_folder
from evalkit.policies import hub
from evalkit.policies.checkpoint import Checkpoint, HubParameters
from evalkit.policies.hub import HubFile, Snapshot
from evalkit.policies.hub_errors import HubUnreachable
from evalkit.policies.lock import (
    LOCK_NAME,
    By,
    Lock,
    LockedCode,
    LockedCommit,
    check_writable,
    code_changes,
    one_at_a_time,
    read_lock,
    write_lock,
)
from evalkit.policies.question import Question
from evalkit.policies.remote_code import code_digest, code_files, references

_CODE = (".py", ".json")  # JSON files refer to the code


@dataclass(frozen=True)
class Trust:
    """The way to an answer to the question whether a checkpoint's code may run.

    Attributes:
        yes: the answer is yes, for code that was never confirmed; not for code that changed under a confirmed commit.
        lock: the lock file; ``evalkit.lock`` in evalkit's home folder if None.
        ask: shows the question and returns the user's answer; None if nobody can be asked.
        note: shows a line about the download.
        undisturbed: returns a context in which no live display is drawn.
    """

    yes: bool = False
    lock: Path | None = None
    ask: Callable[[str], bool] | None = None
    note: Callable[[str], None] = lambda text: None
    undisturbed: Callable[[], AbstractContextManager[object]] = contextlib.nullcontext

    @property
    def path(self) -> Path:
        """The lock file in effect."""
        return self.lock if self.lock is not None else home_folder() / LOCK_NAME


def confirm(checkpoint: Checkpoint, trust: Trust) -> Checkpoint:
    """Return the checkpoint at a full commit whose code the user allowed to run, with all its files on this machine.

    A checkpoint that is no repository on the hub is returned as it is.

    Raises:
        UsageError: the code was not allowed to run, there is no access to the repository, or the lock file is damaged.
        EnvironmentProblem: the hub cannot be reached, a download failed, or the disk is too small.
    """
    asked = checkpoint.hub_parameters()
    if asked is None:
        return checkpoint
    found = _on_this_machine(asked, read_lock(trust.path))
    if found is None:
        with trust.undisturbed():
            waiting = f"waiting for another evalkit, which writes {trust.path}"
            with one_at_a_time(trust.path, lambda: trust.note(waiting)):
                snapshot, entry = _confirmed(checkpoint, asked, trust)
            hub.fetch(snapshot)
        found = snapshot.commit, _checked(snapshot, entry)
    commit, entry = found
    pinned = {"revision": commit, "trust_remote_code": bool(entry.code), "code_sha256": code_digest(entry.digests())}
    return replace(checkpoint, parameters={**checkpoint.parameters, **pinned})


def _on_this_machine(asked: HubParameters, lock: Lock) -> tuple[str, LockedCommit] | None:
    """Return the confirmed commit if all its files are here, its code unchanged; else None."""
    commit = lock.commit_of(asked.source, asked.revision)
    entry = lock.confirmed(asked.source, commit) if commit else None
    if commit is None or entry is None:
        return None
    _check_allowed(asked, entry.code)
    folder = Snapshot(asked.source, commit, None).folder
    same = entry.missing_file(folder) is None and code_files(folder) == entry.digests()
    return (commit, entry) if same else None


def _confirmed(checkpoint: Checkpoint, asked: HubParameters, trust: Trust) -> tuple[Snapshot, LockedCommit]:
    """Return the snapshot, whose code is on this machine, and its entry in the lock file, asked for if need be."""
    lock = read_lock(trust.path)  # another process may have written it meanwhile
    commit = lock.commit_of(asked.source, asked.revision)
    snapshot = _snapshot(checkpoint, asked.source, commit or asked.revision)
    space = hub.check_space(snapshot)
    hub.fetch(snapshot, _CODE)
    references(snapshot.folder)
    code = _listing(snapshot.folder)
    _check_allowed(asked, code)
    known = lock.confirmed(asked.source, snapshot.commit)
    if known is None or known.code != code:
        check_writable(trust.path)
        by = _answer(Question(checkpoint, asked, snapshot, code, lock, trust.path, space), trust)
        others = {name: file.size for name, file in _files(snapshot).items() if not name.endswith(".py")}
        now = datetime.now(timezone.utc).isoformat(timespec="seconds")
        entry = LockedCommit(code=code, files=others, confirmed=now, by=by)
    else:
        entry = known
    if entry is not known or commit is None:
        write_lock(trust.path, lock.having(asked.source, asked.revision, snapshot.commit, entry))
    return snapshot, entry


def _snapshot(checkpoint: Checkpoint, source: str, revision: str | None) -> Snapshot:
    """Return the snapshot of a revision: the hub's, or without a connection the one that was downloaded last."""
    try:
        return hub.resolve(source, revision)
    except HubUnreachable as error:
        found = hub.resolve_offline(source, revision)
        if found is not None:
            return found
        name = checkpoint.asked or checkpoint.id
        no_directory = f" (and there is no directory {source})" if name == source else ""
        raise EnvironmentProblem(
            f"its weights are not (all) on this machine: {error}{no_directory}; repeat the command with a connection, "
            f"or name a copy (--checkpoint {name}:source=DIR)"
        ) from error
    except UsageError as error:
        no_directory = f" (and there is no directory {source})" if checkpoint.asked == source else ""
        raise UsageError(f"{error}{no_directory}") from error


def _files(snapshot: Snapshot) -> Mapping[str, HubFile]:
    """Return the files of a snapshot: as the hub states them, or those on this machine if it was not asked."""
    if snapshot.files is not None:
        return snapshot.files
    paths = [path for path in sorted(snapshot.folder.rglob("*")) if path.is_file()]
    return {path.relative_to(snapshot.folder).as_posix(): HubFile(path.stat().st_size, None, None) for path in paths}


def _listing(folder: Path) -> dict[str, LockedCode]:
    """Return the Python files of a folder with their hashes and sizes."""
    return {
        name: LockedCode(sha256=sha256, size=(folder / name).stat().st_size)
        for name, sha256 in code_files(folder).items()
    }


def _checked(snapshot: Snapshot, entry: LockedCommit) -> LockedCommit:
    """Return the entry. Raises EnvironmentProblem if the files on this machine are not those that it lists."""
    missing = entry.missing_file(snapshot.folder)
    if missing:
        raise EnvironmentProblem(
            f"its weights are not (all) on this machine: {snapshot.folder / missing} is missing or has another size "
            "than the lock file states; repeat the command with a connection"
        )
    changes = code_changes(entry.digests(), code_files(snapshot.folder))
    if changes:
        raise EnvironmentProblem(f"{snapshot.folder / changes[0][1]}: was {changes[0][0]} after it was confirmed")
    return entry


def _check_allowed(asked: HubParameters, code: Mapping[str, LockedCode]) -> None:
    """Raise UsageError if there is code and the user said that none may run."""
    if code and "trust_remote_code" in asked.model_fields_set and not asked.trust_remote_code:
        raise UsageError(f"{asked.source} contains Python code, and trust_remote_code is false")


def _answer(question: Question, trust: Trust) -> By:
    """Return the way in which the code was allowed to run. Raises UsageError if it was not."""
    if not question.code:
        return "no code to run"
    if not question.altered:
        if trust.yes:
            return "--trust-remote-code"
        if question.asked.trust_remote_code:
            return "trust_remote_code=true"
    if trust.ask is None:
        raise UsageError(question.refusal())
    if not trust.ask(question.text()):
        raise UsageError(f"{question.snapshot.repository}: its code was not allowed to run")
    return "an answer on the terminal"
