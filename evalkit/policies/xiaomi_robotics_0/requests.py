"""Model requests for observations, equal to those of the released scripts, for each robot that they support.

Source: the scripts of https://github.com/XiaomiRobotics/Xiaomi-Robotics-0 (``eval_libero``, ``eval_calvin``,
``eval_simplerenv``, ``deploy/server.py``). Prompt, images, state and sampling seed of a request equal theirs byte for
byte for the same observation.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from evalkit.execution import Prefix
from evalkit.observation import Observation, ObservationSpec
from evalkit.policies.rotations import axis_angle

if TYPE_CHECKING:
    from PIL import Image

STATE_SIZE = 32
ACTION_SIZE = 32
CROP = 0.95
_TOP_DOWN = np.array([[0.0, 0.0, 1.0], [0.0, 1.0, 0.0], [-1.0, 0.0, 0.0]])  # the gripper's rest rotation in WidowX data


@dataclass(frozen=True)
class ModelRequest:
    """The input of one inference of the model.

    Attributes:
        prompt: the whole text, with one image marker per image.
        images: RGB, in the order of the prompt's markers.
        state: (32,) float64 proprioception, zeros beyond the preset's own values.
        seed: seed of the noise that the flow starts from, in [0, 2³²).
        prefix: the prefix that the chunk must continue, with actions (K, 32) as the model's processor decodes them; or
            None.
    """

    prompt: str
    images: tuple[Image.Image, ...]
    state: np.ndarray
    seed: int
    prefix: Prefix | None = None


@dataclass(frozen=True)
class RobotPreset:
    """The released rules for one robot in one benchmark.

    Attributes:
        name: its name in ``checkpoints.yaml`` and on the command line.
        observation_spec: the cameras and state vectors that it reads.
        robot_types: the model's names for this robot; the first is the default.
        suites: the suites that have this robot.
        build_request: (observation, robot_type) → the model's input.
        to_suite_actions: (T, 32) float32 decoded by the model's processor → (T, A) in the suite's action space and its
            dtype.
        to_model_actions: its inverse: (K, A) → (K, 32) float32, zeros beyond A columns. If several decoded values give
            the same action, it returns the plain one: a gripper fully open or closed, a pitch within ±90°.
    """

    name: str
    observation_spec: ObservationSpec
    robot_types: tuple[str, ...]
    suites: tuple[str, ...]
    build_request: Callable[[Observation, str], ModelRequest]
    to_suite_actions: Callable[[np.ndarray], np.ndarray]
    to_model_actions: Callable[[np.ndarray], np.ndarray]


def build_prompt(instruction: str, *views: str) -> str:
    """Return the prompt, with one image marker under the name of each view."""
    markers = "".join(f"# {view} View\n<|vision_start|><|image_pad|><|vision_end|>\n" for view in views)
    return (
        "<|im_start|>user\nThe following observations are captured from multiple views.\n"
        f"{markers}Generate robot actions for the task:\n{instruction} /no_cot<|im_end|>\n"
        "<|im_start|>assistant\n<cot></cot><|im_end|>\n"
    )


def sampling_seed(fields: Mapping[str, Any]) -> int:
    """Return the sampling seed: SHA-256 of the request's canonical JSON, modulo 2³².

    Keys sorted, no white space, not ASCII-escaped; arrays by dtype, shape and the bytes in hex; images by mode, size
    and the MD5 of their bytes.
    """

    def to_json(value: Any) -> dict[str, Any]:
        if isinstance(value, np.ndarray):
            data = value.tobytes().hex()
            return {"__type__": "numpy", "dtype": str(value.dtype), "shape": list(value.shape), "data": data}
        content = hashlib.md5(value.tobytes(), usedforsecurity=False).hexdigest()
        return {"__type__": "PIL.Image", "mode": value.mode, "size": list(value.size), "content_hash": content}

    text = json.dumps(fields, default=to_json, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return int(hashlib.sha256(text.encode()).hexdigest(), 16) % 2**32


def pad_state(*parts: np.ndarray) -> np.ndarray:
    """Concatenate the parts and pad them with zeros: (32,) float64."""
    state = np.zeros(STATE_SIZE)
    values = np.concatenate(parts)
    state[: len(values)] = values
    return state


def rotate_180(image: np.ndarray) -> Image.Image:
    """Return the image with both axes flipped."""
    from PIL import Image

    return Image.fromarray(np.ascontiguousarray(image[::-1, ::-1]))


def center_crop(image: Image.Image) -> Image.Image:
    """Crop the central 95 % of each side (whole pixels, rounded down); resize back with bilinear interpolation."""
    from PIL import Image

    width, height = image.size
    crop_width, crop_height = int(width * CROP), int(height * CROP)
    left, top = (width - crop_width) // 2, (height - crop_height) // 2
    part = image.crop((left, top, left + crop_width, top + crop_height))
    return part.resize((width, height), Image.Resampling.BILINEAR)


def _two_views(robot_type: str, instruction: str, state: np.ndarray, base: Any, wrist: Any) -> ModelRequest:
    """Build LIBERO's and CALVIN's request, whose seed is computed before the full stop is added."""
    language = instruction.capitalize()
    fields = {"task_id": robot_type, "state": state, "base": base, "wrist_left": wrist, "language": language}
    return ModelRequest(build_prompt(f"{language}.", "Base", "Left-Wrist"), (base, wrist), state, sampling_seed(fields))


def _one_view(robot_type: str, view: str, instruction: str, state: np.ndarray, base: Any) -> ModelRequest:
    """Build SimplerEnv's request, whose seed covers the whole prompt, and the state as a batch of one step."""
    prompt = build_prompt(f"{instruction[:1].upper()}{instruction[1:]}.", view)
    fields = {"task_id": robot_type, "state": state[None, None], "language": prompt, "base": base}
    return ModelRequest(prompt, (base,), state, sampling_seed(fields))


