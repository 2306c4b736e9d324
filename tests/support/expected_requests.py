"""The requests of the released scripts, computed in another way than evalkit's."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import numpy as np
from PIL import Image
from transforms3d.euler import mat2euler
from transforms3d.quaternions import mat2quat, quat2mat

from evalkit.observation import Observation
from evalkit.policies.rotations import axis_angle

ROBOT = {
    "libero": "libero_all",
    "calvin": "calvin_abc_orig",
    "widowx": "bridge_delta",
    "google_robot": "fractal_delta",
    "metaworld": "metaworld",
}
from support.observations import IMAGES


def expected_seed(fields: dict[str, Any]) -> int:
    parts = []
    for key in sorted(fields):
        value = fields[key]
        if isinstance(value, np.ndarray):
            shape = ",".join(map(str, value.shape))
            kind = value.dtype.name
            text = f'{{"__type__":"numpy","data":"{value.tobytes().hex()}","dtype":"{kind}","shape":[{shape}]}}'
        elif isinstance(value, Image.Image):
            content = hashlib.md5(np.asarray(value).tobytes()).hexdigest()
            width, height = value.size
            text = f'{{"__type__":"PIL.Image","content_hash":"{content}","mode":"RGB","size":[{width},{height}]}}'
        else:
            text = json.dumps(value, ensure_ascii=False)
        parts.append(f'"{key}":{text}')
    return int.from_bytes(hashlib.sha256(("{" + ",".join(parts) + "}").encode()).digest()[-4:], "big")


def expected_crop(image: Image.Image) -> Image.Image:
    pixels = np.asarray(image)
    height, width = pixels.shape[:2]
    tall, wide = height * 95 // 100, width * 95 // 100
    top, left = (height - tall) // 2, (width - wide) // 2
    part = Image.fromarray(np.ascontiguousarray(pixels[top : top + tall, left : left + wide]))
    return part.resize((width, height), resample=Image.BILINEAR)


def zeros_to_32(*values: Any) -> np.ndarray:
    numbers = [float(x) for value in values for x in np.atleast_1d(value)]
    return np.array(numbers + [0.0] * (32 - len(numbers)))


def expected(preset_name: str, seen: Observation) -> tuple[str, list[Image.Image], np.ndarray, int]:
    start = "<|im_start|>user\nThe following observations are captured from multiple views.\n"
    marker = "<|vision_start|><|image_pad|><|vision_end|>\n"
    end = " /no_cot<|im_end|>\n<|im_start|>assistant\n<cot></cot><|im_end|>\n"
    task = "Generate robot actions for the task:\n"
    shown = [Image.fromarray(seen.images[name]) for name in IMAGES[preset_name]]
    state = seen.state
    if preset_name in ("libero", "calvin", "metaworld"):
        if preset_name == "libero":
            shown = [image.transpose(Image.Transpose.ROTATE_180) for image in shown]
            vector = zeros_to_32(state["eef_pos"], axis_angle(state["eef_quat"]), state["gripper_qpos"])
        elif preset_name == "calvin":
            shown = [expected_crop(image) for image in shown]
            vector = zeros_to_32(state["robot_obs"][:7])
        else:
            shown = [image.resize((256, 256), Image.BICUBIC) for image in shown]
            vector = zeros_to_32(state["proprioception"])
        said = seen.instruction[0].upper() + seen.instruction[1:].lower()
        fields = {
            "task_id": ROBOT[preset_name],
            "state": vector,
            "language": said,
            "base": shown[0],
            "wrist_left": shown[1],
        }
        prompt = f"{start}# Base View\n{marker}# Left-Wrist View\n{marker}{task}{said}.{end}"
        return prompt, shown, vector, expected_seed(fields)
    rotation = quat2mat(state["eef_pose"][3:])
    if preset_name == "widowx":
        size, view = (256, 256), "Base"
        down = np.array([[0, 0, 1], [0, 1, 0], [-1, 0, 0]])
        openness = state["gripper_openness"]
        vector = zeros_to_32(state["eef_pose"][:3], mat2euler(rotation @ down.T), 0, openness)
    else:
        size, view = (320, 256), "Ego"
        w, x, y, z = mat2quat(rotation)
        vector = zeros_to_32(state["eef_pose"][:3], [x, y, z, w], 1 - state["gripper_openness"])
    shown = [expected_crop(shown[0].resize(size, Image.BICUBIC))]
    said = seen.instruction[0].upper() + seen.instruction[1:] + "."
    prompt = f"{start}# {view} View\n{marker}{task}{said}{end}"
    fields = {"task_id": ROBOT[preset_name], "state": vector.reshape(1, 1, 32), "language": prompt, "base": shown[0]}
    return prompt, shown, vector, expected_seed(fields)
