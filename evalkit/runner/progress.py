"""How a run goes, while it goes: a live display in a terminal, plain lines elsewhere, nothing where nobody reads."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from evalkit.records.journal import Record

_LINES = 20  # plain lines a run prints at most, notes apart


class _Tally:
    """Successes, failures and errors so far."""

    def __init__(self) -> None:
        self.solved = self.failed = self.errors = 0
        self.subtasks: int | None = None  # sub-tasks solved, where episodes are chains

    def add(self, record: Record) -> None:
        if record.subtasks:
            self.subtasks = (self.subtasks or 0) + sum(solved for _, solved in record.subtasks)
        if record.success is None:
            self.errors += 1
        elif record.success:
            self.solved += 1
        else:
            self.failed += 1

    @property
    def done(self) -> int:
        return self.solved + self.failed + self.errors

    def text(self) -> str:
        judged = self.solved + self.failed
        rate = f"success {100 * self.solved / judged:5.1f} %" if judged else "success     – "
        rate += f" · average length {self.subtasks / judged:.2f}" if judged and self.subtasks is not None else ""
        return rate + (f" · {self.errors} errors" if self.errors else "")


class LiveProgress:
    """A progress bar with the running success rate and the time left. Use as a context manager."""

    def __init__(self, console: Console, title: str) -> None:
        self.folder: Path | None = None
        self._console = console
        self._title = title
        self._tally = _Tally()
        self._bar = Progress(
            TextColumn("{task.description}", style="bold", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[tally]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(compact=True),
            console=console,
            transient=True,
        )
        self._task: TaskID = self._bar.add_task(f"{title}: starting", total=None, tally="")

    def begin(self, folder: Path, total: int, records: Sequence[Record]) -> None:
        """See :class:`evalkit.runner.recorder.Progress`."""
        for record in records:
            self._tally.add(record)
        self.folder = folder
        self._bar.reset(self._task, total=total, completed=len(records), description=self._title)
        self._bar.update(self._task, tally=self._tally.text())

    def record(self, record: Record) -> None:
        """See :class:`evalkit.runner.recorder.Progress`."""
        self._tally.add(record)
        if record.error:
            self.note(f"{record.episode.id}: {record.error['kind']}: {record.error['message']}")
        self._bar.update(self._task, advance=1, tally=self._tally.text())

    def note(self, text: str) -> None:
        """See :class:`evalkit.runner.recorder.Progress`."""
        self._console.print(f"! {text}", style="yellow", highlight=False, markup=False)

    def __enter__(self) -> LiveProgress:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()


class PlainProgress:
    """A line now and then, for logs. Use as a context manager."""

    def __init__(self, console: Console, title: str) -> None:
        self.folder: Path | None = None
        self._console = console
        self._title = title
        self._tally = _Tally()
        self._total = 0
        self._before = 0
        self._began = time.monotonic()

    def begin(self, folder: Path, total: int, records: Sequence[Record]) -> None:
        """See :class:`evalkit.runner.recorder.Progress`."""
        for record in records:
            self._tally.add(record)
        self._total, self._before, self._began = total, len(records), time.monotonic()
        self.folder = folder
        done = f", {len(records)} done before" if records else ""
        self._say(f"{self._title}: {total} episodes{done}, into {folder}")

    def record(self, record: Record) -> None:
        """See :class:`evalkit.runner.recorder.Progress`."""
        self._tally.add(record)
        if record.error:
            self.note(f"{record.episode.id}: {record.error['kind']}: {record.error['message']}")
        every = max(1, self._total // _LINES)
        if self._tally.done % every == 0 or self._tally.done == self._total:
            elapsed = time.monotonic() - self._began
            left = elapsed / (self._tally.done - self._before) * (self._total - self._tally.done)
            times = f"{_clock(elapsed)} elapsed, {_clock(left)} left"
            self._say(f"{self._tally.done}/{self._total} · {self._tally.text()} · {times}")

    def note(self, text: str) -> None:
        """See :class:`evalkit.runner.recorder.Progress`."""
        self._say(f"! {text}")

    def __enter__(self) -> PlainProgress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    def _say(self, text: str) -> None:
        with contextlib.suppress(OSError):  # nobody reads it, or the disk is full: no reason to end a run
            self._console.print(text, highlight=False, markup=False, soft_wrap=True)


class Silent:
    """Says nothing; for use from Python."""

    def begin(self, folder: Path, total: int, records: Sequence[Record]) -> None:
        """See :class:`evalkit.runner.recorder.Progress`."""

    def record(self, record: Record) -> None:
        """See :class:`evalkit.runner.recorder.Progress`."""

    def note(self, text: str) -> None:
        """See :class:`evalkit.runner.recorder.Progress`."""


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
