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

from evalkit.runner.process import WorkerConfig, WorkerProcess
from evalkit.episode import Episode
from evalkit.errors import EnvironmentProblem, EvalkitError, PolicyProblem
from evalkit.execution import Prefix
from evalkit.records.journal import Record
from evalkit.records.manifest import now
from evalkit.observation import Observation
from evalkit.policy import Policy, Remarks, Request
from evalkit.worker.wire import Closed, TimedOut

_ATTEMPTS = 2  # an episode whose worker dies or hangs is tried once more, then recorded as an error
_ERRORS_IN_A_ROW = 10  # so many, with no episode finished between, end the run, unless they are all one task's
_STARTS = 3  # a worker that ends so many times before it is ready ends the run


class Watcher(Protocol):
    """What happens to the results as they come: journal, progress display, video files."""

    def finished(self, record: Record) -> None:
        """An episode is over; called once per episode."""

    def wants_film(self, record: Record) -> bool:
        """Whether the episode should be played again for a video."""

    def filmed(self, record: Record, image: np.ndarray) -> None:
        """One more frame of an episode's video."""

    def film_ended(self, record: Record, digest: str) -> None:
        """The episode was played again; ``digest`` equals the record's where the simulator is deterministic."""

    def film_lost(self, record: Record, why: str) -> None:
        """The episode could not be played again to its end."""

    def remarked(self, text: str) -> None:
        """The policy has something to say of what happened."""


@dataclass
class _Seat:
    """One worker and what it is doing."""

    worker: WorkerProcess
    episode: Episode | None = None
    filming: Record | None = None
    waiting: dict[str, Any] | None = None  # the ask that it has not been answered
    starting: bool = True
    failed_starts: int = 0
    since: float = field(default_factory=time.monotonic)
    last_task: tuple[str, str] | None = None

    @property
    def playing(self) -> bool:
        return self.episode is not None or self.filming is not None

    @property
    def idle(self) -> bool:
        return not self.starting and not self.playing


