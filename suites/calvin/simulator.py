"""One episode's simulator: a fresh environment of upstream's, with cameras off except for observations.

Upstream's ``reset`` keeps the gripper's command, the buttons' memory and the physics engine's warm start, and reloading
the scene leaks memory and changes images under EGL. A new environment for each episode has neither fault and costs less
than one observation per second.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from evalkit.adapter import SimulatorError

BLOCKS = ("red", "blue", "pink")
_POSES = 6  # scene_obs: the sliding door, the drawer, button, switch, light bulb, LED; from here on, (6,) per block


class Simulator:
    """An environment of calvin_env in an initial state."""

    def __init__(self, configuration: Any, robot_obs: np.ndarray, scene_obs: np.ndarray) -> None:
        """Build the environment (0.1 s; 0.3 s with EGL) and reset it.

        Args:
            configuration: from ``upstream.environment_configuration``.
            robot_obs: the robot's initial state, (15,).
            scene_obs: the scene's initial state, (24,).
        """
        import hydra
        import pybullet

        self._bullet = pybullet
        try:
            self._env = hydra.utils.instantiate(configuration, show_gui=False, use_vr=False, use_scene_info=True)
        except SystemExit as error:  # raised by upstream if EGL does not load
            raise SimulatorError("the EGL renderer does not load: EVALKIT_CALVIN_RENDERER=tiny avoids it") from error
        except Exception as error:  # hydra wraps any error, pybullet raises its own error class
            raise SimulatorError(
                f"calvin_env's environment cannot be built ({error}); evalkit doctor calvin lists the missing parts"
            ) from error
        if self._env.cid != 0:  # parts of calvin_env assume the first client of the process
            raise SimulatorError("another physics simulation is open in this process")
        self._cameras = {f"rgb_{camera.name}": camera for camera in self._env.cameras}
        # With the cameras on, like upstream: EGL lights each camera's first image differently, and no policy sees it.
        self._observed: Mapping[str, np.ndarray] = self._env.reset(robot_obs=robot_obs, scene_obs=scene_obs)
        self._env.cameras = []  # upstream would render each of them in every step
        self.info: Any = self._env.get_info()

    def act(self, action: np.ndarray) -> None:
        """Run one control step with upstream's ``step``; ``info`` is then the value that it returned.

        Args:
            action: (7,) float32; the gripper's entry is 1 or -1.
        """
        self._observed, _, _, self.info = self._env.step(action)

    @property
    def robot_obs(self) -> np.ndarray:
        """The robot's observation at this instant, (15,) float64: see ``suite.yaml``."""
        return self._observed["robot_obs"]

    @property
    def slider(self) -> float:
        """The sliding door's displacement to the left, 0 to about 0.28 m."""
        return float(self._observed["scene_obs"][0])

    @property
    def drawer(self) -> float:
        """The drawer's displacement outwards, 0 to about 0.24 m."""
        return float(self._observed["scene_obs"][1])

    @property
    def target(self) -> np.ndarray:
        """The commanded pose that the next action is relative to: x, y, z (m) and Euler angles (rad), (6,)."""
        return np.concatenate([self._env.robot.target_pos, self._env.robot.target_orn])

    def block(self, color: str) -> np.ndarray:
        """Return a block's pose: x, y, z (m) and Euler angles (rad), (6,)."""
        first = _POSES + 6 * BLOCKS.index(color)
        pose: np.ndarray = self._observed["scene_obs"][first : first + 6]
        return pose

    def render(self, camera: str) -> np.ndarray:
        """Return a camera's image of this instant, (H, W, 3) uint8 RGB. Raises SimulatorError for an unknown camera."""
        if camera not in self._cameras:
            there = ", ".join(self._cameras) or "none here: name it in the setup"
            raise SimulatorError(f"no camera {camera}: there is {there}")
        return np.ascontiguousarray(self._cameras[camera].render()[0])

    def state(self) -> np.ndarray:
        """Return everything readable that the future depends on, (N,) float64.

        Every body's and link's pose and velocity, joint forces, contacts with their impulses (the starting point of the
        engine's next solution), the commanded pose, and the memory of buttons, switches and lights.
        """
        bullet, client = self._bullet, self._env.cid
        numbers: list[float] = []
        for number in range(bullet.getNumBodies(physicsClientId=client)):
            body = bullet.getBodyUniqueId(number, physicsClientId=client)
            for part in bullet.getBasePositionAndOrientation(body, physicsClientId=client):
                numbers += part
            for part in bullet.getBaseVelocity(body, physicsClientId=client):
                numbers += part
            for joint in range(bullet.getNumJoints(body, physicsClientId=client)):
                position, velocity, forces, torque = bullet.getJointState(body, joint, physicsClientId=client)
                numbers += (position, velocity, *forces, torque)
                link = bullet.getLinkState(body, joint, physicsClientId=client)
                numbers += (*link[0], *link[1])
        for contact in bullet.getContactPoints(physicsClientId=client):
            numbers += (*contact[1:5], *contact[5], *contact[6], *contact[8:11], contact[12])
        scene = self._env.scene
        for button in scene.buttons:
            numbers += (button.state.value, button.prev_is_pressed)
        numbers += (part.state.value for part in (*scene.switches, *scene.lights))
        command = (*self.target, float(self._env.robot.gripper_action))
        return np.array([*numbers, *command], dtype=np.float64)

    def close(self) -> None:
        """Free the environment."""
        self._env.close()
        self._env.ownsPhysicsClient = False  # otherwise its destructor disconnects again


def simulated_ahead(simulate: Callable[[], np.ndarray], shape: tuple[int, ...]) -> np.ndarray:
    """Run ``simulate`` in a copy of this process, which then ends, and return its result.

    Bullet's own saved states are not exact: a restored state continues differently in the last bits. A forked process
    is exact. The copy must not render.

    Args:
        simulate: returns a float32 array.
        shape: the shape of that array.

    Raises:
        SimulatorError: ``simulate`` raised an error, or the copy died.
    """
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(reader)
            with os.fdopen(writer, "wb") as pipe:
                pipe.write(_reply(simulate))
        finally:
            os._exit(0)  # no destructor of the simulator, no handler of this process
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        message = pipe.read()
    os.waitpid(child, 0)
    if message[:1] == b"!":
        raise SimulatorError(message[1:].decode())
    expected = struct.calcsize(f"{int(np.prod(shape))}f")
    if len(message) != 1 + expected:
        raise SimulatorError("the copy of the simulator that plans for the oracle has died")
    return np.frombuffer(message[1:], dtype=np.float32).reshape(shape).copy()


def _reply(simulate: Callable[[], np.ndarray]) -> bytes:
    try:
        return b"=" + np.ascontiguousarray(simulate(), dtype=np.float32).tobytes()
    except Exception as error:
        text = str(error) if isinstance(error, SimulatorError) else f"{type(error).__name__}: {error}"
        return b"!" + text.encode()
