"""The recorder of a run's results: first to the journal, then to the display and the videos."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from evalkit.episode import Episode
from evalkit.errors import excerpt
from evalkit.locations import naming
from evalkit.records.journal import Journal
from evalkit.records.manifest import now
from evalkit.records.record import Record, Verdict
from evalkit.runner.video import VideoWriter

if TYPE_CHECKING:
    from evalkit.runner.resolve import ResolvedRun


class Progress(Protocol):
    """A display of a run's progress."""

    def begin(self, folder: Path, total: int, records: Sequence[Verdict]) -> None:
        """Show the start of a run of ``total`` episodes; ``records`` are those that it already has."""

    def record(self, record: Record) -> None:
        """Show one more record."""

    def note(self, text: str) -> None:
        """Show one line for the user."""


class Recorder:
    """Receiver of a run's results, see :class:`evalkit.runner.scheduler.RunEvents`."""

    def __init__(
        self,
        run: ResolvedRun,
        journal: Journal,
        progress: Progress,
        on_record: Callable[[Verdict], None] | None = None,
    ) -> None:
        self._run = run
        self._journal = journal
        self._progress = progress
        self._on_record = on_record
        self._writers: dict[Episode, VideoWriter] = {}

    def finished(self, record: Record) -> None:
        """Record an episode. One that was repeated for its video alone is not recorded twice."""
        before = self._journal.records.get(record.episode)
        if before is not None and before.success is not None:
            if not before.same_outcome(record):
                self._progress.note(f"{record.episode.id}: its repetition for the video ended differently")
            return
        self._journal.append(record)
        self._progress.record(record)
        if self._on_record:
            self._on_record(record)

    def wants_video(self, record: Verdict) -> bool:
        """Return True if the episode should have a video and has none."""
        wanted = self._run.video == "all" or (self._run.video == "failures" and record.success is False)
        return wanted and not self._path(record).exists()

    def video_frame(self, record: Record, image: np.ndarray) -> None:
        """Add a frame to the episode's video."""
        if record.episode not in self._writers:
            assert self._run.suite.video is not None
            self._writers[record.episode] = VideoWriter(self._path(record), self._run.suite.video.fps)
        with naming(self._path(record)):
            self._writers[record.episode].add(image)

    def video_lost(self, record: Record, reason: str) -> None:
        """Discard the episode's video."""
        if record.episode in self._writers:
            self._writers.pop(record.episode).close(keep=False)
        self._progress.note(f"{record.episode.id}: no video ({reason}); --resume retries it")

    def policy_warning(self, text: str) -> None:
        """Write a warning of the policy to the run's folder, and show it."""
        text, path = excerpt(text), self._run.folder.policy_log
        with naming(path), path.open("a", encoding="utf-8") as log:
            log.write(f"{now()} {text}\n")
        self._progress.note(text)

    def video_done(self, record: Record, digest: str) -> None:
        """Finish the episode's video, and report a replay that deviates from the episode."""
        with naming(self._path(record)):
            self._writers.pop(record.episode).close()
        if digest != record.digest:
            self._progress.note(
                f"{record.episode.id}: the replay for its video ended in another state: not deterministic here"
            )

    def _path(self, record: Verdict) -> Path:
        return self._run.folder.video(record.episode, record.success)
