"""The checks of ``probe``: the asset folder, the files that the chosen tasks need, and GL."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from evalkit.adapter import Probe, Setup, SimulatorError
from evalkit.gl import mujoco_gl

from . import assets, upstream


def run(setup: Setup, tasks: Sequence[tuple[str, str]]) -> Probe:
    """Return metadata, problems and reasons not to compare, for (split, task) pairs."""
    metadata: dict[str, Any] = {}
    problems: list[str] = []
    incomparable: list[str] = []
    if setup.renders:
        try:
            metadata["gl"] = mujoco_gl()
        except SimulatorError as error:
            problems.append(str(error))
    folder_problem = assets.folder_problem(setup.assets)
    if folder_problem:
        return Probe(metadata, [*problems, folder_problem], incomparable)
    folder = Path(str(setup.assets))
    digest, files = assets.digest(folder)
    stand_ins = assets.stand_ins(folder)
    metadata["assets"] = {"digest": digest, "files": files, "stand_ins": stand_ins}
    if stand_ins:
        count = f"{len(stand_ins)} of {files} asset files are stand-ins (listed in the manifest)"
        incomparable.append(f"{count}: images of them are not the benchmark's")
    if not problems:  # without GL, libero cannot be imported
        problems += _missing_files(setup, folder, tasks)
    return Probe(metadata, problems, incomparable)


def _missing_files(setup: Setup, folder: Path, tasks: Sequence[tuple[str, str]]) -> list[str]:
    """Return one line for each missing file, with the tasks that need it."""
    upstream.prepare(str(folder), setup.renders)
    needed_by: dict[str, list[str]] = {}
    problems = []
    for split, task in tasks:
        path = upstream.task_file(setup.split(split)["upstream"], task)
        if not path.is_file():
            problems.append(f"{path}: missing, the task file of {split}/{task}: evalkit setup libero")
            continue
        for file in assets.needed(folder, path):
            needed_by.setdefault(file, []).append(f"{split}/{task}")
    for file, users in sorted(needed_by.items()):
        if (folder / file).is_file():
            continue
        more = f" and {len(users) - 1} more" if len(users) > 1 else ""
        problems.append(f"{folder / file}: missing, needed by {users[0]}{more}: {assets.HOW_TO_GET}")
    return problems
