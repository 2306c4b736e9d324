"""Where a run's results go as they come: the journal first, then the display and the videos."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal, Protocol

import numpy as np

from evalkit.episode import Episode
from evalkit.records.folder import RunFolder
from evalkit.records.journal import Journal, Record
from evalkit.records.manifest import now
from evalkit.runner.video import VideoWriter
from evalkit.suite import Suite

Video = Literal["none", "failures", "all"]


class Progress(Protocol):
    """Told how a run goes, for people to see."""

    def begin(self, folder: Path, total: int, records: Sequence[Record]) -> None:
        """The run's folder, how many episodes it has in all, and those that are there already."""

    def record(self, record: Record) -> None:
        """One more."""

    def note(self, text: str) -> None:
        """A line worth reading."""


class Recorder:
    """Writes results where they belong: the journal first, then the display and the videos."""

    def __init__(
        self,
        journal: Journal,
        progress: Progress,
        video: Video,
        out: Path,
        suite: Suite,
        on_record: Callable[[Record], None] | None = None,
    ) -> None:
        self._journal = journal
        self._progress = progress
        self._video = video
        self._out = out
        self._suite = suite
        self._on_record = on_record
        self._writers: dict[Episode, VideoWriter] = {}

    def finished(self, record: Record) -> None:
        """See :class:`evalkit.runner.scheduler.Watcher`. An episode played again for its video alone is not recorded twice."""
        before = self._journal.records.get(record.episode)
        if before is not None and before.error is None:
            if record.outcome() != before.outcome():
                self._progress.note(f"{record.episode.id}: ended otherwise when it was played again for its video")
            return
        self._journal.append(record)
        self._progress.record(record)
        if self._on_record:
            self._on_record(record)

    def wants_video(self, record: Record) -> bool:
        """Whether the episode is to have a video and has none."""
        wanted = self._video == "all" or (self._video == "failures" and record.success is False)
        return wanted and not self._path(record).exists()

    def video_frame(self, record: Record, image: np.ndarray) -> None:
        """See :class:`evalkit.runner.scheduler.Watcher`."""
        if record.episode not in self._writers:
            assert self._suite.video is not None
            self._writers[record.episode] = VideoWriter(self._path(record), self._suite.video.fps)
        self._writers[record.episode].add(image)

    def video_lost(self, record: Record, why: str) -> None:
        """See :class:`evalkit.runner.scheduler.Watcher`."""
        if record.episode in self._writers:
            self._writers.pop(record.episode).close(keep=False)
        self._progress.note(f"{record.episode.id}: no video ({why}); --resume tries again")

    def policy_warning(self, text: str) -> None:
        """See :class:`evalkit.runner.scheduler.Watcher`. Kept in the run's folder, and shown."""
        with RunFolder(self._out).policy_log.open("a", encoding="utf-8") as log:
            log.write(f"{now()} {text}\n")
        self._progress.note(text)

    def video_done(self, record: Record, digest: str) -> None:
        """See :class:`evalkit.runner.scheduler.Watcher`."""
        self._writers.pop(record.episode).close()
        if digest != record.digest:
            self._progress.note(
                f"{record.episode.id}: the replay for its video ended elsewhere: not deterministic here"
            )

    def _path(self, record: Record) -> Path:
        return RunFolder(self._out).video(record.episode, record.success)
