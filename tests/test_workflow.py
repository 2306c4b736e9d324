"""The example workflow: a workflow as GitHub defines them, whose steps do what they say."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from support.requirements import need

REPOSITORY = Path(__file__).parents[1]
WORKFLOW = REPOSITORY / "examples" / "github-actions" / "gate.yml"


def steps() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = yaml.safe_load(WORKFLOW.read_text())["jobs"]["gate"]["steps"]
    return found


def test_it_is_a_workflow_by_githubs_schema() -> None:
    check = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.github-workflows", str(WORKFLOW)]
    result = subprocess.run(check, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr


def test_what_it_names_is_in_the_repository() -> None:
    text = WORKFLOW.read_text()
    for path in ("pyproject.toml", "suites/metaworld/requirements.txt"):
        assert path in text and (REPOSITORY / path).is_file()
    assert (REPOSITORY / "results/baselines/metaworld-oracle/journal.jsonl").is_file()


@pytest.mark.sim
def test_its_steps_do_what_they_say(tmp_path: Path) -> None:
    need("metaworld")
    (tmp_path / "results").symlink_to(REPOSITORY / "results")
    summary = tmp_path / "summary.md"
    environment = {
        **os.environ,
        "GITHUB_STEP_SUMMARY": str(summary),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    commands = [step["run"] for step in steps() if "evalkit" in step.get("run", "")]
    assert [command.split()[:2] for command in commands] == [["evalkit", "setup"], ["evalkit", "gate"]]
    for command in commands:
        named = command.replace("--video failures", "--video none")  # filming takes its time, and is tested elsewhere
        result = subprocess.run(
            ["bash", "-e", "-c", named], cwd=tmp_path, env=environment, capture_output=True, text=True
        )
        assert result.returncode == 0, result.stdout + result.stderr
    assert "✅ PASS" in summary.read_text() and (tmp_path / "gate" / "junit.xml").is_file()
