"""The host's loop: episodes to workers, observations to the policy, results to the journal.

The loop is one thread. It waits for messages from the workers, reads all that have arrived, and answers all open
inference requests in one batch. During inference the other workers' physics continues. Records do not depend on which
worker plays an episode or which requests share a batch.

The other end of the conversation is :class:`evalkit.worker.loop.Worker`; :mod:`evalkit.worker.messages` lists the
messages.
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
from evalkit.errors import EnvironmentProblem, EvalkitError, PolicyProblem, excerpt
from evalkit.policy import Policy, PolicyWarnings, Request
from evalkit.records.journal import Record
from evalkit.records.manifest import now
from evalkit.runner.process import WorkerConfig, WorkerProcess
from evalkit.runner.queue import EpisodeQueue
from evalkit.worker import messages
from evalkit.worker.messages import (
    Chunk,
    EpisodeDone,
    Failed,
    Frame,
    HostMessage,
    InferenceRequest,
    Ready,
    Replayed,
    ReplayEpisode,
    RunEpisode,
)
from evalkit.worker.wire import Closed, TimedOut

_MAX_ATTEMPTS = 2  # an episode whose worker dies or hangs is retried once, then recorded as an error
_MAX_ERROR_STREAK = 10  # this many errors in a row end the run, unless other tasks may still work
_MAX_FAILED_STARTS = 3  # a worker that fails to start this many times ends the run


class RunEvents(Protocol):
    """The receiver of results as they arrive: journal, progress display, video files."""

    def finished(self, record: Record) -> None:
        """Take the record of a finished episode; called once per episode."""

    def wants_video(self, record: Record) -> bool:
        """Return True if the episode should be replayed for a video."""

    def video_frame(self, record: Record, image: np.ndarray) -> None:
        """Take one more frame of an episode's video."""

    def video_done(self, record: Record, digest: str) -> None:
        """Finish the episode's video; ``digest`` equals the record's if the simulator is deterministic."""

    def video_lost(self, record: Record, reason: str) -> None:
        """Discard the episode's video: the replay did not reach its end."""

    def policy_warning(self, text: str) -> None:
        """Take a warning from the policy."""


@dataclass
class _WorkerSlot:
    """One worker and its current work."""

    worker: WorkerProcess
    episode: Episode | None = None
    recording: Record | None = None
    request: InferenceRequest | None = None  # not answered yet
    starting: bool = True
    failed_starts: int = 0
    last_message: float = field(default_factory=time.monotonic)  # time of the last one sent or received
    last_task: tuple[str, str] | None = None

    @property
    def playing(self) -> bool:
        return self.episode is not None or self.recording is not None

    @property
    def idle(self) -> bool:
        return not self.starting and not self.playing


