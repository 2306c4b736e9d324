"""Upstream's two checkouts: the quiet import of calvin_env, and the definitions of the official evaluation.

calvin_env is imported and used as it is. calvin's evaluation code is not importable here (its modules import torch,
pyhash and a training framework), so the few definitions an evaluation needs are taken out of its files by name.
"""

from __future__ import annotations

import ast
import contextlib
import sys
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from evalkit.adapter import SimulatorError

EVALUATION = Path("calvin_models", "calvin_agent", "evaluation")
CONFIGURATION = Path("calvin_models", "conf")
TASKS = CONFIGURATION / "callbacks" / "rollout" / "tasks" / "new_playtable_tasks.yaml"
ANNOTATIONS = CONFIGURATION / "annotations" / "new_playtable_validation.yaml"
HOW_TO_GET = "evalkit setup calvin --source DIR, or EVALKIT_CALVIN_SOURCE=DIR"
FNV_PRIME = 0x01000193


@dataclass(frozen=True)
class Checkouts:
    """The folders of the two repositories."""

    calvin: Path
    calvin_env: Path

    @classmethod
    def of(cls, sources: Mapping[str, str]) -> Checkouts:
        """Return the checkouts of ``Setup.sources``. Raises SimulatorError if one is missing."""
        for name in ("calvin", "calvin_env"):
            if name not in sources or not Path(sources[name]).is_dir():
                raise SimulatorError(f"the checkout of {name} is not here: {HOW_TO_GET}")
        return cls(Path(sources["calvin"]), Path(sources["calvin_env"]))

    @property
    def sequence_rules(self) -> Path:
        """The file with the rules that sequences follow."""
        return self.calvin / EVALUATION / "multistep_sequences.py"

    @property
    def initial_states(self) -> Path:
        """The file with the function from initial conditions to initial states."""
        return self.calvin / EVALUATION / "utils.py"


def prepare(checkouts: Checkouts) -> None:
    """Make calvin_env importable in this process and import it, without its warnings and its calls of git."""
    folder = str(checkouts.calvin_env)
    if folder not in sys.path:
        sys.path.insert(0, folder)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # hydra warns about the decorator of a main function that is not used here
        import calvin_env.envs.play_table_env as module
    if not Path(module.__file__).is_relative_to(checkouts.calvin_env):
        raise SimulatorError(f"another calvin_env is imported, from {module.__file__}: remove it from this environment")
    module.get_git_commit_hash = lambda path: "recorded by evalkit"  # upstream runs git once per environment, for a log


def environment_configuration(checkouts: Checkouts, cameras: bool, egl: bool) -> Any:
    """Return the configuration of the official environment: scene D, the static and the gripper camera.

    Composed from calvin_env's own files, like the copy in the evaluation's data sets; no data set is read. Hydra
    changes neither the working directory nor the logging.

    Args:
        checkouts: upstream's files.
        cameras: False for an environment that never renders.
        egl: True for images of the EGL renderer, False for those of the TinyRenderer.
    """
    from hydra import compose, initialize_config_dir

    overrides = ["cameras=static_and_gripper", "hydra/job_logging=default", "hydra/hydra_logging=default"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a warning about the order in upstream's list of defaults
        with initialize_config_dir(str(checkouts.calvin_env / "conf"), version_base=None):
            configuration = compose("config_data_collection", overrides=overrides)
    if not cameras:
        configuration.env.cameras = {}
    configuration.env.use_egl = egl
    return configuration.env


def task_checks(checkouts: Checkouts) -> Any:
    """Return upstream's check of sub-tasks, a ``calvin_env.envs.tasks.Tasks``."""
    import hydra
    from omegaconf import OmegaConf

    return hydra.utils.instantiate(OmegaConf.load(checkouts.calvin / TASKS))


def annotations(checkouts: Checkouts) -> dict[str, str]:
    """Return sub-task → instruction: the first annotation of the validation set, as in the official evaluation."""
    import yaml

    content = yaml.safe_load((checkouts.calvin / ANNOTATIONS).read_text(encoding="utf-8"))
    return {task: str(sentences[0]) for task, sentences in content.items()}


def sequence_rules(checkouts: Checkouts) -> tuple[dict[str, Any], dict[str, int]]:
    """Return the rules of sequences: sub-task → its conditions and effects, and sub-task → its category."""
    found = _definitions(checkouts.sequence_rules, "tasks", "task_categories")
    return found["tasks"], found["task_categories"]


def initial_state(checkouts: Checkouts, condition: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """Return upstream's initial state for an initial condition: robot_obs (15,) and scene_obs (24,) float64."""
    found = _definitions(
        checkouts.initial_states,
        *("temp_seed", "get_env_state_for_initial_condition"),
        given={"np": np, "pi": np.pi, "hasher": fnv1_32, "contextlib": contextlib},
    )
    robot_obs, scene_obs = found["get_env_state_for_initial_condition"](condition)
    return robot_obs, scene_obs


def fnv1_32(text: str) -> int:
    """Return upstream's ``pyhash.fnv1_32`` of a string, which seeds the blocks' places and angles.

    That is FNV-1 with the initial value 0 (not FNV's own) over the UTF-16 code units' bytes, low byte first.
    """
    value = 0
    for byte in text.encode("utf-16-le"):
        value = ((value * FNV_PRIME) & 0xFFFFFFFF) ^ byte
    return value


def _definitions(path: Path, *names: str, given: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Execute only those assignments and functions of a module that define ``names``, with ``given`` in scope."""
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"))
    except (OSError, SyntaxError) as error:
        raise SimulatorError(f"{path}: cannot be read ({error}): {HOW_TO_GET}") from error
    tree.body = [node for node in tree.body if _defined(node) in names]
    scope = dict(given or {})
    exec(compile(tree, str(path), "exec"), scope)
    missing = [name for name in names if name not in scope]
    if missing:
        raise SimulatorError(f"{path}: has no {', '.join(missing)}: is this calvin at the right commit?")
    return scope


def _defined(node: ast.stmt) -> str | None:
    if isinstance(node, ast.FunctionDef):
        return node.name
    if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
        return node.targets[0].id
    return None
