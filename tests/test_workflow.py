"""The workflows and the commit hooks: GitHub's schema accepts them, and the commands in them exist."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from support.paths import REPOSITORY
from support.workflow import EXAMPLE, steps

OWN = REPOSITORY / ".github" / "workflows" / "ci.yml"


def planned(*arguments: str) -> str:
    """The commands that make would run by default, whatever options the make that runs these tests has."""
    own = {name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MAKEOVERRIDES", "VENV")}
    command = ["make", "--dry-run", "--always-make", *arguments]
    return subprocess.check_output(command, cwd=REPOSITORY, text=True, env=own)


def test_they_are_workflows_by_githubs_schema() -> None:
    schema = ["--builtin-schema", "vendor.github-workflows"]
    check = [sys.executable, "-m", "check_jsonschema", *schema, str(EXAMPLE), str(OWN)]
    result = subprocess.run(check, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize("workflow", [EXAMPLE, OWN], ids=["example", "own"])
def test_the_files_they_name_are_in_the_repository(workflow: Path) -> None:
    text = workflow.read_text()
    for path in ("pyproject.toml", "suites/metaworld/requirements.txt"):
        assert path in text and (REPOSITORY / path).is_file()


def test_the_example_names_an_accepted_baseline() -> None:
    assert "--baseline metaworld-oracle" in EXAMPLE.read_text()
    assert (REPOSITORY / "results/baselines/metaworld-oracle/journal.jsonl").is_file()


def test_our_own_runs_fast_tests_on_every_supported_python_and_all_tests_on_one() -> None:
    jobs = yaml.safe_load(OWN.read_text())["jobs"]
    assert jobs["fast"]["strategy"]["matrix"]["python"] == ["3.10", "3.11", "3.12", "3.13"]
    commands = {
        job: [step["run"] for step in steps(OWN, job) if step.get("run", "").startswith("make")] for job in jobs
    }
    assert [c.split()[:2] for c in (*commands["fast"], *commands["full"])] == [["make", "fast"], ["make", "test"]]
    for target in ("fast", "test"):
        assert "pytest" in planned(target)
    assert "xiaomi" not in planned("fast") and "not sim and not torch and not slow" in planned("fast")


def test_the_commit_hooks_are_the_commands_of_make_lint() -> None:
    (repository,) = yaml.safe_load((REPOSITORY / ".pre-commit-config.yaml").read_text())["repos"]
    assert repository["repo"] == "local"
    hooks = [hook["entry"].replace(" --force-exclude", "") for hook in repository["hooks"]]
    lint = re.findall(r"^(\.venv/bin/(?!python|pip)\S+.*)$", planned("lint"), re.MULTILINE)
    assert hooks == [re.sub(r" \.$| \.(?= )", "", command) for command in lint]
