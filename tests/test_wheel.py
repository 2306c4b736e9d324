"""The built wheel, installed outside the repository, runs; it is built from the source distribution."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from support.paths import REPOSITORY

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with the source distribution of this checkout, and the wheel that was built from it."""
    folder = tmp_path_factory.mktemp("built")
    build = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(REPOSITORY)]
    subprocess.run(build, check=True, capture_output=True)
    return folder


@pytest.fixture(scope="module")
def installed(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with nothing but the wheel's content."""
    wheel, target = next(built.glob("evalkit_vla-*.whl")), tmp_path_factory.mktemp("installed")
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
    assert "evalkit = evalkit.__main__:main" in entry


def test_published_rows_are_in_the_wheel(installed: Path, tmp_path: Path) -> None:
    code = "from evalkit.analysis.published import published_tables as t; print(len(t('calvin', True)))"
    env = {**os.environ, "PYTHONPATH": str(installed)}
    assert subprocess.check_output([sys.executable, "-c", code], text=True, env=env, cwd=tmp_path).strip() == "2"


def test_the_types_are_in_the_wheel(installed: Path) -> None:
    assert (installed / "evalkit" / "py.typed").is_file()


def test_the_source_distribution_has_the_documents_and_the_tests(built: Path) -> None:
    with tarfile.open(next(built.glob("evalkit_vla-*.tar.gz"))) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    wanted = ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md", "LICENSE", "Makefile", "docs/async.md"]
    wanted += [
        "evalkit/py.typed",
        "tests/test_wheel.py",
        "examples/github-actions/gate.yml",
        ".github/workflows/ci.yml",
    ]
    assert not set(wanted) - names
    assert not [name for name in names if name.startswith("results/runs") or "__pycache__" in name]
