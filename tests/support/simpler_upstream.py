"""Runs in simpler's own environment: the suite beside upstream's own loop, step by step. Prints JSON.

What upstream does here is what the released evaluation does: build, reset with the scene's options, step, look at each
observation; its end effector pose is computed as the fork's code does.
"""

from __future__ import annotations

import hashlib
import json
import sys
import types
from typing import Any

import numpy as np

question = json.loads(sys.argv[1])
sys.path.append(question["package"])
package = types.ModuleType("suite")
package.__path__ = [question["folder"]]
sys.modules["suite"] = package

from suite.adapter import build
from suite.grid import scene_of

from evalkit.adapter import Setup
from evalkit.episode import Episode
from evalkit.observation import ObservationSpec


def digest(array: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()


def gentle(seed: int, steps: int) -> np.ndarray:
    chance = np.random.default_rng(seed)
    actions = chance.uniform(-1, 1, (steps, 7)) * np.array([0.06] * 3 + [0.12] * 3 + [1])
    actions[3, 3] = 2.0  # beyond the declared bounds, and executed
    return actions


def fork_eef(env: Any) -> np.ndarray:
    from transforms3d.quaternions import mat2quat

    agent = env.unwrapped.agent
    hand = next(link for link in agent.robot.get_links() if link.name == agent.config.ee_link_name)
    in_base = np.linalg.inv(agent.base_pose.to_transformation_matrix()) @ hand.get_pose().to_transformation_matrix()
    width = 1 - agent.get_gripper_closedness()
    return np.concatenate([in_base[:3, 3], mat2quat(in_base[:3, :3]), [width]])


def upstream(setup: Setup, episode: Episode, actions: np.ndarray, every: int) -> list[list[Any]]:
    """State digest, verdict, instruction after each step, and image and proprioception where looked at."""
    from simpler_env.utils.env.env_builder import build_maniskill2_env
    from simpler_env.utils.env.observation_utils import get_image_from_maniskill2_obs_dict

    scene = scene_of(setup, episode.split, episode.task, episode.scene)
    options = dict(scene.options)
    if options.get("shader_dir") == "rt":
        options["shader_dir"] = setup.settings["cpu_shader"]  # these tests run on the CPU too
    if scene.overlay:
        options["rgb_overlay_path"] = f"{setup.sources['ManiSkill2_real2sim']}/data/real_inpainting/{scene.overlay}"
    env = build_maniskill2_env(
        scene.environment,
        obs_mode="rgbd",
        control_mode=scene.robot["control_mode"],
        control_freq=scene.robot["control_hz"],
        max_episode_steps=scene.limit,
        camera_cfgs={"add_segmentation": True},
        **options,
    )
    seen, _ = env.reset(options={name: dict(value) for name, value in scene.placement.items()})
    found, done = [], False
    for step in range(len(actions) + 1):
        look = step % every == 0
        image = digest(get_image_from_maniskill2_obs_dict(env.unwrapped, seen)) if look else None
        pose = digest(fork_eef(env)) if look else None
        state = digest(env.unwrapped.get_state())
        found.append([state, done, env.unwrapped.get_language_instruction(), image, pose])
        if done or step == len(actions):
            return found
        seen, _, done, _, _ = env.step(actions[step].astype(np.float64))
    return found


def ours(
    adapter: Any, observation_spec: ObservationSpec, episode: Episode, actions: np.ndarray, every: int
) -> list[list[Any]]:
    """The same of the suite's adapter, looked at only every so often."""
    adapter.reset(episode)
    found, over = [], False
    for step in range(len(actions) + 1):
        image = pose = None
        if step % every == 0:
            seen = adapter.observe(observation_spec)
            image = digest(seen.images[observation_spec.cameras[0]])
            pose = digest(np.concatenate([seen.state["eef_pose"], seen.state["gripper_openness"]]))
        state = digest(adapter._simulation.env.get_state())
        found.append([state, adapter.outcome().success, adapter._simulation.instruction(), image, pose])
        if over or step == len(actions):
            return found
        over = adapter.step(actions[step], observe=False)
    return found


def moved(adapter: Any, observation_spec: ObservationSpec, episode: Episode) -> list[list[float]]:
    """For each direction and each axis of rotation: how far along it the hand went in six steps, and how far off it.

    Lengths in m; rotations in rad, about the axes of the base.
    """
    from transforms3d.axangles import mat2axangle
    from transforms3d.quaternions import quat2mat

    found = []
    for axis in range(6):
        adapter.reset(episode)
        before = adapter.observe(observation_spec).state["eef_pose"]
        action = np.zeros(7, np.float32)
        action[axis] = -0.02 if axis == 2 else 0.02 if axis < 3 else 0.05
        for _ in range(6):
            adapter.step(action, observe=False)
        after = adapter.observe(observation_spec).state["eef_pose"]
        if axis < 3:
            change = after[:3] - before[:3]
        else:
            direction, angle = mat2axangle(quat2mat(after[3:]) @ quat2mat(before[3:]).T)
            change = np.array(direction) * angle
        along = float(change[axis % 3] * np.sign(action[axis]))
        found.append([along, float(np.linalg.norm(np.delete(change, axis % 3)))])
    return found


def fingers(adapter: Any, observation_spec: ObservationSpec, episode: Episode) -> list[float]:
    """The gripper's openness at first, after eight steps of +1 and after eight of -1."""
    adapter.reset(episode)
    widths = [adapter.observe(observation_spec).state["gripper_openness"][0]]
    for sign in (1, -1):
        for _ in range(8):
            adapter.step(np.float32([0, 0, 0, 0, 0, 0, sign]), observe=False)
        widths.append(adapter.observe(observation_spec).state["gripper_openness"][0])
    return [float(width) for width in widths]


def main() -> None:
    camera = question["camera"]
    observation_spec = ObservationSpec(
        (camera,) if question["what"] == "compare" else (), ("eef_pose", "gripper_openness")
    )
    setup = Setup(question["suite"], observation_spec, sources=question["sources"])
    adapter = build(setup)
    episode = Episode("simpler", question["split"], question["task"], question["scene"], 2022)
    if question["what"] == "compare":
        actions = gentle(question["scene"], question["steps"])
        here = ours(adapter, observation_spec, episode, actions, question["every"])
        answer: Any = [here, upstream(setup, episode, actions, question["every"])]
    else:
        answer = {
            "moved": moved(adapter, observation_spec, episode),
            "fingers": fingers(adapter, observation_spec, episode),
        }
    sys.stdout.write(json.dumps(answer) + "\n")


main()
