"""One task's simulator: reset, control step, saved states.

It runs the physics like upstream's environment, call for call, and leaves out unused observations, above all images,
which cost over 90 % of an upstream step. States and images are bit-identical to upstream's.
"""

from __future__ import annotations

import copy
import gc
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import mujoco
import numpy as np

from evalkit.adapter import SimulatorError

from .control import ArmControl

T = TypeVar("T")

# Upstream observes inside a control step, after this physics step (of 25, from 0): its 20 Hz sensor clock runs two
# ticks ahead because a reset observes twice. Rounding does not shift it within 2000 control steps.
OBSERVED_SUBSTEP = 23
PLACEMENT_ATTEMPTS = 100


@dataclass(frozen=True)
class CameraView:
    """A camera of the simulator's model and the size of its image in pixels."""

    upstream: str
    height: int
    width: int


@dataclass(frozen=True)
class Sample:
    """Upstream's observation of a control step.

    Attributes:
        state: all the suite's state vectors, float64.
        images: (H, W, 3) uint8 RGB of the requested cameras, first row at the bottom.
    """

    state: Mapping[str, np.ndarray]
    images: Mapping[str, np.ndarray]


class Scene:
    """The simulator of one task, reused from episode to episode."""

    def __init__(self, task_file: Path, control_hz: int, renders: bool, seed: int) -> None:
        """Build the task's model (2–4 s).

        Args:
            task_file: the task's BDDL file.
            control_hz: control steps per simulated second.
            renders: True if images will be rendered; otherwise GL is not used.
            seed: the simulator's seed (building places the objects once, like a reset).
        """
        from libero.libero.envs.env_wrapper import ControlEnv

        np.random.seed(seed)
        self.env: Any = _placed(
            lambda: ControlEnv(
                bddl_file_name=str(task_file),
                control_freq=control_hz,
                use_camera_obs=False,
                has_offscreen_renderer=renders,
                hard_reset=False,
            )
        ).env
        self.env._observables = OrderedDict()  # 39 sensors, polled at every physics step: see observe
        # Upstream's evaluations do a hard reset after building. It adds the samplers of open drawers and doors a second
        # time and draws from both. The random numbers after those place the fixtures.
        self.env.object_property_initializers *= 2
        self.renders = renders
        self._fixtures = [self.env.obj_body_id[name] for name in self.env.fixtures_dict]
        self._control = ArmControl(self.env.sim, self.env.robots[0])
        self._substeps = int(self.env.control_timestep / self.env.model_timestep)

    @property
    def model(self) -> mujoco.MjModel:
        """The MuJoCo model."""
        return self.env.sim.model._model

    @property
    def data(self) -> mujoco.MjData:
        """The MuJoCo data. Quantities derived from positions are those of the last physics step."""
        return self.env.sim.data._data

    def reset(self, seed: int, initial_state: np.ndarray) -> None:
        """Put the task in one of its initial states, without a trace of earlier episodes."""
        gripper = self.env.robots[0].gripper
        gripper.current_action = np.zeros(gripper.dof)  # robosuite's own reset leaves it
        np.random.seed(seed)
        _placed(self.env.reset)
        self.env.sim.set_state_from_flattened(initial_state)
        self.env.sim.forward()
        self.env._post_process()
        self._control = ArmControl(self.env.sim, self.env.robots[0])

    def advance(self, action: np.ndarray, cameras: Mapping[str, CameraView]) -> Sample:
        """Run one control step and return the observation of upstream's instant.

        Args:
            action: (7,) within the action space.
            cameras: the cameras to render, by the names of their images.
        """
        command = action.astype(np.float64)
        model, data, sample = self.model, self.data, None
        for substep in range(self._substeps):
            mujoco.mj_forward(model, data)
            if substep == 0:
                self._control.command(command)
            self._control.drive(command)
            mujoco.mj_step(model, data)
            if substep == OBSERVED_SUBSTEP:
                sample = self.observe(cameras)
        assert sample is not None
        return sample

    def conclude(self) -> bool:
        """End an executed control step (lamps and burners switch). Returns True if the task is solved."""
        self.env._post_process()
        return self.solved()

    def solved(self) -> bool:
        """Return the result of the benchmark's own check."""
        return bool(self.env._check_success())

    def observe(self, cameras: Mapping[str, CameraView]) -> Sample:
        """Return the state vectors of this instant and images of ``cameras``. Changes no state."""
        robot, data = self.env.robots[0], self.data
        hand = self.env.sim.model.body_name2id(robot.robot_model.eef_name)
        state = {
            "eef_pos": data.site_xpos[robot.eef_site_id].copy(),
            "eef_quat": np.roll(data.xquat[hand], -1),
            "gripper_qpos": data.qpos[robot._ref_gripper_joint_pos_indexes],
            "gripper_qvel": data.qvel[robot._ref_gripper_joint_vel_indexes],
            "joint_pos": data.qpos[robot._ref_joint_pos_indexes],
            "joint_vel": data.qvel[robot._ref_joint_vel_indexes],
        }
        return Sample(state, {name: self.render(view) for name, view in cameras.items()})

    def render(self, view: CameraView) -> np.ndarray:
        """Return an (H, W, 3) uint8 RGB image of this instant, first row at the bottom. Changes no state."""
        image: np.ndarray = self.env.sim.render(camera_name=view.upstream, height=view.height, width=view.width)
        return image

    def state(self) -> np.ndarray:
        """Return everything that the future depends on, (N,) float64.

        That is MuJoCo's integration state (time, positions, velocities, controls, warm start), robosuite's memory (the
        gripper's target, the controller's orientation goal) and the fixtures' placement by this reset.
        """
        kind = mujoco.mjtState.mjSTATE_INTEGRATION
        physics = np.empty(mujoco.mj_stateSize(self.model, kind))
        mujoco.mj_getState(self.model, self.data, physics, kind)
        robot = self.env.robots[0]
        fingers = np.broadcast_to(robot.gripper.current_action, (2,))
        goal = robot.controller.goal_ori.ravel()
        fixtures = (self.model.body_pos[self._fixtures].ravel(), self.model.body_quat[self._fixtures].ravel())
        return np.concatenate([physics, fingers, goal, *fixtures])

    @contextmanager
    def preserved(self) -> Iterator[None]:
        """Undo, bit for bit, every step that is run inside this context."""
        robot, holder, physics = self.env.robots[0], self.env.sim.data, self.data
        controller, fingers = dict(vars(robot.controller)), robot.gripper.current_action
        holder._data = copy.copy(physics)  # steps run on a copy of MuJoCo's complete data
        try:
            yield
        finally:
            holder._data = physics
            vars(robot.controller).update(controller)  # arrays are replaced at each step, never written into
            robot.gripper.current_action = fingers

    def close(self) -> None:
        """Free the model and its GL context."""
        self.env.close()
        self.env = None
        gc.collect()


def _placed(place: Callable[[], T]) -> T:
    """Call ``place`` until the random placement of the objects succeeds, like upstream."""
    from robosuite.utils.errors import RandomizationError

    for _ in range(PLACEMENT_ATTEMPTS):
        try:
            return place()
        except RandomizationError:
            continue
    raise SimulatorError(f"no room for the task's objects in {PLACEMENT_ATTEMPTS} attempts")
