"""Every file and every command of CONTRIBUTING.md, in an empty folder or in a copy of the package, as the steps say."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
from support.commands import invoke
from support.paths import REPOSITORY

TEXT = (REPOSITORY / "CONTRIBUTING.md").read_text()
FENCE = re.compile(r"^( *)```(\w+)\n(.*?)^\1```$", re.DOTALL | re.MULTILINE)
PATHS = re.compile(r"`([\w./]+\.\w+)`")


class Block(NamedTuple):
    """A fenced block: its language, the last path that the text before it names, and its content."""

    language: str
    path: str
    content: str


def blocks(heading: str) -> list[Block]:
    """The blocks of one section."""
    section = TEXT.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    paths = [(m.start(), m[1]) for m in PATHS.finditer(FENCE.sub(lambda m: " " * len(m[0]), section))]
    return [
        Block(m[2], next((p for at, p in reversed(paths) if at < m.start()), ""), textwrap.dedent(m[3]))
        for m in FENCE.finditer(section)
    ]


def write_files(heading: str, folder: Path) -> None:
    """Writes the files that a section shows, and applies its diffs to those that are there."""
    for block in blocks(heading):
        target = folder / block.path
        if block.language in ("python", "yaml", "csv"):
            assert not target.exists(), f"{block.path} is there already"
            target.parent.mkdir(exist_ok=True)
            target.write_text(block.content)
        elif block.language == "diff":
            for hunk in block.content.split("@@\n"):
                lines = hunk.splitlines()
                before = "\n".join(line[1:] for line in lines if not line.startswith("+"))
                after = "\n".join(line[1:] for line in lines if not line.startswith("-"))
                assert target.read_text().count(before) == 1, f"{block.path} has changed:\n{before}"
                target.write_text(target.read_text().replace(before, after))


def follow(heading: str, folder: Path, run: Callable[[str], str]) -> None:
    """Writes a section's files, runs its commands and looks for the output it shows after them."""
    write_files(heading, folder)
    output = ""
    for block in blocks(heading):
        if block.language == "sh":
            output = "".join(re.sub(r"[ \t]+", " ", run(command)) for command in block.content.splitlines())
        elif block.language == "text":
            for line in block.content.splitlines():
                assert line in output, f"{line!r} is not in\n{output}"


def here(command: str) -> str:
    """The output of a command that must succeed; one of evalkit's runs in this process."""
    program, *arguments = shlex.split(command)
    if program != "evalkit":
        return elsewhere(command, Path.cwd(), REPOSITORY)
    result = invoke(*arguments)
    assert result.exit_code == 0, f"{command}\n{result.stdout}\n{result.stderr}"
    return result.stdout + result.stderr


def elsewhere(command: str, folder: Path, package: Path) -> str:
    """The output of a command that must succeed, in another folder and with another copy of the package."""
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(package),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    result = subprocess.run(command, shell=True, cwd=folder, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, f"{command}\n{result.stdout}\n{result.stderr}"
    return result.stdout + result.stderr


@pytest.fixture(autouse=True)
def _wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "120")


@pytest.fixture
def empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to work in."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of the package to change, with the data and the tests of this one beside it."""
    ignored = shutil.ignore_patterns("__pycache__", "_data")
    for name in ("evalkit", "tests"):
        shutil.copytree(REPOSITORY / name, tmp_path / name, ignore=ignored)
    for name in ("suites", "results", "checkpoints.yaml", "pyproject.toml"):
        (tmp_path / name).symlink_to(REPOSITORY / name)
    return tmp_path


def check_style(heading: str, folder: Path) -> None:
    """The package's own lint and formatting pass on what a section adds to it."""
    changed = sorted({block.path for block in blocks(heading) if block.path.startswith(("evalkit/", "tests/"))})
    for command in (["check"], ["format", "--check"]):
        ruff = [sys.executable, "-m", "ruff", *command, "--no-cache", *changed]
        result = subprocess.run(ruff, cwd=folder, capture_output=True, text=True)
        assert changed and result.returncode == 0, result.stdout


@pytest.mark.slow
def test_a_suite_from_an_empty_folder(empty: Path) -> None:
    follow("Add a suite", empty, here)


@pytest.mark.slow
def test_a_policy_beside_a_checkpoint_file(empty: Path) -> None:
    write_files("Add a suite", empty)
    follow("Add a policy", empty, here)


@pytest.mark.slow
def test_an_importer_in_a_checkout(checkout: Path) -> None:
    follow("Add an importer", checkout, lambda command: elsewhere(command, checkout, checkout))
    check_style("Add an importer", checkout)


@pytest.mark.slow
def test_an_execution_in_a_checkout(checkout: Path) -> None:
    write_files("Add a suite", checkout)
    follow("Add an execution", checkout, lambda command: elsewhere(command, checkout, checkout))
    check_style("Add an execution", checkout)


def test_every_section_of_steps_is_followed_here() -> None:
    sections = re.findall(r"^## (Add .*)$", TEXT, re.MULTILINE)
    assert sections == ["Add a suite", "Add a policy", "Add an importer", "Add an execution"]
