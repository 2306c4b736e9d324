"""What ``evalkit.testing`` runs inside a suite's environment: an adapter driven directly, digests of what it did."""

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
    """One process's worth of driving one adapter."""

    def __init__(self, folder: Path, setup: Setup) -> None:
        self._setup = setup
        self._needs = setup.observation_spec
        self._adapter: Adapter = load_adapter_module(folder).build(setup)

    def play(self, trial: dict[str, Any]) -> dict[str, Any]:
        """Random actions through several episodes; the state after every step and what every look showed."""
        return {"episodes": [self._episode(e, trial["steps"], trial["observe_every"]) for e in trial["episodes"]]}

    def refusals(self, trial: dict[str, Any]) -> dict[str, Any]:
        """Which bad actions are refused with ActionError, the state untouched."""
        space = self._setup.action_space
        good = np.full(space.size, (space.low + space.high) / 2, np.float32)
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

    def expert(self, trial: dict[str, Any]) -> dict[str, Any]:
        """The expert in plans of ten, in plans of one, asked and ignored, and never asked."""
        planned, actions = self._follow(trial, plan=10)
        closed_loop, _ = self._follow(trial, plan=1)
        return {
            "planned": planned,
            "closed_loop": closed_loop,
            "asked": self._repeat(trial, actions, ask=True),
            "left_alone": self._repeat(trial, actions, ask=False),
            "continued": self._continue(trial),
        }

    def _episode(self, episode: dict[str, Any], steps: int, look_every: int) -> dict[str, Any]:
        self._adapter.reset(self._at(episode["task"], episode["scene"]))
        shapes: dict[str, Any] = {}
        states, looks = [self._state()], []
        for step, action in zip(range(steps), self._random(episode["actions"]), strict=False):
            if step % look_every == 0:
                seen = self._adapter.observe(self._needs)
                looks.append(_digest_of_look(seen))
                shapes = shapes or _shapes(seen)
            over = self._adapter.step(action, observe=(step + 1) % look_every == 0)
            states.append(self._state())
            if over:
                break
        return {"states": states, "looks": looks, "shapes": shapes}

    def _follow(self, trial: dict[str, Any], plan: int) -> tuple[list[str], list[np.ndarray]]:
        assert isinstance(self._adapter, OraclePlanner), "suite.yaml names an expert that the adapter does not have"
        self._adapter.reset(self._at(trial["task"], 0))
        actions: list[np.ndarray] = []
        states = [self._state()]
        while len(actions) < trial["steps"]:
            for action in self._adapter.plan(plan)[: trial["steps"] - len(actions)]:
                over = self._adapter.step(action, observe=False)
                states.append(self._state())
                actions.append(action)
                if over:
                    return states, actions
                if isinstance(self._adapter, SubtaskChain) and self._adapter.subtask_done():
                    break
        return states, actions

    def _repeat(self, trial: dict[str, Any], actions: list[np.ndarray], ask: bool) -> list[str]:
        """The same episode with other actions than planned, asking the expert now and then or never."""
        assert isinstance(self._adapter, OraclePlanner)
        self._adapter.reset(self._at(trial["task"], 0))
        states = [self._state()]
        for step, action in enumerate(actions):
            if ask and step % 7 == 0:
                self._adapter.plan(5)
                states[-1] = self._state()
            over = self._adapter.step((action * 0.5).astype(np.float32), observe=False)
            states.append(self._state())
            if over:
                break
        return states

    def _continue(self, trial: dict[str, Any]) -> bool:
        """Whether a plan begins with what is committed and goes on as the expert does from where that leads."""
        assert isinstance(self._adapter, OraclePlanner)
        self._adapter.reset(self._at(trial["task"], 0))
        committed = (self._adapter.plan(4) * 0.5).astype(np.float32)
        plan = self._adapter.plan(8, committed)
        for action in committed:
            over = self._adapter.step(action, observe=False)
            if over or (isinstance(self._adapter, SubtaskChain) and self._adapter.subtask_done()):
                return True  # nothing is left to go on with
        return bool((plan[:4] == committed).all() and (plan[4:] == self._adapter.plan(4)).all())

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
            yield generator.uniform(space.low, space.high, space.size).astype(np.float32)

    def _state(self) -> str:
        return hashlib.sha256(np.ascontiguousarray(self._adapter.state(), np.float64).tobytes()).hexdigest()


def _with(action: np.ndarray, value: float) -> np.ndarray:
    changed: np.ndarray = action.copy()
    changed[0] = value
    return changed


def _digest_of_look(seen: Observation) -> str:
    summary = hashlib.sha256()
    for name, array in (*sorted(seen.images.items()), *sorted(seen.state.items())):
        summary.update(name.encode() + np.ascontiguousarray(array).tobytes())
    return summary.hexdigest()


def _shapes(seen: Observation) -> dict[str, Any]:
    def described(arrays: Any) -> dict[str, Any]:
        return {name: [str(array.dtype), *array.shape] for name, array in arrays.items()}

    return {"images": described(seen.images), "state": described(seen.state), "instruction": seen.instruction}


def main() -> None:
    """Reads one trial from standard input, writes its findings to standard output; the simulator prints to stderr."""
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
        "oracle": trial.expert,
    }
    answers.write(pack(kinds[question["trial"]["kind"]](question["trial"])))
    answers.close()
