"""Checks of this machine: working parts, missing parts, and the way to get them."""

from __future__ import annotations

import platform
import sys
import tempfile
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

from evalkit.errors import EnvironmentProblem
from evalkit.execution import Execution
from evalkit.locations import home_folder
from evalkit.observation import ObservationSpec
from evalkit.policies.xiaomi_robotics_0.loading import missing_libraries
from evalkit.records.folder import RunFolder
from evalkit.runner.process import WorkerConfig, start_workers
from evalkit.setup.environment import Environment
from evalkit.setup.installed import InstalledSuite
from evalkit.suite import load_suite


@dataclass(frozen=True)
class Check:
    """One finding about this machine.

    Attributes:
        what: the part that was checked.
        ok: True if it works.
        seen: the finding, with the remedy if it does not work.
    """

    what: str
    ok: bool
    seen: str


def check_suite(name: str) -> list[Check]:
    """Check a suite, without and with images. Raises UsageError for a suite that does not exist."""
    suite = load_suite(name)
    try:
        environment = Environment.of(suite)
    except EnvironmentProblem as error:
        return [Check("environment", False, str(error))]
    if not environment.ready:
        return [Check("environment", False, f"not built: run `evalkit setup {name}`")]
    checks = [Check("environment", True, str(environment.folder or "evalkit's own environment"))]
    try:
        installed = InstalledSuite.find(suite)
        checks += _probe(installed, video_camera=None)
    except EnvironmentProblem as error:
        return [*checks, Check("simulator", False, str(error))]
    if suite.video is not None:
        try:
            reported = {check.seen for check in checks}
            checks += [c for c in _probe(installed, suite.video.camera) if c.ok or c.seen not in reported]
        except EnvironmentProblem as error:
            checks.append(Check("images", False, str(error)))
    return checks


def machine_checks() -> list[Check]:
    """Check the parts that every suite shares."""
    return [
        Check("python", sys.version_info >= (3, 10), f"{platform.python_version()} on {platform.platform()}"),
        _check_home(),
        _check_models(),
    ]


def _check_home() -> Check:
    """Check that there is a folder for environments and caches."""
    try:
        return Check("home", True, f"{home_folder()} (EVALKIT_HOME)")
    except EnvironmentProblem as error:
        return Check("home", False, str(error))


def _check_models() -> Check:
    """Check that checkpoints with weights can be loaded, and name the device."""
    missing = missing_libraries()
    if missing:
        return Check("models", False, f"{missing} (for checkpoints with weights; the others need nothing)")
    import torch

    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU: the CPU"
    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers"))
    flash = "flash-attn" if find_spec("flash_attn") else "no flash-attn"
    return Check("models", True, f"{versions}, {device}, {flash}")


def _probe(installed: InstalledSuite, video_camera: str | None) -> list[Check]:
    """Return the findings of one worker, without images if ``video_camera`` is None."""
    tasks = [(split, task) for split, section in installed.suite.splits.items() for task in section.tasks]
    with tempfile.TemporaryDirectory() as folder:
        config = WorkerConfig(installed, ObservationSpec(), Execution("sync", 1), video_camera, RunFolder(Path(folder)))
        with start_workers(config, 1) as (worker,):
            ready = worker.wait_ready()
            probed = worker.probe(tasks)
    part = "images" if video_camera else "simulator"
    problems = [Check(part, False, problem) for problem in probed.problems]
    if video_camera:
        gl = probed.metadata.get("gl", {})
        return problems or [Check(part, True, ", ".join(f"{k} {v}" for k, v in gl.items()) or "rendered")]
    versions = ", ".join(f"{name} {version}" for name, version in ready.versions.items())
    doubts = [Check("comparable", True, f"no: {reason}") for reason in probed.incomparable]
    return [*(problems or [Check(part, True, f"Python {ready.python}, {versions}")]), *doubts]
