"""A point mass with friction, drawn as a picture: small, deterministic, and able to misbehave on purpose."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from evalkit.adapter import Outcome, Probe, Setup, SimulatorError
from evalkit.episode import Episode
from evalkit.observation import Observation, ObservationSpec

DIRECTIONS = {"left": (-1, 0), "right": (1, 0), "up": (0, 1), "down": (0, -1)}


def build(setup: Setup) -> PointMass:
    return PointMass(setup)


def probe(setup: Setup, tasks: Sequence[tuple[str, str]]) -> Probe:
    missing = os.environ.get("POINTMASS_MISSING")
    remark = os.environ.get("POINTMASS_INCOMPARABLE")
    return Probe(
        metadata={"assets": {"digest": "none"}},
        problems=[f"{missing} is missing; put it there"] if missing else [],
        incomparable=[remark] if remark else [],
    )


class PointMass:
    def __init__(self, setup: Setup) -> None:
        self._setup = setup
        self._physics = np.zeros(4)  # position, velocity
        self._goal = np.zeros(2)
        self._steps = 0

    def reset(self, episode: Episode) -> None:
        random = np.random.default_rng([episode.seed, episode.scene])
        distance = 0.5 if episode.split == "near" else 2.0
        self._episode = episode
        self._goal = np.array(DIRECTIONS.get(episode.task, (1, 0))) * distance + random.uniform(-0.1, 0.1, 2)
        self._physics = np.concatenate([random.uniform(-0.1, 0.1, 2), np.zeros(2)])
        self._steps = 0

    def step(self, action: np.ndarray, observe: bool) -> bool:
        self._setup.action_space.check(action)
        if os.environ.get("POINTMASS_FATAL"):
            os.abort()
        if self._episode.split == "cursed" and self._episode.scene == 1 and self._steps == 3:
            self._misbehave()
        self._physics = self._next(self._physics, action)
        self._steps += 1
        delay = os.environ.get("POINTMASS_DELAY")
        if delay:
            time.sleep(float(delay))
        return self.outcome().success

    def observe(self, observation_spec: ObservationSpec) -> Observation:
        return Observation(
            instruction=self._setup.instruction(self._episode.split, self._episode.task),
            images={camera: self.render_frame(camera) for camera in observation_spec.cameras},
            state={"position": self._physics[:2].copy()} if "position" in observation_spec.state else {},
        )

    def outcome(self) -> Outcome:
        distance = float(np.linalg.norm(self._physics[:2] - self._goal))
        return Outcome(success=distance < 0.05, metrics={"distance": distance})

    def state(self) -> np.ndarray:
        return self._physics.copy()

    def plan(self, steps: int, committed: np.ndarray | None = None) -> np.ndarray:
        physics, plan = self._physics, []
        for step in range(steps):
            action = np.clip(10 * (self._goal - physics[:2]) - 5 * physics[2:], -1, 1).astype(np.float32)
            if committed is not None and step < len(committed):
                action = committed[step]
            plan.append(action)
            physics = self._next(physics, action)
        return np.stack(plan)

    def render_frame(self, camera: str) -> np.ndarray:
        image = np.zeros((24, 32, 3), np.uint8)
        for point, colour in ((self._goal, (0, 255, 0)), (self._physics[:2], (255, 0, 0))):
            column, row = np.clip((point * 5 + (16, 12)).astype(int), 0, (31, 23))
            image[row, column] = colour
        return image

    def close(self) -> None:
        pass

    def _next(self, physics: np.ndarray, action: np.ndarray) -> np.ndarray:
        velocity = 0.5 * physics[2:] + 0.1 * action
        return np.concatenate([physics[:2] + velocity, velocity])

    def _misbehave(self) -> None:
        kind = self._episode.task
        if kind == "dies-once":
            mark = Path(os.environ["POINTMASS_MARK"])
            if mark.exists():
                return
            mark.touch()
        if kind.startswith("dies"):
            os.abort()
        if kind == "hangs":
            time.sleep(3600)
        if kind == "raises":
            raise SimulatorError("this scene is cursed")
