"""The arm's controller with upstream's numbers, and constant quantities looked up once.

robosuite finds sites and actuators by name, and computes each Jacobian twice, at every physics step: a fifth of the
time of a control step that renders nothing. The arithmetic here is robosuite's, operation for operation, with the same
bits.
"""

from __future__ import annotations

from typing import Any

import mujoco
import numpy as np


class ArmControl:
    """The driver of one robot's arm and gripper until the next reset, which gives the robot a new controller."""

    def __init__(self, sim: Any, robot: Any) -> None:
        """Take over the observation of the arm from ``robot.controller``; ``sim`` is robosuite's."""
        self._sim, self._robot, self._controller = sim, robot, robot.controller
        self._site = robot.eef_site_id
        self._positions = np.array(self._controller.qpos_index)
        self._velocities = np.array(self._controller.qvel_index)
        self._joints = np.array(robot._ref_joint_actuator_indexes)
        self._lowest, self._highest = robot.torque_limits
        self._fingers = np.array(robot._ref_joint_gripper_actuator_indexes)
        closing = sim.model.actuator_ctrlrange[self._fingers]
        self._finger_middle = 0.5 * (closing[:, 1] + closing[:, 0])
        self._finger_reach = 0.5 * (closing[:, 1] - closing[:, 0])
        self._controller.update = self._observe_arm

    def command(self, action: np.ndarray) -> None:
        """Set the goal of a control step: a pose change, relative to the pose of this instant."""
        self._controller.set_goal(action[: self._controller.control_dim])

    def drive(self, action: np.ndarray) -> None:
        """Set the motors for one physics step, towards the goal."""
        controls = self._sim.data._data.ctrl
        torques = self._controller.run_controller()
        grip = self._robot.gripper.format_action(action[self._controller.control_dim :])
        controls[self._fingers] = self._finger_middle + self._finger_reach * grip
        controls[self._joints] = np.clip(torques, self._lowest, self._highest)

    def _observe_arm(self, force: bool = False) -> None:
        """Do the work of robosuite's ``Controller.update``."""
        arm = self._controller
        if not (arm.new_update or force):
            return
        model, data = self._sim.model._model, self._sim.data._data
        mujoco.mj_forward(model, data)
        arm.ee_pos = data.site_xpos[self._site].copy()
        arm.ee_ori_mat = data.site_xmat[self._site].reshape(3, 3).copy()
        linear, angular = np.zeros((3, model.nv)), np.zeros((3, model.nv))
        mujoco.mj_jacSite(model, data, linear, angular, self._site)
        arm.ee_pos_vel, arm.ee_ori_vel = np.dot(linear, data.qvel), np.dot(angular, data.qvel)
        arm.joint_pos, arm.joint_vel = data.qpos[self._positions], data.qvel[self._velocities]
        arm.J_pos, arm.J_ori = linear[:, self._velocities], angular[:, self._velocities]
        arm.J_full = np.vstack([arm.J_pos, arm.J_ori])
        masses = np.empty((model.nv, model.nv))
        mujoco.mj_fullM(model, masses, data.qM)
        arm.mass_matrix = masses[self._velocities, :][:, self._velocities]
        arm.new_update = False
