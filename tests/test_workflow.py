"""The example workflow: a workflow as GitHub defines them, whose steps do what they say."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from support.paths import REPOSITORY
from support.workflow import WORKFLOW


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
def test_its_steps_do_what_they_say(workflow_gate: Path) -> None:
    assert "✅ PASS" in (workflow_gate / "summary.md").read_text()
    assert (workflow_gate / "gate" / "junit.xml").is_file()
