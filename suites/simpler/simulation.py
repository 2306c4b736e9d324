"""One episode's simulator, built for one scene and discarded after it."""

from __future__ import annotations

import copy
import gc
from collections.abc import Iterator
from typing import Any

import numpy as np

from evalkit.adapter import Setup

from . import upstream
from .grid import Scene

# the memory of upstream's tasks between steps, beside their episode statistics
MEMORY = ("_elapsed_steps", "cur_subtask_id", "consecutive_grasp", "lifted_obj")


class Simulation:
    """Upstream's environment for one scene, at its first control step."""

    def __init__(self, setup: Setup, scene: Scene, shader: str | None) -> None:
        """Build the environment and reset it, like upstream's evaluation (0.3 to 1.5 s).

        Args:
            setup: the suite and its sources.
            scene: the grid's cell.
            shader: see :func:`upstream.options`.
        """
        from simpler_env.utils.env.env_builder import build_maniskill2_env

        wanted = upstream.options(setup, scene, shader)
        # without the wrappers and the time limit, which the player replaces, and without images: upstream would also
        # render while it builds and resets
        wrapped = build_maniskill2_env(scene.environment, obs_mode="none", max_episode_steps=scene.limit, **wanted)
        self.env: Any = wrapped.unwrapped
        self._camera = str(scene.robot["upstream_camera"])
        self.env.reset(options=copy.deepcopy(dict(scene.placement)))  # some tasks write into their options
        self.success = False

    def advance(self, action: np.ndarray) -> bool:
        """Run one control step without rendering. Returns True if the benchmark's own check holds now.

        Args:
            action: (7,) within the action space.
        """
        _, _, done, _, _ = self.env.step(np.array(action, np.float64))  # a copy: SciPy takes no read-only array
        self.success = bool(done)
        return self.success

    def instruction(self) -> str:
        """Return the instruction of this instant."""
        return str(self.env.get_language_instruction())

    def render(self) -> np.ndarray:
        """Return an (H, W, 3) uint8 RGB image of this instant, any photograph included. Changes no physics.

        Only this robot's own camera is rendered; upstream also renders a small one that nothing reads.
        """
        env, cameras = self.env, self.env._cameras
        env._cameras = {self._camera: cameras[self._camera]}
        env._obs_mode = "image"
        try:
            color = env.get_obs()["image"][self._camera]["Color"]
        finally:
            env._obs_mode = "none"
            env._cameras = cameras
        rgb: np.ndarray = np.clip(color[..., :3] * 255, 0, 255).astype(np.uint8)
        return rgb

    def eef_pose(self) -> np.ndarray:
        """Return the tool centre's x, y, z (m) and quaternion w, x, y, z in the frame of the base link, (7,) float64.

        Computed in the precision and order of the fork's ``obs["agent"]["eef_pos"]``, for equal bits.
        """
        from transforms3d.quaternions import mat2quat

        base = self.env.agent.base_pose.to_transformation_matrix()
        hand = np.linalg.inv(base) @ self.env.tcp.get_pose().to_transformation_matrix()
        return np.concatenate([hand[:3, 3], mat2quat(hand[:3, :3])]).astype(np.float64)

    def gripper_openness(self) -> np.ndarray:
        """Return the gripper's opening, (1,) float64: 0 closed to 1 open."""
        return np.array([1 - self.env.agent.get_gripper_closedness()], np.float64)

    def state(self) -> np.ndarray:
        """Return poses and velocities of all bodies and joints, controller targets and the task's memory, (N,) float64.

        That is all that SAPIEN exposes: PhysX also keeps contacts from step to step, which cannot be read.
        """
        env = self.env
        memory = [float(getattr(env, name, 0.0)) for name in MEMORY]
        statistics = [float(value) for value in env.episode_stats.values()]
        return np.concatenate([env.get_state(), *self._targets(), memory, statistics]).astype(np.float64)

    def close(self) -> None:
        """Free the scene."""
        self.env.close()
        self.env = None
        gc.collect()

    def _targets(self) -> Iterator[np.ndarray]:
        for part in self.env.agent.controller.controllers.values():
            yield np.ravel(part._target_qpos)
            yield np.ravel(part._last_drive_qpos_targets)
            if hasattr(part, "_target_pose"):
                yield np.concatenate([part._target_pose.p, part._target_pose.q])
            for path in (part._interpolation_path, part._interpolation_path_vel):
                yield np.zeros(0) if path is None else np.ravel(path[min(part._sim_steps, len(path) - 1)])
