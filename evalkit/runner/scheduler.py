"""The host's loop: episodes to workers, observations to the policy, results to the journal.

One thread. It waits for any worker to speak, takes every message that is there, and answers all waiting questions in
one batch; while the policy thinks, the other workers' physics goes on. Nothing here decides an outcome: which worker
plays an episode, and which questions share a batch, leave every record as it is.
"""

from __future__ import annotations

import contextlib
import selectors
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from evalkit.episode import Episode
from evalkit.errors import EnvironmentProblem, EvalkitError, PolicyProblem
from evalkit.execution import Prefix
from evalkit.observation import Observation
from evalkit.policy import Policy, PolicyWarnings, Request
from evalkit.records.journal import Record
from evalkit.records.manifest import now
from evalkit.runner.process import WorkerConfig, WorkerProcess
from evalkit.worker.wire import Closed, TimedOut

_ATTEMPTS = 2  # an episode whose worker dies or hangs is tried once more, then recorded as an error
_ERRORS_IN_A_ROW = 10  # so many, with no episode finished between, end the run, unless they are all one task's
_STARTS = 3  # a worker that ends so many times before it is ready ends the run


class RunEvents(Protocol):
    """What happens to the results as they come: journal, progress display, video files."""

    def finished(self, record: Record) -> None:
        """An episode is over; called once per episode."""

    def wants_video(self, record: Record) -> bool:
        """Whether the episode should be played again for a video."""

    def video_frame(self, record: Record, image: np.ndarray) -> None:
        """One more frame of an episode's video."""

    def video_done(self, record: Record, digest: str) -> None:
        """The episode was played again; ``digest`` equals the record's where the simulator is deterministic."""

    def video_lost(self, record: Record, why: str) -> None:
        """The episode could not be played again to its end."""

    def policy_warning(self, text: str) -> None:
        """The policy has something to say of what happened."""


@dataclass
class _WorkerSlot:
    """One worker and what it is doing."""

    worker: WorkerProcess
    episode: Episode | None = None
    recording: Record | None = None
    waiting: dict[str, Any] | None = None  # the ask that it has not been answered
    starting: bool = True
    failed_starts: int = 0
    since: float = field(default_factory=time.monotonic)
    last_task: tuple[str, str] | None = None

    @property
    def playing(self) -> bool:
        return self.episode is not None or self.recording is not None

    @property
    def idle(self) -> bool:
        return not self.starting and not self.playing


