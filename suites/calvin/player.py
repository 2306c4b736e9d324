"""The adapter: chains of sub-tasks."""

from __future__ import annotations

import copy
from functools import partial

import numpy as np

from evalkit.adapter import Outcome, Setup, SimulatorError
from evalkit.episode import Episode
from evalkit.observation import Observation, ObservationSpec

from . import upstream
from .oracle import Oracle
from .sequences import Chain
from .simulator import Simulator, simulated_ahead


class CalvinAdapter:
    """See ``evalkit.adapter.Adapter``; also ``SubtaskChain``, ``OraclePlanner`` and ``FrameRenderer``."""

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
        self._subtask_done = False
        self._start_info: object = None
        self._oracle: Oracle | None = None

    def reset(self, episode: Episode) -> None:
        """Build a fresh environment in the initial state of the episode's sequence."""
        if not 0 <= episode.scene < len(self._chains):
            raise SimulatorError(f"CALVIN has sequences 0 to {len(self._chains) - 1}, not {episode.scene}")
        condition, self._tasks = self._chains[episode.scene]
        self.close()
        self._configuration.seed = episode.seed
        self._simulator = Simulator(self._configuration, *upstream.initial_state(self._checkouts, condition))
        self._solved, self._over, self._subtask_done, self._oracle = 0, False, False, None
        self._begin_subtask(self._simulator)

    def step(self, action: np.ndarray, observe: bool) -> bool:
        """Execute one control step and apply upstream's check. Images are taken in :meth:`observe`."""
        self._setup.action_space.check(action)
        simulator = self._current()
        if self._oracle is not None:
            self._oracle.act(simulator)  # its memory advances with every executed step, whatever the action's origin
        simulator.act(with_gripper_sign(action))
        self._steps += 1
        self._subtask_done = False
        if self._solves(simulator):
            self._solved += 1
            self._over = self._solved == len(self._tasks)
            self._subtask_done = not self._over
            if self._subtask_done:
                self._begin_subtask(simulator)
        else:
            self._over = self._steps >= self._limit
        return self._over

    def subtask_done(self) -> bool:
        """Return True if the last step solved an instruction and the next one begins."""
        return self._subtask_done

    def observe(self, observation_spec: ObservationSpec) -> Observation:
        """Return the instruction of the running sub-task, and the content that ``observation_spec`` names."""
        simulator = self._current()
        unknown = [name for name in observation_spec.state if name != "robot_obs"]
        if unknown:
            raise SimulatorError(f"no state vector {', '.join(unknown)}: there is robot_obs")
        return Observation(
            instruction=self._instruction(),
            images={name: simulator.render(name) for name in observation_spec.cameras},
            state={name: simulator.robot_obs.copy() for name in observation_spec.state},
        )

    def outcome(self) -> Outcome:
        """Return success if all five sub-tasks are solved; ``subtasks`` are the instructions given so far."""
        self._current()
        subtasks = [(task, True) for task in self._tasks[: self._solved]]
        if self._solved < len(self._tasks):
            subtasks.append((self._tasks[self._solved], False))
        return Outcome(success=self._solved == len(self._tasks), subtasks=subtasks)

    def state(self) -> np.ndarray:
        """Return :meth:`Simulator.state` and the chain's progress."""
        return np.concatenate([self._current().state(), [self._solved, self._steps]])

    def render_frame(self, camera: str) -> np.ndarray:
        """Return a frame of this instant."""
        return self._current().render(camera)

    def plan(self, steps: int, committed: np.ndarray | None = None) -> np.ndarray:
        """Return the oracle's next ``steps`` actions: it acts in a copy of this process."""
        simulator = self._current()
        if self._oracle is None:
            self._oracle = Oracle(self._tasks[self._solved])
        if committed is None:
            committed = np.zeros((0, self._setup.action_space.size), np.float32)
        if steps == 1 and not len(committed):
            return copy.copy(self._oracle).act(simulator)[None]
        return simulated_ahead(partial(self._act_on, steps, committed), (steps, self._setup.action_space.size))

    def close(self) -> None:
        """Free the simulator."""
        if self._simulator is not None:
            self._simulator.close()
        self._simulator = None

    def _begin_subtask(self, simulator: Simulator) -> None:
        self._start_info, self._steps = simulator.info, 0
        if self._oracle is not None:
            self._oracle = Oracle(self._tasks[self._solved])

    def _solves(self, simulator: Simulator) -> bool:
        task = self._tasks[self._solved]
        return bool(self._checks.get_task_info_for_set(self._start_info, simulator.info, {task}))

    def _act_on(self, steps: int, committed: np.ndarray) -> np.ndarray:
        """Let the oracle act for ``steps`` control steps after the committed ones. For use in a copy of the process."""
        plan = np.zeros((steps, self._setup.action_space.size), dtype=np.float32)
        for step in range(steps):
            assert self._oracle is not None
            ours = step < len(committed)
            plan[step] = committed[step] if ours else copy.copy(self._oracle).act(self._current())
            if step + 1 == steps or self.step(plan[step], observe=False):
                break  # actions after the end are never executed
        return plan

    def _instruction(self) -> str:
        task = self._tasks[min(self._solved, len(self._tasks) - 1)]
        return self._annotations[task]

    def _current(self) -> Simulator:
        if self._simulator is None:
            raise SimulatorError("no episode: reset first")
        return self._simulator


def with_gripper_sign(action: np.ndarray) -> np.ndarray:
    """Return the action with a gripper entry of 1 if above 0, else -1: upstream accepts no other value."""
    command = action.astype(np.float32)
    command[6] = 1.0 if action[6] > 0 else -1.0
    return command
