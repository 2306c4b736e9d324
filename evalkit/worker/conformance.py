"""The trials of ``evalkit.testing``, run inside a suite's environment: one adapter driven directly, as digests."""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from evalkit.adapter import ActionError, Adapter, OraclePlanner, Setup, SubtaskChain
from evalkit.episode import Episode
from evalkit.observation import Observation, ObservationSpec
from evalkit.worker.loop import load_adapter_module
from evalkit.worker.wire import pack, unpack


class Trial:
    """One adapter, driven in one process."""

    def __init__(self, folder: Path, setup: Setup) -> None:
        self._setup = setup
        self._observation_spec = setup.observation_spec
        self._adapter: Adapter = load_adapter_module(folder).build(setup)

    def play(self, trial: dict[str, Any]) -> dict[str, Any]:
        """Play episodes with random actions; return digests of the state after every step and of every observation."""
        return {"episodes": [self._episode(e, trial["steps"], trial["observe_every"]) for e in trial["episodes"]]}

    def refusals(self, trial: dict[str, Any]) -> dict[str, Any]:
        """Return, for each kind of bad action, True if it raises ActionError and leaves the state as it is."""
        space = self._setup.action_space
        good = np.full(space.size, (space.low + space.high) / 2, space.dtype)
        bad = {
            "nan": _with(good, np.nan),
            "inf": _with(good, np.inf),
            "short": good[:-1],
            "matrix": np.stack([good, good]),
            "high": _with(good, space.high + 0.5),
            "low": _with(good, space.low - 0.5),
        }
        self._adapter.reset(self._at(trial["task"], 0))
        return {name: self._refuses(action) for name, action in bad.items()}

    def oracle(self, trial: dict[str, Any]) -> dict[str, Any]:
        """Follow the oracle in plans of ten and of one; then play other actions, with and without calls of ``plan``."""
        planned, actions = self._follow(trial, plan=10)
        closed_loop, _ = self._follow(trial, plan=1)
        return {
            "planned": planned,
            "closed_loop": closed_loop,
            "with_plans": self._repeat(trial, actions, plan=True),
            "without_plans": self._repeat(trial, actions, plan=False),
            "continued": self._continue(trial),
        }

    def _episode(self, episode: dict[str, Any], steps: int, observe_every: int) -> dict[str, Any]:
        self._adapter.reset(self._at(episode["task"], episode["scene"]))
        shapes: dict[str, Any] = {}
        states, observations = [self._state()], []
        for step, action in zip(range(steps), self._random(episode["actions"]), strict=False):
            if step % observe_every == 0:
                seen = self._adapter.observe(self._observation_spec)
                observations.append(_digest(seen))
                shapes = shapes or _shapes(seen)
            over = self._adapter.step(action, observe=(step + 1) % observe_every == 0)
            states.append(self._state())
            if over:
                break
        return {"states": states, "observations": observations, "shapes": shapes}

    def _follow(self, trial: dict[str, Any], plan: int) -> tuple[list[str], list[np.ndarray]]:
        planner = self._planner()
        self._adapter.reset(self._at(trial["task"], 0))
        actions: list[np.ndarray] = []
        states = [self._state()]
        while len(actions) < trial["steps"]:
            for action in planner.plan(plan)[: trial["steps"] - len(actions)]:
                over = self._adapter.step(action, observe=False)
                states.append(self._state())
                actions.append(action)
                if over:
                    return states, actions
                if isinstance(self._adapter, SubtaskChain) and self._adapter.subtask_done():
                    break
        return states, actions

    def _repeat(self, trial: dict[str, Any], actions: list[np.ndarray], plan: bool) -> list[str]:
        """Play the same episode with other actions than planned, calling ``plan`` at every seventh step or never."""
        planner = self._planner()
        self._adapter.reset(self._at(trial["task"], 0))
        states = [self._state()]
        for step, action in enumerate(actions):
            if plan and step % 7 == 0:
                planner.plan(5)
                states[-1] = self._state()
            over = self._adapter.step(action * 0.5, observe=False)
            states.append(self._state())
            if over:
                break
        return states

    def _continue(self, trial: dict[str, Any]) -> bool:
        """Return True if a plan begins with the committed actions and continues like a plan made after them."""
        planner = self._planner()
        self._adapter.reset(self._at(trial["task"], 0))
        committed = planner.plan(4).astype(self._setup.action_space.dtype) * 0.5
        plan = planner.plan(8, committed)
        for action in committed:
            over = self._adapter.step(action, observe=False)
            if over or (isinstance(self._adapter, SubtaskChain) and self._adapter.subtask_done()):
                return True  # nothing is left to continue
        return bool((plan[:4] == committed).all() and (plan[4:] == planner.plan(4)).all())

    def _planner(self) -> OraclePlanner:
        if not isinstance(self._adapter, OraclePlanner):
            raise TypeError("suite.yaml names splits under oracle, and the adapter has no method plan")
        return self._adapter

    def _refuses(self, action: np.ndarray) -> bool:
        before = self._state()
        try:
            self._adapter.step(action, observe=False)
        except ActionError:
            return self._state() == before
        return False

    def _at(self, task: list[str], scene: int) -> Episode:
        return Episode(self._setup.suite["name"], task[0], task[1], scene, self._setup.suite["seed"])

    def _random(self, seed: int) -> Iterator[np.ndarray]:
        generator = np.random.default_rng(seed)
        space = self._setup.action_space
        while True:
            yield generator.uniform(space.low, space.high, space.size).astype(space.dtype)

    def _state(self) -> str:
        return hashlib.sha256(np.ascontiguousarray(self._adapter.state(), np.float64).tobytes()).hexdigest()


def _with(action: np.ndarray, value: float) -> np.ndarray:
    changed: np.ndarray = action.copy()
    changed[0] = value
    return changed


def _digest(seen: Observation) -> str:
    summary = hashlib.sha256()
    for name, array in (*sorted(seen.images.items()), *sorted(seen.state.items())):
        summary.update(name.encode() + np.ascontiguousarray(array).tobytes())
    return summary.hexdigest()


def _shapes(seen: Observation) -> dict[str, Any]:
    def described(arrays: Any) -> dict[str, Any]:
        return {name: [str(array.dtype), *array.shape] for name, array in arrays.items()}

    return {"images": described(seen.images), "state": described(seen.state), "instruction": seen.instruction}


def main() -> None:
    """Read one trial from standard input and write its findings to standard output; simulators print to stderr."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    question = unpack(sys.stdin.buffer.read())
    setup = question["setup"]
    observation_spec = ObservationSpec.from_dict(setup["observation_spec"])
    trial = Trial(
        Path(question["folder"]), Setup(setup["suite"], observation_spec, None, setup["assets"], setup["sources"])
    )
    kinds: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
        "play": trial.play,
        "refusals": trial.refusals,
        "oracle": trial.oracle,
    }
    answers.write(pack(kinds[question["trial"]["kind"]](question["trial"])))
    answers.close()