class Scheduler:
    """Plays a list of episodes."""

    def __init__(
        self,
        config: WorkerConfig,
        policy: Policy,
        watcher: Watcher,
        workers: Sequence[WorkerProcess],
        grouped: bool = True,
        film_every: int = 0,
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
        self._film_every = film_every
        self._restart = restart
        self._queue: list[Episode] = []
        self._attempts: dict[Episode, int] = {}
        self._verdicts = 0
        self._news = True  # whether there was a result since it was last asked what is wanted
        self._streak: list[tuple[str, str]] = []  # tasks of the errors since the last verdict
        self._seats = [_Seat(worker) for worker in workers]
        self._seats[0].starting = False

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
            for seat in self._speaking(timeout=1.0):
                self._hear(seat)
            self._answer()
            self._replace_hung()

    def _under_way(self, wanted: Callable[[Episode], bool]) -> bool:
        """Whether anything is left to play. Drops what is not wanted any more."""
        if self._news:
            self._queue, self._news = [e for e in self._queue if wanted(e)], False
        playing = [seat for seat in self._seats if seat.playing]
        if self._queue or any(seat.filming or (seat.episode and wanted(seat.episode)) for seat in playing):
            return True
        for seat in playing:
            seat.worker.kill()
        return False

    @property
    def workers(self) -> list[WorkerProcess]:
        """The workers as they are now, replacements included."""
        return [seat.worker for seat in self._seats]

    def _dispatch(self) -> None:
        for seat in self._seats:
            if seat.idle and self._queue:
                episode = self._queue.pop(self._choose(seat))
                seat.episode, seat.last_task = episode, episode.task_key
                self._attempts[episode] = self._attempts.get(episode, 0) + 1
                self._send(seat, {"type": "run", "episode": episode.to_dict(), "keep_actions": self._film_every > 0})

    def _choose(self, seat: _Seat) -> int:
        """Which queued episode suits a worker: its own task first, then one that no other worker has built."""
        if not self._grouped:
            return 0
        taken = {other.last_task for other in self._seats if other is not seat and not other.idle}
        for suits in (lambda e: e.task_key == seat.last_task, lambda e: e.task_key not in taken):
            for index, episode in enumerate(self._queue):
                if suits(episode):
                    return index
        return 0

    def _speaking(self, timeout: float) -> list[_Seat]:
        with selectors.DefaultSelector() as selector:
            for seat in self._seats:
                if not seat.idle:
                    selector.register(seat.worker.channel, selectors.EVENT_READ, seat)
            return [key.data for key, _ in selector.select(timeout)] if selector.get_map() else []

    def _hear(self, seat: _Seat) -> None:
        try:
            message = seat.worker.channel.receive()
        except Closed as error:
            self._lost(seat, seat.worker.why(error), kind="hang" if isinstance(error, TimedOut) else "crash")
            return
        except ValueError as error:
            self._lost(seat, f"the worker sent something unreadable ({error})")
            return
        seat.since = time.monotonic()
        match message["type"]:
            case "ready":
                seat.starting = False
            case "ask":
                seat.waiting = message
            case "done":
                self._done(seat, message)
            case "failed":
                self._failed(seat, message)
            case "frame":
                assert seat.filming is not None
                self._watcher.filmed(seat.filming, message["image"])
            case "replayed":
                assert seat.filming is not None
                self._watcher.film_ended(seat.filming, message["digest"])
                seat.filming = None

    def _answer(self) -> None:
        asking = [seat for seat in self._seats if seat.waiting is not None]
        if not asking:
            return
        requests = [_request(seat) for seat in asking]
        try:
            chunks = self._policy.act(requests)
            answered = len(chunks)
            remarks = self._policy.remarks() if isinstance(self._policy, Remarks) else []
        except EvalkitError:
            raise
        except (Exception, SystemExit) as error:  # a policy that ends the process must not end this one
            with (self._config.logs / "policy.log").open("a", encoding="utf-8") as log:
                log.write(traceback.format_exc())
            raise PolicyProblem(
                f"the policy failed at {_where(requests[0])}: {type(error).__name__}: {error}"
            ) from error
        for remark in remarks:
            self._watcher.remarked(remark)
        if answered != len(requests):
            raise PolicyProblem(f"the policy returned {answered} chunks for {len(requests)} requests")
        for seat, request, chunk in zip(asking, requests, chunks, strict=True):
            assert seat.waiting is not None
            reply = {"type": "chunk", "ask": seat.waiting["ask"], "actions": self._checked(request, chunk)}
            seat.waiting = None
            self._send(seat, reply)

    def _checked(self, request: Request, chunk: Any) -> np.ndarray:
        expected = (self._policy.spec.chunk, self._config.suite.action.size)
        if not isinstance(chunk, np.ndarray) or chunk.shape != expected or chunk.dtype.kind not in "fiu":
            got = f"{chunk.dtype} {chunk.shape}" if isinstance(chunk, np.ndarray) else type(chunk).__name__
            raise PolicyProblem(f"the policy returned {got} at {_where(request)}, not a float {expected} chunk")
        with np.errstate(over="ignore"):
            single = chunk.astype(np.float32, copy=False)
        if not np.isfinite(single).all():
            index = tuple(int(i) for i in np.argwhere(~np.isfinite(single))[0])
            raise PolicyProblem(f"the policy returned {chunk[index]} at {_where(request)}, chunk index {index}")
        return single

    def _done(self, seat: _Seat, message: dict[str, Any]) -> None:
        assert seat.episode is not None
        record = Record(
            episode=seat.episode,
            success=message["success"],
            steps=message["steps"],
            inferences=message["inferences"],
            clipped_steps=message["clipped_steps"],
            metrics=message["metrics"],
            parts=message["parts"],
            motion=message["motion"],
            timeline=message["timeline"],
            digest=message["digest"],
            host={
                "worker": seat.worker.number,
                "attempts": self._attempts[seat.episode],
                **{part: round(message[part], 4) for part in ("wall_s", "reset_s", "look_s", "policy_s")},
                "finished": now(),
            },
        )
        seat.episode, seat.failed_starts = None, 0
        self._streak.clear()
        self._verdicts += 1
        self._news = True
        self._watcher.finished(record)
        if self._film_every and self._watcher.wants_film(record):
            seat.filming = record
            replay = {"type": "replay", "episode": record.episode.to_dict(), "every": self._film_every}
            self._send(seat, {**replay, "actions": message["actions"]})

    def _failed(self, seat: _Seat, message: dict[str, Any]) -> None:
        if message["kind"] == "policy" and seat.episode is not None:
            raise PolicyProblem(f"{seat.episode.id}: {message['message']}")
        self._lost(seat, message["message"], kind=message["kind"])

    def _lost(self, seat: _Seat, why: str, kind: str = "crash") -> None:
        """The worker cannot be trusted any more: replace it, and give its episode its second attempt."""
        seat.worker.kill()
        if seat.starting:
            seat.failed_starts += 1
            if seat.failed_starts >= _STARTS:
                raise EnvironmentProblem(f"{self._config.suite.name}: a worker cannot start: {why}")
        if seat.filming is not None:
            self._watcher.film_lost(seat.filming, why)
        episode, seat.episode, seat.filming, seat.waiting = seat.episode, None, None, None
        if episode is not None and self._attempts[episode] < _ATTEMPTS:
            self._queue.insert(0, episode)
        elif episode is not None:
            self._watcher.finished(self._error(seat, episode, kind, why))
            self._news = True
            self._streak.append(episode.task_key)
            tasks = set(self._streak)
            hopeless = len(tasks) > 1 or not (self._verdicts or any(e.task_key not in tasks for e in self._queue))
            if len(self._streak) >= _ERRORS_IN_A_ROW and hopeless:
                raise EvalkitError(f"{len(self._streak)} episodes in a row ended in errors; the last: {why}")
        seat.worker = self._restart(self._config, seat.worker.number)
        seat.starting, seat.since = True, time.monotonic()

    def _error(self, seat: _Seat, episode: Episode, kind: str, why: str) -> Record:
        host = {"worker": seat.worker.number, "attempts": self._attempts[episode], "finished": now()}
        host["last_words"] = seat.worker.last_words()
        return Record(episode=episode, success=None, error={"kind": kind, "message": why}, host=host)

    def _replace_hung(self) -> None:
        for seat in self._seats:
            owing = not seat.idle and seat.waiting is None
            if (
                owing
                and time.monotonic() - seat.since > self._config.patience_s
                and seat not in self._speaking(timeout=0)
            ):
                self._lost(seat, f"the worker said nothing for {self._config.patience_s:g} s", kind="hang")

    def _send(self, seat: _Seat, message: dict[str, Any]) -> None:
        seat.since = time.monotonic()
        with contextlib.suppress(Closed):  # the next receive finds it gone and says why
            seat.worker.channel.send(message)


def _request(seat: _Seat) -> Request:
    assert seat.waiting is not None and seat.episode is not None
    message = seat.waiting
    observation = Observation.from_message(message["observation"])
    prefix = Prefix(**message["prefix"]) if message["prefix"] else None
    return Request(seat.episode, int(message["step"]), observation, prefix)


def _where(request: Request) -> str:
    return f"{request.episode.id} step {request.step}"
