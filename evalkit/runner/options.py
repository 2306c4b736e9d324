"""The inputs of a run: its options, the candidate, and the rule that selects episodes while it plays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

from evalkit.episode import Episode
from evalkit.execution.delay import Delay
from evalkit.policies.trust import Trust
from evalkit.policy import Policy
from evalkit.records.manifest import Manifest
from evalkit.records.record import Verdict
from evalkit.suite import Suite

Video = Literal["none", "failures", "all"]


@dataclass(frozen=True)
class RunOptions:
    """The options of a run, by the names that the command line gives them.

    Attributes:
        suite: a suite's name, the path of its folder, or a Suite.
        checkpoint: ``ID`` or ``ID:key=value,...``; the suite's default if None.
        checkpoint_file: a file with the user's own checkpoints.
        settings: parameters of the checkpoint; they override those given with its name.
        trust: the way to an answer about the checkpoint's code; the lock file alone by default.
        splits: names of splits; the suite's default splits if empty.
        tasks: names or numbers of tasks; all tasks if empty.
        episodes: scenes per task; the protocol's number if None.
        repeats: attempts at each scene; the protocol's number if None.
        workers: worker processes; one per core if None.
        execution: name of the execution, one of :data:`evalkit.execution.NAMES`, or ``NAME:key=number,...``.
        horizon: control steps executed of each chunk; the execution's default if None.
        delay: inference delay, as a Delay or as text for :meth:`evalkit.execution.delay.Delay.parse`; none if None.
        prefix: number of committed actions, for the execution ``prefix``.
        parameters: further parameters of the execution; they override those given with its name.
        out: the run's folder; a new one under results/runs/ if None.
        resume: continue the run in ``out``.
        video: the episodes to record as video.
        shuffle: seed of a shuffled episode order; the planned order if None. Changes no outcome.
        worker_timeout_s: seconds of silence after which a worker counts as hung.
    """

    suite: str | Suite
    checkpoint: str | None = None
    checkpoint_file: Path | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    trust: Trust = field(default_factory=Trust)
    splits: Sequence[str] = ()
    tasks: Sequence[str] = ()
    episodes: int | None = None
    repeats: int | None = None
    workers: int | None = None
    execution: str = "sync"
    horizon: int | None = None
    delay: str | Delay | None = None
    prefix: int | None = None
    parameters: Mapping[str, float] = field(default_factory=dict)
    out: Path | None = None
    resume: bool = False
    video: Video = "none"
    shuffle: int | None = None
    worker_timeout_s: float = 300.0


@dataclass(frozen=True)
class Candidate:
    """The policy under evaluation, with its entry in the manifest.

    Attributes:
        id: its name.
        policy: the policy; its creator closes it.
        identity: id, code and parameters; JSON values.
        splits: by suite, the splits it was made for; all if absent.
    """

    id: str
    policy: Policy
    identity: Mapping[str, Any]
    splits: Mapping[str, Sequence[str]] = field(default_factory=dict)


class EpisodeSelector(Protocol):
    """A rule that selects and orders the episodes of a run while it plays."""

    def on_start(self, manifest: Manifest) -> None:
        """Take note of the run before its first episode; raise EvalkitError to refuse it."""

    def order(self, episodes: Sequence[Episode]) -> list[Episode]:
        """Return the planned episodes to play, in playing order."""

    def on_record(self, record: Verdict) -> None:
        """Take note of a result. When a run is resumed, the results already on file come first."""

    def needs(self, episode: Episode) -> bool:
        """Return True if an episode is still to be played."""