def _libero(observation: Observation, robot_type: str) -> ModelRequest:
    state = observation.state
    vector = pad_state(state["eef_pos"], axis_angle(state["eef_quat"]), state["gripper_qpos"])
    views = (rotate_180(observation.images["agentview"]), rotate_180(observation.images["wrist"]))
    return _two_views(robot_type, observation.instruction, vector, *views)


def _calvin(observation: Observation, robot_type: str) -> ModelRequest:
    from PIL import Image

    views = [center_crop(Image.fromarray(observation.images[name])) for name in ("rgb_static", "rgb_gripper")]
    return _two_views(robot_type, observation.instruction, pad_state(observation.state["robot_obs"][:7]), *views)


def _widowx(observation: Observation, robot_type: str) -> ModelRequest:
    from PIL import Image
    from transforms3d.euler import mat2euler
    from transforms3d.quaternions import quat2mat

    position, quaternion = np.split(observation.state["eef_pose"], [3])
    angles = np.array(mat2euler(quat2mat(quaternion) @ _TOP_DOWN.T))
    vector = pad_state(position, angles, np.zeros(1), observation.state["gripper_openness"])
    base = center_crop(Image.fromarray(observation.images["third_view"]).resize((256, 256)))
    return _one_view(robot_type, "Base", observation.instruction, vector, base)


def _google_robot(observation: Observation, robot_type: str) -> ModelRequest:
    from PIL import Image
    from transforms3d.quaternions import mat2quat, quat2mat

    position, quaternion = np.split(observation.state["eef_pose"], [3])
    xyzw = mat2quat(quat2mat(quaternion))[[1, 2, 3, 0]]
    vector = pad_state(position, xyzw, 1 - observation.state["gripper_openness"])
    base = center_crop(Image.fromarray(observation.images["overhead"]).resize((320, 256)))
    return _one_view(robot_type, "Ego", observation.instruction, vector, base)


def _metaworld(observation: Observation, robot_type: str) -> ModelRequest:
    from PIL import Image

    views = [Image.fromarray(observation.images[name]).resize((256, 256)) for name in ("corner2", "gripperPOV")]
    return _two_views(robot_type, observation.instruction, pad_state(observation.state["proprioception"]), *views)


def _first_columns(count: int) -> Callable[[np.ndarray], np.ndarray]:
    """Return a function that selects the first ``count`` columns."""
    return lambda decoded: np.ascontiguousarray(decoded[:, :count], np.float32)


def _pad_columns(actions: np.ndarray) -> np.ndarray:
    """Invert :func:`_first_columns`, and CALVIN's rule: a sign is decoded as 1 or -1."""
    decoded = np.zeros((len(actions), ACTION_SIZE), np.float32)
    decoded[:, : actions.shape[1]] = actions
    return decoded


