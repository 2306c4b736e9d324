"""The built wheel, installed outside the repository, runs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

REPOSITORY = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with nothing but the wheel's content, built from this checkout."""
    wheels, target = tmp_path_factory.mktemp("wheels"), tmp_path_factory.mktemp("installed")
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(wheels), str(REPOSITORY)]
    subprocess.run(build, check=True, capture_output=True)
    wheel = next(wheels.glob("evalkit_vla-*.whl"))
    pip = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-index", "--target", str(target), str(wheel)]
    subprocess.run(pip, check=True, capture_output=True)
    return target


def evalkit(installed: Path, cwd: Path, *arguments: str) -> str:
    env = {**os.environ, "PYTHONPATH": str(installed)}
    return subprocess.check_output([sys.executable, "-m", "evalkit", *arguments], text=True, env=env, cwd=cwd)


def test_it_is_the_installed_package_that_runs(installed: Path, tmp_path: Path) -> None:
    code = "import evalkit; print(evalkit.__file__)"
    where = subprocess.check_output(
        [sys.executable, "-c", code], text=True, env={**os.environ, "PYTHONPATH": str(installed)}, cwd=tmp_path
    )
    assert Path(where.strip()).is_relative_to(installed)


def test_suites_and_checkpoints_are_in_the_wheel(installed: Path, tmp_path: Path) -> None:
    content = json.loads(evalkit(installed, tmp_path, "list", "--json"))
    assert {"metaworld", "libero"} <= {row["suite"] for row in content["suites"]}
    assert "oracle" in {row["checkpoint"] for row in content["checkpoints"]}


def test_a_run_works_outside_the_repository(installed: Path, tmp_path: Path, pointmass: str) -> None:
    result = json.loads(evalkit(installed, tmp_path, "run", pointmass, "--json", "--episodes", "1", "--workers", "1"))
    assert result["headline"]["value"] == 1.0
    assert Path(tmp_path, result["run"], "journal.jsonl").is_file()


def test_the_console_script_is_declared(installed: Path) -> None:
    entry = next(installed.glob("evalkit_vla-*.dist-info/entry_points.txt")).read_text()
    assert "evalkit = evalkit.cli:main" in entry


def test_published_rows_are_in_the_wheel(installed: Path, tmp_path: Path) -> None:
    code = "from evalkit.analysis.published import published_tables as t; print(len(t('calvin', True)))"
    env = {**os.environ, "PYTHONPATH": str(installed)}
    assert subprocess.check_output([sys.executable, "-c", code], text=True, env=env, cwd=tmp_path).strip() == "2"
