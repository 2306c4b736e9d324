"""Workflows for GitHub, and the steps of the example run here."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

from support.paths import REPOSITORY

EXAMPLE = REPOSITORY / "examples" / "github-actions" / "gate.yml"


def steps(workflow: Path, job: str) -> list[dict[str, Any]]:
    """Return the steps of a workflow's job."""
    found: list[dict[str, Any]] = yaml.safe_load(workflow.read_text())["jobs"][job]["steps"]
    return found


def run_steps(folder: Path) -> Path:
    """Run every command of evalkit in the example in ``folder``, as GitHub does; return the step's summary."""
    (folder / "results").symlink_to(REPOSITORY / "results")
    summary = folder / "summary.md"
    environment = {
        **os.environ,
        "GITHUB_STEP_SUMMARY": str(summary),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    commands = [step["run"] for step in steps(EXAMPLE, "gate") if "evalkit" in step.get("run", "")]
    assert [command.split()[:2] for command in commands] == [["evalkit", "setup"], ["evalkit", "gate"]]
    for command in commands:
        named = command.replace("--video failures", "--video none")  # filming takes its time, and is tested elsewhere
        result = subprocess.run(
            ["bash", "-e", "-c", named], cwd=folder, env=environment, capture_output=True, text=True
        )
        assert result.returncode == 0, result.stdout + result.stderr
    return summary