def _calvin_actions(decoded: np.ndarray) -> np.ndarray:
    """Select seven columns, and replace the gripper's by its sign, with closed (-1) at exactly zero."""
    actions = np.array(decoded[:, :7], np.float32)
    actions[:, 6] = np.where(actions[:, 6] > 0, 1, -1)
    return actions


def _simpler_actions(gripper: Callable[[np.ndarray], np.ndarray]) -> Callable[[np.ndarray], np.ndarray]:
    """Return a converter from Euler angles (static x, y, z) to a rotation vector that also applies a gripper rule.

    All in float64, as upstream's scalars are under numpy 1, which its environment pins.
    """

    def actions(decoded: np.ndarray) -> np.ndarray:
        from transforms3d.euler import euler2axangle

        values = decoded.astype(np.float64)
        rotations = [euler2axangle(*row[3:6].tolist()) for row in values]
        vectors = np.array([axis * angle for axis, angle in rotations])
        return np.concatenate([values[:, :3], vectors, gripper(values[:, 6])[:, None]], axis=1)

    return actions


def _simpler_decoded(gripper: Callable[[np.ndarray], np.ndarray]) -> Callable[[np.ndarray], np.ndarray]:
    """Return the inverse of :func:`_simpler_actions`, with the inverse of its gripper rule; pitch within ±90°."""

    def decoded(actions: np.ndarray) -> np.ndarray:
        from transforms3d.euler import axangle2euler

        columns = _pad_columns(actions)
        for row, vector in zip(columns, actions[:, 3:6].astype(np.float64), strict=True):
            angle = float(np.linalg.norm(vector))
            row[3:6] = axangle2euler(vector / angle, angle, "sxyz") if angle else 0.0
        columns[:, 6] = gripper(actions[:, 6])
        return columns

    return decoded


def _open_or_closed(value: np.ndarray) -> np.ndarray:
    """Convert WidowX's gripper: 1 (open) above one half, else -1 (closed)."""
    opening: np.ndarray = 2.0 * (value > 0.5) - 1.0
    return opening


def _relative_closing(value: np.ndarray) -> np.ndarray:
    """Convert Google Robot's gripper: openness 1 becomes -1 (opening), and openness 0 becomes 1 (closing)."""
    closing: np.ndarray = np.clip(-(value * 2 - 1), -1, 1)
    return closing


def _openness(opening: np.ndarray) -> np.ndarray:
    """Invert :func:`_open_or_closed`: 1 or 0."""
    value: np.ndarray = (1.0 + opening) / 2.0
    return value


def _absolute_openness(closing: np.ndarray) -> np.ndarray:
    """Invert :func:`_relative_closing`: from 0 to 1."""
    value: np.ndarray = (1.0 - closing) / 2.0
    return value


def presets() -> dict[str, RobotPreset]:
    """Return every preset by name. The last is evalkit's own: the authors released no Meta-World checkpoint."""
    both = ("calvin_abc_orig", "calvin_abcd_orig")
    simpler = ("eef_pose", "gripper_openness")
    widowx, google = ObservationSpec(("third_view",), simpler), ObservationSpec(("overhead",), simpler)
    libero = ObservationSpec(("agentview", "wrist"), ("eef_pos", "eef_quat", "gripper_qpos"))
    calvin = ObservationSpec(("rgb_static", "rgb_gripper"), ("robot_obs",))
    metaworld = ObservationSpec(("corner2", "gripperPOV"), ("proprioception",))
    to_opening, to_closing = _simpler_actions(_open_or_closed), _simpler_actions(_relative_closing)
    from_opening, from_closing = _simpler_decoded(_openness), _simpler_decoded(_absolute_openness)
    all_presets = [
        RobotPreset("libero", libero, ("libero_all",), ("libero",), _libero, _first_columns(7), _pad_columns),
        RobotPreset("calvin", calvin, both, ("calvin",), _calvin, _calvin_actions, _pad_columns),
        RobotPreset("widowx", widowx, ("bridge_delta",), ("simpler",), _widowx, to_opening, from_opening),
        RobotPreset("google_robot", google, ("fractal_delta",), ("simpler",), _google_robot, to_closing, from_closing),
        RobotPreset(
            "metaworld", metaworld, ("metaworld",), ("metaworld",), _metaworld, _first_columns(4), _pad_columns
        ),
    ]
    return {preset.name: preset for preset in all_presets}
