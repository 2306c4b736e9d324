"""The checks of ``probe``: numpy, Vulkan, upstream's code, and every file of every scene."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from evalkit.adapter import Probe, Setup, SimulatorError

from . import assets, cooking, upstream, vulkan
from .grid import robot_of, scenes_of

RAY_TRACED = "rt"


def run(setup: Setup, tasks: Sequence[tuple[str, str]]) -> Probe:
    """Check numpy, Vulkan, sources and every file that a scene of ``tasks`` needs, without playing anything."""
    metadata: dict[str, Any] = {}
    problems: list[str] = []
    incomparable: list[str] = []
    devices: list[vulkan.Device] = []
    numpy_problem = upstream.numpy_problem()
    if numpy_problem:
        return Probe(problems=[numpy_problem])
    try:
        devices = vulkan.prepare()
        if setup.renders:
            metadata["gl"] = {"vulkan": "; ".join(f"{device.name}, {device.driver}" for device in devices)}
    except SimulatorError as error:
        problems.append(str(error))
    problems += _unsuited(setup, tasks)
    try:
        upstream.prepare(setup)
    except SimulatorError as error:
        problems.append(str(error))
        return Probe(metadata, problems, incomparable)
    digests, absent = _assets(setup, tasks, vulkan_works=bool(devices))
    metadata["assets"] = digests
    problems += absent
    if setup.renders and devices and vulkan.on_cpu(devices):
        incomparable.append("images were rendered on the CPU (lavapipe), not by an NVIDIA driver")
        if _any_ray_traced(setup, tasks):
            shader = metadata["gl"]["shader"] = setup.settings["cpu_shader"]
            incomparable.append(f"drawer tasks were rendered with shader {shader} instead of {RAY_TRACED}")
    return Probe(metadata, problems, incomparable)


def _unsuited(setup: Setup, tasks: Sequence[tuple[str, str]]) -> list[str]:
    """Return the requests of the policy that a task's robot or the oracle cannot meet."""
    problems = []
    for split in dict.fromkeys(split for split, _ in tasks):
        own = robot_of(setup, split)["camera"]
        lacking = [camera for camera in setup.observation_spec.cameras if camera != own]
        if lacking:
            problems.append(
                f"{split} has the camera {own} alone, and the policy uses {', '.join(lacking)}: "
                f"choose a split of the policy's own robot with --split"
            )
    if setup.observation_spec.oracle_steps:
        from .oracle import unknown

        problems += [problem for split, task in tasks if (problem := unknown(setup, split, task))]
    return problems


def _assets(setup: Setup, tasks: Sequence[tuple[str, str]], vulkan_works: bool) -> tuple[str | None, list[str]]:
    """Return the digest of all files that ``tasks`` need (None if one is missing), and a line per task that lacks any.

    Also cooks the stages, so that workers need not.
    """
    root = upstream.sources(setup)[1]
    files: set[Path] = set()
    stages: set[Path] = set()
    problems = []
    for split, task in tasks:
        needs = [assets.needed(setup, scene) for scene in scenes_of(setup, split, task)]
        own = set().union(*(needed.files for needed in needs))
        absent = assets.missing(root, own)
        if absent:
            problems.append(f"{split}/{task} cannot be played: {assets.describe(absent)}")
        files |= own
        stages |= set().union(*(needed.stages for needed in needs))
    if problems or not vulkan_works:
        return None, problems
    try:
        cooking.cook(sorted(stages))
    except SimulatorError as error:
        return None, [str(error)]
    return assets.digest(root, files.union(map(cooking.cooked, stages))), []


def _any_ray_traced(setup: Setup, tasks: Sequence[tuple[str, str]]) -> bool:
    return any(
        scene.options.get("shader_dir") == RAY_TRACED
        for split, task in tasks
        for scene in scenes_of(setup, split, task)
    )
