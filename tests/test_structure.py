"""The tests' own structure: what tests share lives in tests/support."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

TESTS = Path(__file__).parent


def imported(path: Path) -> Iterator[str]:
    """Yield the dotted name of every module that a file imports, and of every name it imports from one."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = "." * node.level + (node.module or "")
            yield from (f"{module}.{alias.name}" for alias in node.names)


def test_no_test_imports_from_a_test() -> None:
    files = list(TESTS.rglob("*.py"))
    assert len(files) > 50
    wrong = [
        f"{path.relative_to(TESTS)}: {name}"
        for path in files
        for name in imported(path)
        if any(part.startswith("test_") or part == "conftest" for part in name.split("."))
    ]
    assert not wrong, f"move what is shared to tests/support: {wrong}"
