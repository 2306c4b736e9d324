"""A point on a line that is sent to three places, one after the other: the smallest chain of sub-tasks."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from evalkit.adapter import Outcome, Probe, Setup
from evalkit.episode import Episode
from evalkit.observation import Observation, ObservationSpec

PLACES = {"left": -1.0, "middle": 0.0, "right": 1.0}


def build(setup: Setup) -> Relay:
    return Relay(setup)


def probe(setup: Setup, tasks: Sequence[tuple[str, str]]) -> Probe:
    return Probe()


class Relay:
    def __init__(self, setup: Setup) -> None:
        self._setup = setup

    def reset(self, episode: Episode) -> None:
        random = np.random.default_rng([episode.seed, episode.scene])
        names = list(PLACES)
        self._order = [names[i] for i in random.integers(0, 3, int(self._setup.suite["chain"]))]
        self._limit = int(self._setup.split_settings(episode.split)["subtask_steps"])
        self._x, self._steps, self._solved, self._subtask_done, self._lost = (
            random.uniform(0.3, 0.7),
            0,
            0,
            False,
            False,
        )

    def step(self, action: np.ndarray, observe: bool) -> bool:
        self._setup.action_space.check(action)
        self._x += 0.25 * float(action[0])
        self._steps += 1
        self._subtask_done = abs(self._x - PLACES[self._order[self._solved]]) < 0.05
        self._solved += self._subtask_done
        self._steps *= not self._subtask_done
        self._lost = self._steps >= self._limit
        over = self._lost or self._solved == len(self._order)
        self._subtask_done = self._subtask_done and not over
        return over

    def subtask_done(self) -> bool:
        return self._subtask_done

    def observe(self, observation_spec: ObservationSpec) -> Observation:
        position = {"position": np.array([self._x])} if "position" in observation_spec.state else {}
        return Observation(f"go {self._order[self._solved]}", {}, position)

    def outcome(self) -> Outcome:
        attempted = self._order[: self._solved + 1]
        subtasks = [(name, place < self._solved) for place, name in enumerate(attempted)]
        return Outcome(self._solved == len(self._order), subtasks=subtasks)

    def state(self) -> np.ndarray:
        return np.array([self._x, self._steps, self._solved])

    def plan(self, steps: int, committed: np.ndarray | None = None) -> np.ndarray:
        x, goal, plan = self._x, PLACES[self._order[self._solved]], []
        for step in range(steps):
            ours = committed is not None and step < len(committed)
            plan.append(committed[step] if ours else np.array([np.clip((goal - x) / 0.25, -1, 1)], np.float32))
            x += 0.25 * float(plan[-1][0])
        return np.stack(plan)

    def close(self) -> None:
        pass
