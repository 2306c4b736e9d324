"""The checks of ``probe``: upstream's files, the sequences, and the renderer."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from evalkit.adapter import Probe, Setup, SimulatorError

from . import renderer, sequences, upstream

# references inside a model's files: OBJ to its materials, MTL to its textures
_NAMED = {".obj": re.compile(r"^mtllib\s+(.+?)\s*$", re.M), ".mtl": re.compile(r"^map_Kd\s+(.+?)\s*$", re.M)}


def run(setup: Setup, tasks: Sequence[tuple[str, str]]) -> Probe:
    """Return metadata, problems and reasons not to compare. All tasks need the same: ``tasks`` is not read."""
    metadata: dict[str, Any] = {}
    problems: list[str] = []
    incomparable: list[str] = []
    try:
        checkouts = upstream.Checkouts.of(setup.sources)
        problems += missing_files(checkouts)
        if not problems:
            upstream.prepare(checkouts)
            problems += _unknown_tasks(setup, checkouts)
    except SimulatorError as error:
        problems.append(str(error))
    except ImportError as error:
        problems.append(f"calvin_env cannot be imported ({error}): evalkit setup calvin")
    if setup.renders:
        try:
            metadata["gl"] = renderer.described()
            if metadata["gl"]["renderer"] == "tiny" and setup.observation_spec.cameras:
                incomparable.append("images are the TinyRenderer's; published results are made with EGL's")
        except SimulatorError as error:
            problems.append(str(error))
    return Probe(metadata, problems, incomparable)


def missing_files(checkouts: upstream.Checkouts) -> list[str]:
    """Return one line for each needed file that is missing."""
    code = [checkouts.sequence_rules, checkouts.initial_states]
    code += [checkouts.calvin / upstream.TASKS, checkouts.calvin / upstream.ANNOTATIONS]
    code += [checkouts.calvin_env / "conf" / "config_data_collection.yaml"]
    assets = dict.fromkeys(file for model in _models(checkouts.calvin_env) for file in _files_of(model))
    return [f"{file}: missing: {upstream.HOW_TO_GET}" for file in (*code, *assets) if not file.is_file()]


def _models(folder: Path) -> Iterator[Path]:
    """Yield the URDF files of scene D and its robot, as named in upstream's configuration."""
    for part in ("scene/calvin_scene_D.yaml", "robot/panda_longer_finger.yaml"):
        file = folder / "conf" / part
        content = file.read_text(encoding="utf-8") if file.is_file() else ""
        yield from (folder / "data" / name for name in re.findall(r"^\s*file(?:name)?: (\S+\.urdf)$", content, re.M))
        if not content:
            yield file
    yield folder / "data" / "plane" / "plane.urdf"  # named in upstream's code


def _files_of(model: Path) -> Iterator[Path]:
    """Yield a URDF file, its meshes, and the materials and textures of visual meshes."""
    yield model
    if model.suffix != ".urdf" or not model.is_file():
        return
    for kind in ("visual", "collision"):
        for mesh in ElementTree.parse(model).getroot().findall(f".//{kind}/geometry/mesh"):
            file = model.parent / str(mesh.get("filename")).removeprefix("package://")
            yield from _with_materials(file) if kind == "visual" else (file,)


def _with_materials(file: Path) -> Iterator[Path]:
    yield file
    pattern = _NAMED.get(file.suffix.lower())
    if pattern is not None and file.is_file():
        for name in pattern.findall(file.read_text(encoding="utf-8", errors="replace")):
            if file.suffix != ".obj" or (file.parent / name).is_file():  # two robot meshes never had their materials
                yield from _with_materials(file.parent / name)


def _unknown_tasks(setup: Setup, checkouts: upstream.Checkouts) -> list[str]:
    """Return a line for each sub-task of the sequences without a check or an annotation in upstream's configuration."""
    needed = {task for _, names in sequences.of(setup, checkouts) for task in names}
    checked, annotated = set(upstream.task_checks(checkouts).tasks), set(upstream.annotations(checkouts))
    return [
        f"sub-task {task}: {'no check' if task not in checked else 'no annotation'} in {checkouts.calvin}: "
        f"is it the right commit? {upstream.HOW_TO_GET}"
        for task in sorted(needed - (checked & annotated))
    ]
