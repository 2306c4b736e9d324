"""Model requests and converted actions of the released checkpoints, compared with independent computations.

The golden figures were made by the released scripts' own functions from the same observations.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.observations import observations
from support.paths import REPOSITORY

pytest.importorskip("PIL")
pytest.importorskip("transforms3d")

from scipy.spatial.transform import Rotation
from support.expected_requests import ROBOT, expected
from transforms3d.euler import euler2axangle

from evalkit.observation import Observation
from evalkit.policies.rotations import axis_angle
from evalkit.policies.xiaomi_robotics_0.requests import ModelRequest, presets

pytestmark = pytest.mark.torch

GOLDEN = {
    "libero": ([3366178934, 1712272288, 83648206], "fb2743b7d8026e84eebb91847f05ae776fbdd9763def91e67a3074c7de057f11"),
    "calvin": ([3707083505, 3552568362, 339666844], "c641218ff4632181f9af08401c14056c5514a7471e0301a5793690166dfcb375"),
    "widowx": ([89574225, 798155367, 1520684577], "130e5809a8e90d905e8b3ba8f5d6ebb3a0c1513b6cbce57cc73fd7cb83f6c8e5"),
    "google_robot": (
        [529998166, 1175681, 2165215174],
        "e3e77a2b138c99b726382de61b791436b4bdcbf74a111613ce23d54f4811ba4e",
    ),
}


def requests(preset_name: str) -> list[ModelRequest]:
    return [presets()[preset_name].build_request(o, ROBOT[preset_name]) for o in observations(preset_name)]


def digest(request: ModelRequest) -> str:
    summary = hashlib.sha256(request.prompt.encode())
    for image in request.images:
        summary.update(repr((image.mode, image.size)).encode() + image.tobytes())
    summary.update(request.state.tobytes() + str(request.seed).encode())
    return summary.hexdigest()


@pytest.fixture(scope="module")
def on_the_golden_processor() -> dict[str, Any]:
    """Seeds and digest by preset, computed with the BLAS kernels that the golden figures were made with.

    Quaternions pass through norms and an eigenvalue solver, whose last bits depend on the processor's kernels, in the
    released scripts as here.
    """
    code = "import json, test_xiaomi_requests as t; print(json.dumps({s: t.golden(s) for s in t.GOLDEN}))"
    places = [str(REPOSITORY), str(REPOSITORY / "tests"), str(Path(__file__).parent)]
    env = {**os.environ, "OPENBLAS_CORETYPE": "Nehalem", "PYTHONPATH": os.pathsep.join(places)}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def golden(preset_name: str) -> tuple[list[int], str]:
    made = requests(preset_name)
    whole = hashlib.sha256("".join(digest(request) for request in made).encode()).hexdigest()
    return [request.seed for request in made[:3]], whole


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="the golden figures are of x86-64 kernels")
@pytest.mark.parametrize("preset_name", sorted(GOLDEN))
def test_requests_are_those_of_the_released_scripts(preset_name: str, on_the_golden_processor: dict[str, Any]) -> None:
    seeds, whole = on_the_golden_processor[preset_name]
    assert (seeds, whole) == GOLDEN[preset_name]


# The same once more, computed here in another way, so that a golden figure that differs says which part does.


@pytest.mark.parametrize("preset_name", sorted(ROBOT))
def test_prompt_images_state_and_seed_equal_an_independent_computation(preset_name: str) -> None:
    seen = observations(preset_name)
    assert len(seen) >= 20
    for observation, request in zip(seen, requests(preset_name), strict=True):
        prompt, images, state, seed = expected(preset_name, observation)
        assert request.prompt == prompt
        assert [i.tobytes() for i in request.images] == [i.tobytes() for i in images]
        assert [i.size for i in request.images] == [i.size for i in images]
        assert request.state.dtype == np.float64 and request.state.tobytes() == state.tobytes()
        assert request.seed == seed


def test_the_seed_depends_on_every_part_of_the_request() -> None:
    first = observations("libero", 1)[0]
    images = {name: image.copy() for name, image in first.images.items()}
    images["wrist"][0, 0, 0] ^= 1
    nudged = {**first.state, "eef_pos": np.nextafter(first.state["eef_pos"], 9)}
    others = [
        Observation("pick up the black bow", first.images, first.state),
        Observation(first.instruction, images, first.state),
        Observation(first.instruction, first.images, nudged),
    ]
    make = presets()["libero"].build_request
    seeds = {make(o, "libero_all").seed for o in [first, *others]} | {make(first, "libero_goal").seed}
    assert len(seeds) == 5


def test_axis_angle_is_the_rotation_and_keeps_the_sign_of_w() -> None:
    rng = np.random.default_rng(0)
    for quaternion in rng.normal(size=(50, 4)):
        unit = quaternion / np.linalg.norm(quaternion)
        vector = axis_angle(unit)
        assert np.allclose(Rotation.from_rotvec(vector).as_matrix(), Rotation.from_quat(unit).as_matrix())
        assert (np.linalg.norm(vector) > np.pi) == (unit[3] < 0)
    assert not axis_angle(np.array([0.0, 0.0, 0.0, 1.0])).any()
    assert not axis_angle(np.array([0.0, 0.0, 0.0, 1.0 + 1e-12])).any()


def test_libero_and_metaworld_actions_are_the_first_columns() -> None:
    decoded = np.arange(64, dtype=np.float32).reshape(2, 32)
    assert presets()["libero"].to_suite_actions(decoded).tolist() == decoded[:, :7].tolist()
    assert presets()["metaworld"].to_suite_actions(decoded).tolist() == decoded[:, :4].tolist()


def test_calvins_gripper_is_a_sign_that_closes_at_zero() -> None:
    decoded = np.zeros((3, 32), np.float32)
    decoded[:, 6] = [0.2, 0.0, -0.7]
    decoded[:, 0] = 0.25
    actions = presets()["calvin"].to_suite_actions(decoded)
    assert actions[:, 6].tolist() == [1.0, -1.0, -1.0] and actions[:, 0].tolist() == [0.25] * 3
    assert decoded[2, 6] == np.float32(-0.7), "the model's own array was changed"


@pytest.mark.parametrize(
    ("preset_name", "values", "gripper"),
    [
        ("widowx", [0.5, 0.51, 0.0, 1.2], [-1.0, 1.0, -1.0, 1.0]),
        ("google_robot", [0.5, 1.0, 0.0, 1.2], [0.0, -1.0, 1.0, -1.0]),
        ("google_robot", [0.1, 0.2, 0.6, 0.9], [1 - 2 * float(np.float32(x)) for x in (0.1, 0.2, 0.6, 0.9)]),
    ],
)
def test_simplers_rotation_becomes_a_vector_and_its_gripper_follows_its_rule(
    preset_name: str, values: list[float], gripper: list[float]
) -> None:
    decoded = np.random.default_rng(1).normal(size=(4, 32)).astype(np.float32)
    decoded[:, 6] = values
    actions = presets()[preset_name].to_suite_actions(decoded)
    assert actions.dtype == np.float64 and actions.shape == (4, 7)
    assert actions[:, 6].tolist() == gripper and (actions[:, :3] == decoded[:, :3]).all()
    for row, action in zip(decoded, actions, strict=True):
        axis, angle = euler2axangle(*(float(x) for x in row[3:6]), axes="sxyz")
        assert action[3:6].tolist() == (axis * angle).tolist(), "rounded"
        rotation = Rotation.from_euler("xyz", row[3:6].astype(float)).as_matrix()
        assert np.allclose(Rotation.from_rotvec(action[3:6]).as_matrix(), rotation, atol=1e-5)
