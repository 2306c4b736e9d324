"""The queue of episodes that are still to be played. Each operation takes the same time for a short and a long plan."""

from __future__ import annotations

import heapq
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterable

from evalkit.episode import Episode

_Task = tuple[str, str]


class EpisodeQueue:
    """Episodes in playing order. Episodes that are not wanted any more are dropped when they come to the front."""

    def __init__(self, episodes: Iterable[Episode], wanted: Callable[[Episode], bool], grouped: bool) -> None:
        """Fill the queue.

        Args:
            episodes: the episodes, in playing order.
            wanted: returns True while an episode's result is still wanted; once False, never True again.
            grouped: let a worker take an episode of the task it has built ahead of earlier episodes of other tasks.
        """
        self._wanted = wanted
        self._grouped = grouped
        self._lanes: dict[_Task | None, deque[tuple[int, Episode]]] = {}  # with the episodes' places; never empty
        self._tasks: Counter[_Task] = Counter()
        self._first = 0
        for place, episode in enumerate(episodes):
            self._lanes.setdefault(self._lane_of(episode), deque()).append((place, episode))
            self._tasks[episode.task_key] += 1
        # A heap with the front of every lane, among fronts of the past.
        self._fronts = [(lane[0][0], key) for key, lane in self._lanes.items()]

    def __bool__(self) -> bool:
        """Return True if an episode is left that is wanted."""
        while self._lanes:
            if self._front(next(iter(self._lanes))) is not None:
                return True
        return False

    def has_task_outside(self, tasks: Collection[_Task]) -> bool:
        """Return True if an episode of another task is left."""
        return any(task not in tasks for task in self._tasks)

    def put_back(self, episode: Episode) -> None:
        """Put an episode in front of all others."""
        self._first -= 1
        key = self._lane_of(episode)
        self._lanes.setdefault(key, deque()).appendleft((self._first, episode))
        self._tasks[episode.task_key] += 1
        heapq.heappush(self._fronts, (self._first, key))

    def take(self, built: _Task | None, taken: Collection[_Task | None]) -> Episode | None:
        """Take the next episode for a worker: of its own task, else of one that no other worker has built.

        Args:
            built: the task that the worker has built, or None.
            taken: the tasks that other workers have built.
        """
        if self._grouped and built is not None and self._front(built) is not None:
            return self._pop(built)
        passed: list[tuple[int, _Task | None]] = []
        while self._fronts:
            place, key = heapq.heappop(self._fronts)
            if self._front(key) == place and key in taken:
                passed.append((place, key))
            elif self._front(key) == place:
                break
        else:
            key = passed[0][1] if passed else None
        for front in passed:
            heapq.heappush(self._fronts, front)
        return self._pop(key) if key in self._lanes else None

    def _lane_of(self, episode: Episode) -> _Task | None:
        return episode.task_key if self._grouped else None

    def _front(self, key: _Task | None) -> int | None:
        """Return the place of a lane's first episode that is wanted, or None if there is none."""
        while key in self._lanes:
            place, episode = self._lanes[key][0]
            if self._wanted(episode):
                return place
            self._pop(key)
        return None

    def _pop(self, key: _Task | None) -> Episode:
        """Remove a lane's first episode and return it."""
        lane = self._lanes[key]
        _, episode = lane.popleft()
        if lane:
            self._note_front(key)
        else:
            del self._lanes[key]
        self._tasks[episode.task_key] -= 1
        if not self._tasks[episode.task_key]:
            del self._tasks[episode.task_key]
        return episode

    def _note_front(self, key: _Task | None) -> None:
        heapq.heappush(self._fronts, (self._lanes[key][0][0], key))
