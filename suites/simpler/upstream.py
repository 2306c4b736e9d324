"""SimplerEnv and ManiSkill2_real2sim, imported from their checkouts without being installed."""

from __future__ import annotations

import os
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from evalkit.adapter import Setup, SimulatorError

from .grid import Scene

SIMPLER, MANISKILL = "SimplerEnv", "ManiSkill2_real2sim"
HOW_TO_GET = "evalkit setup simpler (fetches them), or --source DIR, or EVALKIT_SIMPLER_SOURCE=DIR"


def sources(setup: Setup) -> tuple[Path, Path]:
    """Return the two checkouts, SimplerEnv first. Raises SimulatorError if one is missing."""
    folders = []
    for name in (SIMPLER, MANISKILL):
        folder = setup.sources.get(name)
        if folder is None or not Path(folder).is_dir():
            raise SimulatorError(f"simpler needs the sources of {name}: {HOW_TO_GET}")
        folders.append(Path(folder))
    return folders[0], folders[1]


def numpy_problem() -> str | None:
    """Return the reason why this environment's numpy does not work, or None. SAPIEN 2.2.2 was built against numpy 1."""
    if int(np.__version__.split(".")[0]) >= 2:
        return f"numpy {np.__version__} ends SAPIEN 2.2.2 at the first action; evalkit setup simpler installs numpy 1"
    return None


def prepare(setup: Setup) -> None:
    """Make upstream's packages importable in this process. Raises SimulatorError if they cannot be imported."""
    problem = numpy_problem()
    if problem:
        raise SimulatorError(problem)
    simpler, maniskill = sources(setup)
    os.environ["MS2_REAL2SIM_ASSET_DIR"] = str(maniskill / "data")
    for folder in (maniskill, simpler):
        if str(folder) not in sys.path:
            sys.path.insert(0, str(folder))
    warnings.filterwarnings("ignore", module="gymnasium|sapien|pkg_resources")
    try:
        import mani_skill2_real2sim.envs  # noqa: F401  registers upstream's environments
    except ImportError as error:
        raise SimulatorError(f"ManiSkill2_real2sim cannot be imported from {maniskill}: {error}") from error


def options(setup: Setup, scene: Scene, shader: str | None) -> dict[str, Any]:
    """Return upstream's arguments of ``build_maniskill2_env`` for a scene, except the observation mode.

    Args:
        setup: the suite and its sources, which contain the photographs.
        scene: the grid's cell.
        shader: replaces ray tracing in scenes that use it; None keeps ray tracing.
    """
    wanted = dict(scene.options)
    if shader is not None and wanted.get("shader_dir") == "rt":
        wanted["shader_dir"] = shader
    if scene.overlay is not None:
        wanted["rgb_overlay_path"] = str(sources(setup)[1] / "data" / "real_inpainting" / scene.overlay)
        wanted["rgb_overlay_cameras"] = [scene.robot["upstream_camera"]]
    return wanted | {
        "control_mode": scene.robot["control_mode"],
        "control_freq": scene.robot["control_hz"],
        "camera_cfgs": {"add_segmentation": True},
    }


def environment_class(name: str) -> type:
    """Return upstream's class of a registered environment."""
    from mani_skill2_real2sim.utils.registration import REGISTERED_ENVS

    if name not in REGISTERED_ENVS:
        raise SimulatorError(f"ManiSkill2_real2sim has no environment {name}")
    kind: type = REGISTERED_ENVS[name].cls
    return kind
