"""The adapter: plays chains of sub-tasks."""

from __future__ import annotations

import copy
from functools import partial

import numpy as np

from evalkit.adapter import Outcome, Setup, SimulatorError
from evalkit.episode import Episode
from evalkit.observation import Observation, ObservationSpec

from . import upstream
from .oracle import Expert
from .sequences import Chain
from .simulator import Simulator, foreseen


class CalvinAdapter:
    """See ``evalkit.adapter.Adapter``; also ``Chains``, ``Demonstrates`` and ``Films``."""

    def __init__(self, setup: Setup, checkouts: upstream.Checkouts, chains: list[Chain], egl: bool) -> None:
        self._setup = setup
        self._checkouts = checkouts
        self._chains = chains
        self._configuration = upstream.environment_configuration(checkouts, cameras=setup.renders, egl=egl)
        self._checks = upstream.task_checks(checkouts)
        self._annotations = upstream.annotations(checkouts)
        self._limit = int(setup.settings["subtask_steps"])
        self._simulator: Simulator | None = None
        self._tasks: tuple[str, ...] = ()
        self._solved = 0
        self._steps = 0
        self._over = False
        self._turned = False
        self._start_info: object = None
        self._expert: Expert | None = None

    def reset(self, episode: Episode) -> None:
        """A fresh environment in the initial state of the episode's sequence."""
        if not 0 <= episode.scene < len(self._chains):
            raise SimulatorError(f"CALVIN has sequences 0 to {len(self._chains) - 1}, not {episode.scene}")
        condition, self._tasks = self._chains[episode.scene]
        self.close()
        self._configuration.seed = episode.seed
        self._simulator = Simulator(self._configuration, *upstream.initial_state(self._checkouts, condition))
        self._solved, self._over, self._turned, self._expert = 0, False, False, None
        self._begin_subtask(self._simulator)

    def step(self, action: np.ndarray, observe: bool) -> bool:
        """Executes one control step and asks the official judge. Images are taken in ``look``."""
        self._setup.action_space.check(action)
        simulator = self._current()
        if self._expert is not None:
            self._expert.act(simulator)  # its memory goes on with every executed step, whoever chose the action
        simulator.act(with_gripper_sign(action))
        self._steps += 1
        self._turned = False
        if self._judged(simulator):
            self._solved += 1
            self._over = self._solved == len(self._tasks)
            self._turned = not self._over
            if self._turned:
                self._begin_subtask(simulator)
        else:
            self._over = self._steps >= self._limit
        return self._over

    def subtask_done(self) -> bool:
        """Whether the last step solved an instruction and the next one begins."""
        return self._turned

    def observe(self, observation_spec: ObservationSpec) -> Observation:
        """The instruction of the running sub-task, and what ``needs`` names."""
        simulator = self._current()
        unknown = [name for name in observation_spec.state if name != "robot_obs"]
        if unknown:
            raise SimulatorError(f"no state vector {', '.join(unknown)}: there is robot_obs")
        return Observation(
            instruction=self._instruction(),
            images={name: simulator.picture(name) for name in observation_spec.cameras},
            state={name: simulator.robot_obs.copy() for name in observation_spec.state},
        )

    def outcome(self) -> Outcome:
        """Solved when all five are; the parts are the instructions that were given."""
        self._current()
        subtasks = [(task, True) for task in self._tasks[: self._solved]]
        if self._solved < len(self._tasks):
            subtasks.append((self._tasks[self._solved], False))
        return Outcome(success=self._solved == len(self._tasks), subtasks=subtasks)

    def state(self) -> np.ndarray:
        """See :meth:`Simulator.state`; and how far the chain is."""
        return np.concatenate([self._current().state(), [self._solved, self._steps]])

    def render_frame(self, camera: str) -> np.ndarray:
        """A frame of this instant."""
        return self._current().picture(camera)

    def plan(self, steps: int, committed: np.ndarray | None = None) -> np.ndarray:
        """The expert's next ``steps`` actions, found by letting it act in a copy of this process."""
        simulator = self._current()
        if self._expert is None:
            self._expert = Expert(self._tasks[self._solved])
        if committed is None:
            committed = np.zeros((0, self._setup.action_space.size), np.float32)
        if steps == 1 and not len(committed):
            return copy.copy(self._expert).act(simulator)[None]
        return foreseen(partial(self._act_on, steps, committed), (steps, self._setup.action_space.size))

    def close(self) -> None:
        """Frees the simulator."""
        if self._simulator is not None:
            self._simulator.close()
        self._simulator = None

    def _begin_subtask(self, simulator: Simulator) -> None:
        self._start_info, self._steps = simulator.info, 0
        if self._expert is not None:
            self._expert = Expert(self._tasks[self._solved])

    def _judged(self, simulator: Simulator) -> bool:
        task = self._tasks[self._solved]
        return bool(self._checks.get_task_info_for_set(self._start_info, simulator.info, {task}))

    def _act_on(self, steps: int, committed: np.ndarray) -> np.ndarray:
        """Lets the expert act for ``steps`` control steps, after what is committed. For where it does not matter."""
        plan = np.zeros((steps, self._setup.action_space.size), dtype=np.float32)
        for step in range(steps):
            assert self._expert is not None
            ours = step < len(committed)
            plan[step] = committed[step] if ours else copy.copy(self._expert).act(self._current())
            if step + 1 == steps or self.step(plan[step], observe=False):
                break  # what comes after the end is never executed
        return plan

    def _instruction(self) -> str:
        task = self._tasks[min(self._solved, len(self._tasks) - 1)]
        return self._annotations[task]

    def _current(self) -> Simulator:
        if self._simulator is None:
            raise SimulatorError("no episode: reset first")
        return self._simulator


def with_gripper_sign(action: np.ndarray) -> np.ndarray:
    """The action with 1 for a gripper entry above 0 and -1 for any other, which is all that upstream accepts."""
    command = action.astype(np.float32)
    command[6] = 1.0 if action[6] > 0 else -1.0
    return command
