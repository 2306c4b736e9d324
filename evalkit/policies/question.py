"""The question whether the Python code of a checkpoint may run, as text for a terminal and as a refusal without one."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from evalkit.errors import excerpt
from evalkit.policies.checkpoint import Checkpoint, HubParameters
from evalkit.policies.hub import Snapshot, in_words
from evalkit.policies.lock import LOCK_NAME, Lock, LockedCode, code_changes

_WIDTH = 78


@dataclass(frozen=True)
class Question:
    """The question whether a checkpoint's code may run.

    Attributes:
        checkpoint: the checkpoint.
        asked: its parameters.
        snapshot: its repository at a commit, with the code in its folder.
        code: its Python files.
        lock: the content of the lock file.
        path: the lock file.
        space: bytes to download, and bytes that are free.
    """

    checkpoint: Checkpoint
    asked: HubParameters
    snapshot: Snapshot
    code: Mapping[str, LockedCode]
    lock: Lock
    path: Path
    space: tuple[int, int]

    @property
    def altered(self) -> bool:
        """True if this very commit was confirmed with other code. The content of a commit never changes."""
        return self.lock.confirmed(self.snapshot.repository, self.snapshot.commit) is not None

    def changes(self) -> list[str]:
        """Return a line for each file that differs from the same commit as confirmed, or from the last one."""
        repository = self.snapshot.repository
        commit = self.snapshot.commit if self.altered else self.lock.last(repository)
        before = self.lock.confirmed(repository, commit) if commit else None
        if before is None:
            return []
        now = {name: file.sha256 for name, file in self.code.items()}
        return [f"{kind} {excerpt(name, 60)}" for kind, name in code_changes(before.digests(), now)]

    def refusal(self) -> str:
        """Return the message if nobody can be asked."""
        repository, commit = self.snapshot.repository, self.snapshot.commit
        if self.altered:
            return (
                f"{repository}: {', '.join(self.changes())} under commit {commit}, which {self.path} has with other "
                f"code: read it in {self.snapshot.folder}, then answer on a terminal; no option allows it"
            )
        return (
            f"{repository} at commit {commit} contains Python code, and there is no terminal to ask: read it in "
            f"{self.snapshot.folder}, then allow it with --trust-remote-code, or name a lock file that allows it "
            f"with --lock FILE{self._lock_here()}"
        )

    def text(self) -> str:
        """Return the question, for a terminal with 80 columns."""
        repository, commit = self.snapshot.repository, self.snapshot.commit
        width = min(44, max(len(name) for name in self.code))
        lines = [
            f"  {excerpt(name, 44):{width}}  {in_words(file.size):>9}  sha256 {file.sha256[:12]}"
            for name, file in sorted(self.code.items())
        ]
        paragraphs = [
            f"{repository} brings Python code, which would run as you.",
            f"  commit  {commit}\n  named   {excerpt(self.asked.revision or 'the default branch', 60)}",
            "\n".join(lines),
            f"Read it in\n{self.snapshot.folder}",
            *self._remarks(),
        ]
        return "\n\n".join(_filled(paragraph) for paragraph in paragraphs) + "\n\nRun this code? [y/N] "

    def _remarks(self) -> list[str]:
        remarks = []
        changes = "\n".join(f"  {line}" for line in self.changes())
        last = self.lock.last(self.snapshot.repository)
        if self.altered:
            remarks.append(
                "WARNING: you allowed this very commit with other code. A commit never changes: somebody replaced "
                f"files, on the hub or here.\n{changes}"
            )
        elif last is not None:
            remarks.append(f"You allowed commit {last}. Its code was\n{changes or '  the same'}")
        known = self.asked.known_revision
        if known is not None and self.asked.revision is None:
            if known["commit"] == self.snapshot.commit:
                remarks.append(f"{known['named_by']} names the same commit.")
            else:
                name = self.checkpoint.asked or self.checkpoint.id
                remarks.append(
                    f"{known['named_by']} names another commit, which evalkit's authors could not verify. To use it:\n"
                    f"  --checkpoint {name}:revision={known['commit']}"
                )
        if self.snapshot.files is None:
            remarks.append("The hub cannot be reached. This is the commit that was downloaded last.")
        missing, free = self.space
        download = f"{in_words(missing)} are to be downloaded, {in_words(free)} are free. " if missing else ""
        remarks.append(f"{download}The answer is kept in\n{self.path}{self._lock_here()}")
        return remarks

    def _lock_here(self) -> str:
        """Return a hint at a lock file in the current folder that is not in effect."""
        here = Path(LOCK_NAME)
        other = here.is_file() and here.resolve() != self.path.resolve()
        return f" (--lock {LOCK_NAME} takes the one in this folder)" if other else ""


def _filled(paragraph: str) -> str:
    """Return a paragraph with its sentences broken at 80 columns; lines with a path or in a column stay."""
    return "\n".join(
        line if line.startswith(("  ", "/")) else textwrap.fill(line, _WIDTH) for line in paragraph.split("\n")
    )
