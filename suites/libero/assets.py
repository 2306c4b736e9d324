"""The asset folder: its content, and the files that a task needs, read from task files and XML."""

from __future__ import annotations

import hashlib
import inspect
import os
import posixpath
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath

STAND_INS = "STAND_INS.txt"
CHUNK_BYTES = 1 << 20
HOW_TO_GET = "evalkit setup libero --assets DIR, or EVALKIT_LIBERO_ASSETS=DIR"

# the path of an object's XML in each of libero's families of objects, by the name of the family's base class
OBJECT_FILES = {
    "HopeBaseObject": "stable_hope_objects/{name}/{name}.xml",
    "GoogleScannedObject": "stable_scanned_objects/{name}/{name}.xml",
    "TurbosquidObjects": "turbosquid_objects/{name}/{name}.xml",
    "ArticulatedObject": "articulated_objects/{name}.xml",
}
# textures that the arena's code replaces, regardless of the scene's XML
STYLED = {"texplane": "floor", "tex-wall": "wall"}


def folder_problem(folder: str | None) -> str | None:
    """Return the reason why ``folder`` cannot be the asset folder, or None."""
    if folder is None:
        return f"libero needs its asset folder: {HOW_TO_GET}"
    if not Path(folder).is_dir():
        return f"libero's asset folder {folder} does not exist: {HOW_TO_GET}"
    return None


def digest(folder: Path) -> tuple[str, int]:
    """Return the SHA-256 over the sorted relative paths and hashes of all files but hidden ones, and their number."""
    entries = sorted((path.relative_to(folder).as_posix(), path) for path in _files(folder))
    total = hashlib.sha256()
    for name, path in entries:
        total.update(f"{name}\0{_hash(path)}\n".encode())
    return total.hexdigest(), len(entries)


def stand_ins(folder: Path) -> list[str]:
    """Return the files that the folder declares as stand-ins for the benchmark's own."""
    path = folder / STAND_INS
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    return [line.strip() for line in lines if line.strip()]


def needed(folder: Path, task_file: Path) -> list[str]:
    """Return the files that a task is built from, relative to ``folder``, as far as its XML files can be read.

    Needs libero to be prepared (``upstream.prepare``); builds nothing.
    """
    from libero.libero.envs import TASK_MAPPING
    from libero.libero.envs.base_object import OBJECTS_DICT
    from libero.libero.envs.bddl_utils import robosuite_parse_problem

    problem = robosuite_parse_problem(str(task_file))
    source = Path(inspect.getfile(TASK_MAPPING[problem["problem_name"]]))
    code = source.read_text(encoding="utf-8")  # one class per file; its scene and styles are constants in it
    scene = re.findall(r"scenes/\w+\.xml", code)[0]
    files = [scene, *_assets_of(folder, scene, _styles(code))]
    for category in [*problem["objects"], *problem["fixtures"]]:
        kind = OBJECTS_DICT.get(category.lower())
        if kind is not None:  # otherwise the table or the floor, which is part of the scene
            model = _object_file(kind)
            files += [model, *_assets_of(folder, model, {})]
    return sorted(set(files))


def _files(folder: Path) -> Iterator[Path]:
    for root, folders, names in os.walk(folder, followlinks=True):
        folders[:] = [
            name for name in folders if not name.startswith(".")
        ]  # downloaders keep their state in hidden folders
        yield from (Path(root, name) for name in names if not name.startswith("."))


def _hash(path: Path) -> str:
    content = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            content.update(chunk)
    return content.hexdigest()


def _object_file(kind: type) -> str:
    """Return the XML file of one of libero's object classes."""
    name = inspect.signature(kind).parameters["obj_name"].default
    family = next(base.__name__ for base in kind.__mro__ if base.__name__ in OBJECT_FILES)
    return OBJECT_FILES[family].format(name=name)


def _styles(code: str) -> dict[str, str]:
    """Return the files that replace a scene's floor and wall textures, by the textures' names in its XML."""
    from libero.libero.envs.arenas.style import get_texture_filename

    chosen = {name: (part, re.findall(rf'"{part}_style": "([\w-]+)"', code)[0]) for name, part in STYLED.items()}
    return {name: get_texture_filename(type=part, style=style) for name, (part, style) in chosen.items()}


def _assets_of(folder: Path, model: str, styles: Mapping[str, str]) -> list[str]:
    """Return the meshes and textures that an XML file names, relative to ``folder``; none if the file is missing."""
    path = folder / model
    if not path.is_file():
        return []
    used: dict[tuple[str, str], str] = {}
    for element in ElementTree.parse(path).getroot().findall("./asset/*[@file]"):
        name = element.get("name", str(element.get("file")))
        file = PurePosixPath(model).parent / str(element.get("file"))
        if name in styles:
            file = file.with_name(styles[name])
        used.setdefault((element.tag, name), posixpath.normpath(file))  # the first of several with one name
    return list(used.values())