class Scheduler:
    """The loop that plays a list of episodes on several workers."""

    def __init__(
        self,
        config: WorkerConfig,
        policy: Policy,
        events: RunEvents,
        workers: Sequence[WorkerProcess],
        grouped: bool = True,
    ) -> None:
        """Prepare to play; nothing starts yet.

        Args:
            config: the settings of every worker.
            policy: answers the inference requests.
            events: receives every result.
            workers: the worker processes; the first is ready already.
            grouped: let a worker take an episode of the task it has built ahead of earlier episodes of other tasks.
        """
        self._config = config
        self._policy = policy
        self._events = events
        self._grouped = grouped
        self._queue = EpisodeQueue((), lambda _: True, grouped)
        self._attempts: dict[Episode, int] = {}
        self._outcomes = 0  # episodes that ended without an error
        self._error_streak: list[tuple[str, str]] = []  # tasks of the errors since the last outcome
        self._slots = [_WorkerSlot(worker) for worker in workers]
        self._slots[0].starting = False

    def run(self, episodes: Sequence[Episode], wanted: Callable[[Episode], bool] = lambda _: True) -> None:
        """Play every episode, in order as far as the workers can share it.

        Args:
            episodes: the episodes.
            wanted: returns True while an episode's result is still wanted; once False, never True again. When no
                episode is wanted any more, running episodes are aborted.

        Raises:
            PolicyProblem: the policy failed or returned something that cannot be executed.
            EnvironmentProblem: a worker repeatedly ends before it is ready.
            EvalkitError: too many episodes in a row ended in errors.
        """
        self._queue = EpisodeQueue(episodes, wanted, self._grouped)
        while self._work_left(wanted):
            self._dispatch()
            for slot in self._readable(timeout=1.0):
                self._receive_from(slot)
            self._answer_requests()
            self._replace_hung()

    def _work_left(self, wanted: Callable[[Episode], bool]) -> bool:
        """Return True while anything is left to play."""
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
            if slot.idle:
                taken = {other.last_task for other in self._slots if other is not slot and not other.idle}
                episode = self._queue.take(slot.last_task, taken)
                if episode is None:
                    return
                slot.episode, slot.last_task = episode, episode.task_key
                self._attempts[episode] = self._attempts.get(episode, 0) + 1
                self._send(slot, RunEpisode(episode, keep_actions=self._config.frame_every > 0))

    def _readable(self, timeout: float) -> list[_WorkerSlot]:
        with selectors.DefaultSelector() as selector:
            for slot in self._slots:
                if not slot.idle:
                    selector.register(slot.worker.channel, selectors.EVENT_READ, slot)
            return [key.data for key, _ in selector.select(timeout)] if selector.get_map() else []

    def _receive_from(self, slot: _WorkerSlot) -> None:
        try:
            message = messages.receive(slot.worker.channel)
        except Closed as error:
            kind = "hang" if isinstance(error, TimedOut) else "crash"
            self._replace_worker(slot, slot.worker.describe_loss(error), kind)
            return
        except ValueError as error:
            self._replace_worker(slot, f"the worker sent an unreadable message ({excerpt(error)})")
            return
        slot.last_message = time.monotonic()
        match message:
            case Ready():
                slot.starting = False
            case InferenceRequest():  # from evalkit.worker.loop, Worker._request_inference
                slot.request = message  # until _answer_requests sends the chunk
            case EpisodeDone():
                self._record(slot, message)
            case Failed():
                self._handle_failure(slot, message)
            case Frame():
                assert slot.recording is not None
                self._events.video_frame(slot.recording, message.image)
            case Replayed():
                assert slot.recording is not None
                self._events.video_done(slot.recording, message.digest)
                slot.recording = None
            case _:
                self._replace_worker(slot, f"the worker sent {type(message).__name__}, which only the host sends")

    def _answer_requests(self) -> None:
        """Answer all open inference requests with one batch of the policy."""
        waiting = [slot for slot in self._slots if slot.request is not None]
        if not waiting:
            return
        requests = [_request(slot) for slot in waiting]
        try:
            chunks = self._policy.act(requests)
            count = len(chunks)
            warnings = self._policy.warnings() if isinstance(self._policy, PolicyWarnings) else []
        except EvalkitError:
            raise
        except (Exception, SystemExit) as error:  # a policy that calls sys.exit must not end the host
            with self._config.folder.policy_log.open("a", encoding="utf-8") as log:
                log.write(traceback.format_exc())
            raise PolicyProblem(
                f"the policy failed at {_position(requests[0])}: {type(error).__name__}: {excerpt(error)}"
            ) from error
        for warning in warnings:
            self._events.policy_warning(warning)
        if count != len(requests):
            raise PolicyProblem(f"the policy returned {count} chunks for {len(requests)} requests")
        for slot, request, chunk in zip(waiting, requests, chunks, strict=True):
            assert slot.request is not None
            reply = Chunk(slot.request.request, self._executable(request, chunk))
            slot.request = None
            self._send(slot, reply)

    def _executable(self, request: Request, chunk: Any) -> np.ndarray:
        """Return a chunk as finite (T, A), in the suite's dtype. Raises PolicyProblem if it cannot be executed."""
        expected = (self._policy.spec.chunk_size, self._config.suite.action.size)
        if not isinstance(chunk, np.ndarray) or chunk.shape != expected or chunk.dtype.kind not in "fiu":
            got = f"{chunk.dtype} {chunk.shape}" if isinstance(chunk, np.ndarray) else type(chunk).__name__
            raise PolicyProblem(f"the policy returned {got} at {_position(request)}, not a float {expected} chunk")
        with np.errstate(over="ignore"):
            converted = chunk.astype(self._config.suite.action.dtype, copy=False)
        if not np.isfinite(converted).all():
            index = tuple(int(i) for i in np.argwhere(~np.isfinite(converted))[0])
            raise PolicyProblem(f"the policy returned {chunk[index]} at {_position(request)}, chunk index {index}")
        return converted

    def _record(self, slot: _WorkerSlot, message: EpisodeDone) -> None:
        assert slot.episode is not None
        record = Record(
            episode=slot.episode,
            success=message.success,
            steps=message.steps,
            inferences=message.inferences,
            clipped_steps=message.clipped_steps,
            metrics=message.metrics,
            subtasks=message.subtasks,
            execution_stats=message.execution_stats,
            timeline=message.timeline,
            digest=message.digest,
            host={
                "worker": slot.worker.number,
                "attempts": self._attempts[slot.episode],
                **{part: round(getattr(message, part), 4) for part in ("wall_s", "reset_s", "observe_s", "policy_s")},
                "finished": now(),
            },
        )
        slot.episode, slot.failed_starts = None, 0
        self._error_streak.clear()
        self._outcomes += 1
        self._events.finished(record)
        if self._config.frame_every and self._events.wants_video(record):
            slot.recording = record
            assert message.actions is not None
            self._send(slot, ReplayEpisode(record.episode, list(message.actions), self._config.frame_every))

    def _handle_failure(self, slot: _WorkerSlot, message: Failed) -> None:
        if message.kind == "policy" and slot.episode is not None:
            raise PolicyProblem(f"{slot.episode.id}: {excerpt(message.message)}")
        self._replace_worker(slot, excerpt(message.message), kind=message.kind)

    def _replace_worker(self, slot: _WorkerSlot, reason: str, kind: str = "crash") -> None:
        """Replace a worker that failed, and retry its episode or record it as an error."""
        slot.worker.kill()
        if slot.starting:
            slot.failed_starts += 1
            if slot.failed_starts >= _MAX_FAILED_STARTS:
                raise EnvironmentProblem(f"{self._config.suite.name}: a worker cannot start: {reason}")
        if slot.recording is not None:
            self._events.video_lost(slot.recording, reason)
        episode, slot.episode, slot.recording, slot.request = slot.episode, None, None, None
        if episode is not None and self._attempts[episode] < _MAX_ATTEMPTS:
            self._queue.put_back(episode)
        elif episode is not None:
            self._events.finished(self._error_record(slot, episode, kind, reason))
            self._error_streak.append(episode.task_key)
            tasks = set(self._error_streak)
            systematic = len(tasks) > 1 or not (self._outcomes or self._queue.has_task_outside(tasks))
            if len(self._error_streak) >= _MAX_ERROR_STREAK and systematic:
                raise EvalkitError(f"{len(self._error_streak)} episodes in a row ended in errors; the last: {reason}")
        slot.worker = slot.worker.replacement()
        slot.starting, slot.last_message = True, time.monotonic()

    def _error_record(self, slot: _WorkerSlot, episode: Episode, kind: str, reason: str) -> Record:
        host = {"worker": slot.worker.number, "attempts": self._attempts[episode], "finished": now()}
        host["last_log_line"] = slot.worker.last_log_line()
        return Record(episode=episode, success=None, error={"kind": kind, "message": reason}, host=host)

    def _replace_hung(self) -> None:
        for slot in self._slots:
            busy = not slot.idle and slot.request is None
            limit = self._config.worker_timeout_s
            if busy and time.monotonic() - slot.last_message > limit and slot not in self._readable(timeout=0):
                self._replace_worker(slot, f"the worker sent nothing for {limit:g} s", kind="hang")

    def _send(self, slot: _WorkerSlot, message: HostMessage) -> None:
        slot.last_message = time.monotonic()
        with contextlib.suppress(Closed):  # the next receive raises, with the reason
            messages.send(slot.worker.channel, message)


def _request(slot: _WorkerSlot) -> Request:
    assert slot.request is not None and slot.episode is not None
    return Request(slot.episode, slot.request.step, slot.request.observation, slot.request.prefix)


def _position(request: Request) -> str:
    return f"{request.episode.id} step {request.step}"
