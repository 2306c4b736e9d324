"""The meshes, textures and photographs of a scene: the needed files, the missing ones, and a digest."""

from __future__ import annotations

import hashlib
import json
import os
import re
import struct
import urllib.parse
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from evalkit.adapter import Setup

from .grid import Scene
from .rehearsal import files_of
from .upstream import MANISKILL, options, sources

NAMED = 3  # missing files that a message names
LAST_RESORT = (
    "/textured.glb"  # upstream takes the first of these three that an object has, and needs the last if it has none
)
ANY_OF = "/textured.obj (or .dae, or .glb)"


@dataclass(frozen=True)
class Needed:
    """The files of a scene: absolute paths, of existing and missing files alike.

    Attributes:
        files: every mesh, texture, description and photograph.
        stages: those among them that SAPIEN cooks (see ``cooking.py``).
    """

    files: frozenset[Path]
    stages: frozenset[Path] = frozenset()


def needed(setup: Setup, scene: Scene) -> Needed:
    """Return the files of upstream's assets that a scene needs.

    Needs upstream to be prepared (``upstream.prepare``); starts no simulator.
    """
    try:
        files = files_of(scene, options(setup, scene, shader=None))
    except FileNotFoundError as error:
        return Needed(frozenset({_named_in(str(error), sources(setup)[1])}))
    found = {*files.collisions, *files.stages, *files.images}
    for mesh in files.visuals:
        found |= {mesh, *_textures(mesh)}
    for urdf in files.robots:
        found |= {urdf, *_meshes(urdf)}
    return Needed(frozenset(found), frozenset(files.stages))


def missing(root: Path, files: Iterable[Path]) -> list[str]:
    """Return the missing ones of ``files``, relative to the checkout at ``root``."""
    absent = (_relative(path, root) for path in files if not path.is_file())
    return [name.replace(LAST_RESORT, ANY_OF) if name.endswith(LAST_RESORT) else name for name in absent]


def describe(absent: Iterable[str]) -> str:
    """Return one line that names the first few missing files and says what to do."""
    names = sorted(absent)
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return (
        f"{MANISKILL} lacks {', '.join(names[:NAMED])}{more}: a complete checkout has it (git -C DIR checkout .), "
        f"or evalkit setup simpler fetches one"
    )


def digest(root: Path, files: Iterable[Path]) -> str:
    """Return the SHA-256 over the sorted relative paths and hashes of ``files``, which must exist."""
    total = hashlib.sha256()
    for path in sorted(set(files)):
        total.update(f"{_relative(path, root)}\0{hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    return total.hexdigest()


def _relative(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else str(path)


def _named_in(message: str, root: Path) -> Path:
    """Return the path in upstream's message about a missing file."""
    paths = re.findall(rf"{re.escape(str(root))}\S*", message)
    return Path(paths[0]) if paths else root / message.splitlines()[0]


@cache
def _meshes(urdf: Path) -> frozenset[Path]:
    """Return the meshes that a URDF names, and the textures of its visual meshes."""
    if not urdf.is_file():
        return frozenset()
    root = ElementTree.parse(urdf).getroot()
    found = {urdf.parent / str(mesh.get("filename")) for mesh in root.iter("mesh")}
    drawn = {urdf.parent / str(mesh.get("filename")) for visual in root.iter("visual") for mesh in visual.iter("mesh")}
    return frozenset(found.union(*(_textures(mesh) for mesh in drawn)))


@cache
def _textures(mesh: Path) -> frozenset[Path]:
    """Return the files that a visual mesh refers to; none if the mesh is missing."""
    readers = {".obj": _of_obj, ".dae": _of_dae, ".glb": _of_glb}
    reader = readers.get(mesh.suffix.lower())
    if reader is None or not mesh.is_file():
        return frozenset()
    return frozenset(Path(os.path.normpath(mesh.parent / name)) for name in reader(mesh))


def _of_obj(mesh: Path) -> Iterator[str]:
    for library in _words_after("mtllib", mesh):
        yield library
        yield from _words_after(r"map_\w+", mesh.parent / library)


def _words_after(keyword: str, path: Path) -> Iterator[str]:
    """Yield the last word (a file's name) of each line that begins with ``keyword``."""
    if path.is_file():
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            if re.match(rf"\s*{keyword}\s", line):
                yield line.split()[-1]


def _of_dae(mesh: Path) -> Iterator[str]:
    for image in ElementTree.parse(mesh).getroot().iterfind("{*}library_images/{*}image/{*}init_from"):
        yield urllib.parse.unquote((image.text or "").removeprefix("file://"))


def _of_glb(mesh: Path) -> Iterator[str]:
    with mesh.open("rb") as file:
        header = file.read(20)
        if len(header) < 20 or header[:4] != b"glTF":
            return
        content = json.loads(file.read(struct.unpack("<I", header[12:16])[0]))
    for part in [*content.get("images", []), *content.get("buffers", [])]:
        uri = part.get("uri", "data:")
        if not uri.startswith("data:"):
            yield urllib.parse.unquote(uri)
