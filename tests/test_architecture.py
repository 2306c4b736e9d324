"""ARCHITECTURE.md names layers, rooms and functions that exist."""

from __future__ import annotations

import ast
import re
from typing import get_args

import pytest
from support.paths import REPOSITORY

from evalkit.records.folder import RunFolder
from evalkit.worker import messages

TEXT = (REPOSITORY / "ARCHITECTURE.md").read_text()
PACKAGE = REPOSITORY / "evalkit"
NAMED = sorted(set(re.findall(r"([\w/.]+\.py)::([\w.]+\w)", TEXT)))


def defined(path: str) -> set[str]:
    """The functions and classes of a file, and the methods as ``Class.method``."""
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    top = [node for node in ast.parse((PACKAGE / path).read_text()).body if isinstance(node, kinds)]
    inside = {f"{c.name}.{m.name}" for c in top if isinstance(c, ast.ClassDef) for m in c.body if isinstance(m, kinds)}
    return {node.name for node in top} | inside


@pytest.mark.parametrize("path", sorted({path for path, _ in NAMED}))
def test_every_function_it_names_is_in_its_file(path: str) -> None:
    missing = {name for there, name in NAMED if there == path} - defined(path)
    assert not missing, f"{path} has no {', '.join(sorted(missing))}"


def test_every_arrow_of_the_diagram_names_a_function() -> None:
    diagram = re.search(r"```mermaid\n(.*?)```", TEXT, re.DOTALL)
    assert diagram
    arrows = [line for line in diagram[1].splitlines() if re.search(r"-->>|->>", line)]
    assert len(arrows) > 10 and all("::" in arrow for arrow in arrows)


def test_it_names_every_message() -> None:
    both = (*get_args(messages.HostMessage), *get_args(messages.WorkerMessage))
    assert len(both) > 10 and not {message.__name__ for message in both if f"`{message.__name__}`" not in TEXT}


def test_its_layers_are_those_of_the_import_contract() -> None:
    layers = re.search(r"^layers = \[\n(.*?)^\]", (REPOSITORY / "pyproject.toml").read_text(), re.DOTALL | re.MULTILINE)
    drawn = re.search(r"## Layers\n.*?```text\n(.*?)```", TEXT, re.DOTALL)
    assert layers and drawn
    assert drawn[1].splitlines() == re.findall(r'"(.+)"', layers[1])


def test_it_has_a_paragraph_on_every_room() -> None:
    rooms = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert rooms and not {room for room in rooms if f"**`{room}/`**" not in TEXT}


def test_it_lists_every_file_of_a_run() -> None:
    files = {name for name, value in vars(RunFolder).items() if isinstance(value, property) and name != "is_run"}
    folder = RunFolder(REPOSITORY)
    for name in files - {"logs"}:
        assert str(getattr(folder, name).relative_to(REPOSITORY)) in TEXT, name