class Scheduler:
    """Plays a list of episodes."""

    def __init__(
        self,
        config: WorkerConfig,
        policy: Policy,
        watcher: RunEvents,
        workers: Sequence[WorkerProcess],
        grouped: bool = True,
        frame_every: int = 0,
        restart: Callable[[WorkerConfig, int], WorkerProcess] = WorkerProcess,
    ) -> None:
        """A scheduler that has done nothing yet.

        Args:
            config: what every worker is started with.
            policy: answers the workers' questions.
            watcher: told of every result.
            workers: the worker processes; the first is greeted already.
            grouped: whether a worker may take an episode of the task it has built ahead of earlier ones of others.
            film_every: control steps between two frames of a video; 0 for no videos.
            restart: makes a worker process.
        """
        self._config = config
        self._policy = policy
        self._watcher = watcher
        self._grouped = grouped
        self._frame_every = frame_every
        self._restart = restart
        self._queue: list[Episode] = []
        self._attempts: dict[Episode, int] = {}
        self._verdicts = 0
        self._news = True  # whether there was a result since it was last asked what is wanted
        self._streak: list[tuple[str, str]] = []  # tasks of the errors since the last verdict
        self._slots = [_WorkerSlot(worker) for worker in workers]
        self._slots[0].starting = False

    def run(self, episodes: Sequence[Episode], wanted: Callable[[Episode], bool] = lambda _: True) -> None:
        """Plays every episode, in order as far as workers can share it.

        Args:
            episodes: what to play.
            wanted: whether an episode still is; asked again after every result. When none is, what is under way is
                broken off.

        Raises:
            PolicyProblem: the policy failed or returned something that cannot be executed.
            EnvironmentProblem: workers end before they are ready.
            EvalkitError: so many episodes in a row ended in errors that the run makes no sense.
        """
        self._queue = list(episodes)
        while self._under_way(wanted):
            self._dispatch()
            for slot in self._readable(timeout=1.0):
                self._receive_from(slot)
            self._answer()
            self._replace_hung()

    def _under_way(self, wanted: Callable[[Episode], bool]) -> bool:
        """Whether anything is left to play. Drops what is not wanted any more."""
        if self._news:
            self._queue, self._news = [e for e in self._queue if wanted(e)], False
        playing = [slot for slot in self._slots if slot.playing]
        if self._queue or any(slot.recording or (slot.episode and wanted(slot.episode)) for slot in playing):
            return True
        for slot in playing:
            slot.worker.kill()
        return False

    @property
    def workers(self) -> list[WorkerProcess]:
        """The workers as they are now, replacements included."""
        return [slot.worker for slot in self._slots]

    def _dispatch(self) -> None:
        for slot in self._slots:
            if slot.idle and self._queue:
                episode = self._queue.pop(self._choose(slot))
                slot.episode, slot.last_task = episode, episode.task_key
                self._attempts[episode] = self._attempts.get(episode, 0) + 1
                self._send(slot, {"type": "run", "episode": episode.to_dict(), "keep_actions": self._frame_every > 0})

    def _choose(self, slot: _WorkerSlot) -> int:
        """Which queued episode suits a worker: its own task first, then one that no other worker has built."""
        if not self._grouped:
            return 0
        taken = {other.last_task for other in self._slots if other is not slot and not other.idle}
        for suits in (lambda e: e.task_key == slot.last_task, lambda e: e.task_key not in taken):
            for index, episode in enumerate(self._queue):
                if suits(episode):
                    return index
        return 0

    def _readable(self, timeout: float) -> list[_WorkerSlot]:
        with selectors.DefaultSelector() as selector:
            for slot in self._slots:
                if not slot.idle:
                    selector.register(slot.worker.channel, selectors.EVENT_READ, slot)
            return [key.data for key, _ in selector.select(timeout)] if selector.get_map() else []

    def _receive_from(self, slot: _WorkerSlot) -> None:
        try:
            message = slot.worker.channel.receive()
        except Closed as error:
            self._replace_worker(slot, slot.worker.why(error), kind="hang" if isinstance(error, TimedOut) else "crash")
            return
        except ValueError as error:
            self._replace_worker(slot, f"the worker sent something unreadable ({error})")
            return
        slot.since = time.monotonic()
        match message["type"]:
            case "ready":
                slot.starting = False
            case "ask":
                slot.waiting = message
            case "done":
                self._done(slot, message)
            case "failed":
                self._failed(slot, message)
            case "frame":
                assert slot.recording is not None
                self._watcher.video_frame(slot.recording, message["image"])
            case "replayed":
                assert slot.recording is not None
                self._watcher.video_done(slot.recording, message["digest"])
                slot.recording = None

    def _answer(self) -> None:
        asking = [slot for slot in self._slots if slot.waiting is not None]
        if not asking:
            return
        requests = [_request(slot) for slot in asking]
        try:
            chunks = self._policy.act(requests)
            answered = len(chunks)
            warnings = self._policy.warnings() if isinstance(self._policy, PolicyWarnings) else []
        except EvalkitError:
            raise
        except (Exception, SystemExit) as error:  # a policy that ends the process must not end this one
            with (self._config.logs / "policy.log").open("a", encoding="utf-8") as log:
                log.write(traceback.format_exc())
            raise PolicyProblem(
                f"the policy failed at {_where(requests[0])}: {type(error).__name__}: {error}"
            ) from error
        for remark in warnings:
            self._watcher.policy_warning(remark)
        if answered != len(requests):
            raise PolicyProblem(f"the policy returned {answered} chunks for {len(requests)} requests")
        for slot, request, chunk in zip(asking, requests, chunks, strict=True):
            assert slot.waiting is not None
            reply = {"type": "chunk", "ask": slot.waiting["ask"], "actions": self._checked(request, chunk)}
            slot.waiting = None
            self._send(slot, reply)

    def _checked(self, request: Request, chunk: Any) -> np.ndarray:
        expected = (self._policy.spec.chunk_size, self._config.suite.action.size)
        if not isinstance(chunk, np.ndarray) or chunk.shape != expected or chunk.dtype.kind not in "fiu":
            got = f"{chunk.dtype} {chunk.shape}" if isinstance(chunk, np.ndarray) else type(chunk).__name__
            raise PolicyProblem(f"the policy returned {got} at {_where(request)}, not a float {expected} chunk")
        with np.errstate(over="ignore"):
            single = chunk.astype(np.float32, copy=False)
        if not np.isfinite(single).all():
            index = tuple(int(i) for i in np.argwhere(~np.isfinite(single))[0])
            raise PolicyProblem(f"the policy returned {chunk[index]} at {_where(request)}, chunk index {index}")
        return single

    def _done(self, slot: _WorkerSlot, message: dict[str, Any]) -> None:
        assert slot.episode is not None
        record = Record(
            episode=slot.episode,
            success=message["success"],
            steps=message["steps"],
            inferences=message["inferences"],
            clipped_steps=message["clipped_steps"],
            metrics=message["metrics"],
            subtasks=message["subtasks"],
            execution_stats=message["execution_stats"],
            timeline=message["timeline"],
            digest=message["digest"],
            host={
                "worker": slot.worker.number,
                "attempts": self._attempts[slot.episode],
                **{part: round(message[part], 4) for part in ("wall_s", "reset_s", "observe_s", "policy_s")},
                "finished": now(),
            },
        )
        slot.episode, slot.failed_starts = None, 0
        self._streak.clear()
        self._verdicts += 1
        self._news = True
        self._watcher.finished(record)
        if self._frame_every and self._watcher.wants_video(record):
            slot.recording = record
            replay = {"type": "replay", "episode": record.episode.to_dict(), "every": self._frame_every}
            self._send(slot, {**replay, "actions": message["actions"]})

    def _failed(self, slot: _WorkerSlot, message: dict[str, Any]) -> None:
        if message["kind"] == "policy" and slot.episode is not None:
            raise PolicyProblem(f"{slot.episode.id}: {message['message']}")
        self._replace_worker(slot, message["message"], kind=message["kind"])

    def _replace_worker(self, slot: _WorkerSlot, why: str, kind: str = "crash") -> None:
        """The worker cannot be trusted any more: replace it, and give its episode its second attempt."""
        slot.worker.kill()
        if slot.starting:
            slot.failed_starts += 1
            if slot.failed_starts >= _STARTS:
                raise EnvironmentProblem(f"{self._config.suite.name}: a worker cannot start: {why}")
        if slot.recording is not None:
            self._watcher.video_lost(slot.recording, why)
        episode, slot.episode, slot.recording, slot.waiting = slot.episode, None, None, None
        if episode is not None and self._attempts[episode] < _ATTEMPTS:
            self._queue.insert(0, episode)
        elif episode is not None:
            self._watcher.finished(self._error(slot, episode, kind, why))
            self._news = True
            self._streak.append(episode.task_key)
            tasks = set(self._streak)
            hopeless = len(tasks) > 1 or not (self._verdicts or any(e.task_key not in tasks for e in self._queue))
            if len(self._streak) >= _ERRORS_IN_A_ROW and hopeless:
                raise EvalkitError(f"{len(self._streak)} episodes in a row ended in errors; the last: {why}")
        slot.worker = self._restart(self._config, slot.worker.number)
        slot.starting, slot.since = True, time.monotonic()

    def _error(self, slot: _WorkerSlot, episode: Episode, kind: str, why: str) -> Record:
        host = {"worker": slot.worker.number, "attempts": self._attempts[episode], "finished": now()}
        host["last_log_line"] = slot.worker.last_log_line()
        return Record(episode=episode, success=None, error={"kind": kind, "message": why}, host=host)

    def _replace_hung(self) -> None:
        for slot in self._slots:
            owing = not slot.idle and slot.waiting is None
            if (
                owing
                and time.monotonic() - slot.since > self._config.worker_timeout_s
                and slot not in self._readable(timeout=0)
            ):
                self._replace_worker(
                    slot, f"the worker said nothing for {self._config.worker_timeout_s:g} s", kind="hang"
                )

    def _send(self, slot: _WorkerSlot, message: dict[str, Any]) -> None:
        slot.since = time.monotonic()
        with contextlib.suppress(Closed):  # the next receive finds it gone and says why
            slot.worker.channel.send(message)


def _request(slot: _WorkerSlot) -> Request:
    assert slot.waiting is not None and slot.episode is not None
    message = slot.waiting
    observation = Observation.from_message(message["observation"])
    prefix = Prefix(**message["prefix"]) if message["prefix"] else None
    return Request(slot.episode, int(message["step"]), observation, prefix)


def _where(request: Request) -> str:
    return f"{request.episode.id} step {request.step}"
