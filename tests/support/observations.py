"""Deterministic observations of the right shape for each preset, the input of golden tests."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

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


def observations(preset_name: str, count: int = 20) -> list[Observation]:
    """Smooth pictures with noise, unit quaternions, every instruction in turn."""
    rng = np.random.default_rng(sorted(IMAGES).index(preset_name))
    return [_observation(preset_name, INSTRUCTIONS[n % len(INSTRUCTIONS)], rng) for n in range(count)]


def _observation(preset_name: str, instruction: str, rng: np.random.Generator) -> Observation:
    images = {name: _picture(shape, rng) for name, shape in IMAGES[preset_name].items()}
    state = {name: rng.normal(size=size) for name, size in STATE[preset_name].items()}
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


def seen_with_exact_requests(
    preset_name: str, robot_type: str, reach: float, chunk: int, **where: Any
) -> list[Observation]:
    """What a policy sees in a run of the real simulator; each request made of it equals an independent computation.

    The policy acts at random within ``reach``, in chunks of ``chunk`` actions; ``where`` is for ``evalkit.evaluate``.
    """
    pytest.importorskip("PIL")
    pytest.importorskip("transforms3d")
    import evalkit
    from evalkit.policies.xiaomi_robotics_0.requests import presets
    from support.expected_requests import expected

    preset, seen = presets()[preset_name], []

    def policy(observation: Observation) -> np.ndarray:
        seen.append(observation)
        return np.random.default_rng(len(seen)).uniform(-reach, reach, (chunk, 7)).astype(np.float32)

    evalkit.evaluate(
        policy,
        episodes=1,
        chunk=chunk,
        cameras=preset.observation_spec.cameras,
        state=preset.observation_spec.state,
        **where,
    )
    for observation in seen:
        request = preset.build_request(observation, robot_type)
        prompt, images, state, seed = expected(preset_name, observation)
        assert (request.prompt, request.seed) == (prompt, seed) and request.state.tobytes() == state.tobytes()
        assert [i.tobytes() for i in request.images] == [i.tobytes() for i in images]
    return seen
