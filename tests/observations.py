"""Observations of the right shape for each setting, the same every time: what golden tests are made from."""

from __future__ import annotations

import numpy as np

from evalkit.observation import Observation

INSTRUCTIONS = (
    "pick up the black bowl",
    "Put both THE moka pots on the stove",
    "slide the door to the left",
    "öffne die Schublade",
    "move near the 7up can",
)
IMAGES = {
    "libero": {"agentview": (256, 256), "wrist": (256, 256)},
    "calvin": {"rgb_static": (200, 200), "rgb_gripper": (84, 84)},
    "widowx": {"third_view": (480, 640)},
    "google_robot": {"overhead": (512, 640)},
    "metaworld": {"corner2": (480, 480), "gripperPOV": (480, 480)},
}
STATE = {
    "libero": {"eef_pos": 3, "eef_quat": 4, "gripper_qpos": 2},
    "calvin": {"robot_obs": 15},
    "widowx": {"eef_pose": 7, "gripper_openness": 1},
    "google_robot": {"eef_pose": 7, "gripper_openness": 1},
    "metaworld": {"proprioception": 4},
}


def observations(setting: str, count: int = 20) -> list[Observation]:
    """Smooth pictures with noise, unit quaternions, every instruction in turn."""
    rng = np.random.default_rng(sorted(IMAGES).index(setting))
    return [_observation(setting, INSTRUCTIONS[n % len(INSTRUCTIONS)], rng) for n in range(count)]


def _observation(setting: str, instruction: str, rng: np.random.Generator) -> Observation:
    images = {name: _picture(shape, rng) for name, shape in IMAGES[setting].items()}
    state = {name: rng.normal(size=size) for name, size in STATE[setting].items()}
    if "eef_quat" in state:
        state["eef_quat"] /= np.linalg.norm(state["eef_quat"])
    if "eef_pose" in state:
        state["eef_pose"][3:] /= np.linalg.norm(state["eef_pose"][3:])
        state["gripper_openness"] = rng.uniform(size=1)
    return Observation(instruction, images, state)


def _picture(shape: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    waves = [np.sin(rows * rng.uniform(0, 0.1) + columns * rng.uniform(0, 0.1)) for _ in range(3)]
    picture: np.ndarray = (np.stack(waves, -1) * 100 + 128 + rng.integers(-20, 20, (*shape, 3))).astype(np.uint8)
    return picture
