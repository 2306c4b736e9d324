"""The layout of a run folder. Every file of a run is named here and nowhere else."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from evalkit.episode import Episode


@dataclass(frozen=True)
class RunFolder:
    """The files of one run.

    Attributes:
        root: the run's folder, as the user named it.
    """

    root: Path

    @property
    def manifest(self) -> Path:
        """``manifest.json``, written before the first episode."""
        return self.root / "manifest.json"

    @property
    def journal(self) -> Path:
        """``journal.jsonl``, one line per finished episode."""
        return self.root / "journal.jsonl"

    @property
    def logs(self) -> Path:
        """``logs/``, the output of the simulators and the policy."""
        return self.root / "logs"

    @property
    def policy_log(self) -> Path:
        """``logs/policy.log``, the policy's warnings and tracebacks."""
        return self.logs / "policy.log"

    @property
    def lock(self) -> Path:
        """``.lock``, held by the process at work in the folder."""
        return self.root / ".lock"

    @property
    def videos(self) -> Path:
        """``videos/``."""
        return self.root / "videos"

    def manifest_drafts(self) -> list[Path]:
        """Return the drafts of a manifest that killed processes left."""
        return list(self.root.glob(f".{self.manifest.name}.*"))

    def manifest_draft(self) -> Path:
        """Return the draft of this process's manifest."""
        return self.root / f".{self.manifest.name}.{os.getpid()}"

    @property
    def is_run(self) -> bool:
        """True if the folder holds a run: a manifest."""
        return self.manifest.is_file()

    def worker_log(self, number: int) -> Path:
        """Return ``logs/worker-<number>.log``."""
        return self.logs / f"worker-{number}.log"

    def video(self, episode: Episode, success: bool | None) -> Path:
        """Return ``videos/<split>/<task>/<scene>-<verdict>.mp4``."""
        verdict = "success" if success else "failure"
        repeat = f"-r{episode.repeat}" if episode.repeat else ""
        return self.videos / episode.split / episode.task / f"{episode.scene:03d}{repeat}-{verdict}.mp4"
