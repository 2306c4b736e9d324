"""Progress displays of a run: live in a terminal, plain lines elsewhere, or none."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
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

from evalkit.records.record import Record, Verdict

_MAX_LINES = 20  # plain lines per run, without notes


class _Counts:
    """Counts of successes, failures and errors so far."""

    def __init__(self) -> None:
        self.solved = self.failed = self.errors = 0
        self.subtasks: int | None = None  # solved sub-tasks, if episodes are chains

    def add(self, record: Verdict) -> None:
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
        finished = self.solved + self.failed
        rate = f"success {100 * self.solved / finished:5.1f} %" if finished else "success     – "
        rate += f" · average length {self.subtasks / finished:.2f}" if finished and self.subtasks is not None else ""
        return rate + (f" · {self.errors} errors" if self.errors else "")


class LiveProgress:
    """A progress bar with the running success rate and the time left. Use as a context manager."""

    def __init__(self, console: Console, title: str) -> None:
        self.folder: Path | None = None
        self._console = console
        self._title = title
        self._counts = _Counts()
        self._bar = Progress(
            TextColumn("{task.description}", style="bold", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[counts]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(compact=True),
            console=console,
            transient=True,
        )
        self._task: TaskID = self._bar.add_task(f"{title}: starting", total=None, counts="")

    def begin(self, folder: Path, total: int, records: Sequence[Verdict]) -> None:
        """See :class:`evalkit.runner.recorder.Progress`."""
        for record in records:
            self._counts.add(record)
        self.folder = folder
        self._bar.reset(self._task, total=total, completed=len(records), description=self._title)
        self._bar.update(self._task, counts=self._counts.text())

    def record(self, record: Record) -> None:
        """See :class:`evalkit.runner.recorder.Progress`."""
        self._counts.add(record)
        if record.error:
            self.note(f"{record.episode.id}: {record.error['kind']}: {record.error['message']}")
        self._bar.update(self._task, advance=1, counts=self._counts.text())

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

    @contextlib.contextmanager
    def suspended(self) -> Iterator[None]:
        """Leave the terminal to others meanwhile: a question, or the progress of a download."""
        self._bar.stop()
        try:
            yield
        finally:
            self._bar.start()


class PlainProgress:
    """At most 20 plain lines per run, for logs. Use as a context manager."""

    def __init__(self, console: Console, title: str) -> None:
        self.folder: Path | None = None
        self._console = console
        self._title = title
        self._counts = _Counts()
        self._total = 0
        self._before = 0
        self._began = time.monotonic()

    def begin(self, folder: Path, total: int, records: Sequence[Verdict]) -> None:
        """See :class:`evalkit.runner.recorder.Progress`."""
        for record in records:
            self._counts.add(record)
        self._total, self._before, self._began = total, len(records), time.monotonic()
        self.folder = folder
        done = f", {len(records)} done before" if records else ""
        self._print(f"{self._title}: {total} episodes{done}, into {folder}")

    def record(self, record: Record) -> None:
        """See :class:`evalkit.runner.recorder.Progress`."""
        self._counts.add(record)
        if record.error:
            self.note(f"{record.episode.id}: {record.error['kind']}: {record.error['message']}")
        every = max(1, self._total // _MAX_LINES)
        if self._counts.done % every == 0 or self._counts.done == self._total:
            elapsed = time.monotonic() - self._began
            left = elapsed / (self._counts.done - self._before) * (self._total - self._counts.done)
            times = f"{_clock(elapsed)} elapsed, {_clock(left)} left"
            self._print(f"{self._counts.done}/{self._total} · {self._counts.text()} · {times}")

    def note(self, text: str) -> None:
        """See :class:`evalkit.runner.recorder.Progress`."""
        self._print(f"! {text}")

    def __enter__(self) -> PlainProgress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    def suspended(self) -> contextlib.AbstractContextManager[None]:
        """Return a context that does nothing: plain lines disturb nobody."""
        return contextlib.nullcontext()

    def _print(self, text: str) -> None:
        with contextlib.suppress(OSError):  # a closed pipe or a full disk must not end a run
            self._console.print(text, highlight=False, markup=False, soft_wrap=True)


class Silent:
    """A progress display that shows nothing, for use from Python."""

    def begin(self, folder: Path, total: int, records: Sequence[Verdict]) -> None:
        """See :class:`evalkit.runner.recorder.Progress`."""

    def record(self, record: Record) -> None:
        """See :class:`evalkit.runner.recorder.Progress`."""

    def note(self, text: str) -> None:
        """See :class:`evalkit.runner.recorder.Progress`."""


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
