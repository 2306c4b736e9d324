"""SimplerEnv's checkouts with files left out, or with a stand-in for the WidowX's table."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np

from evalkit.setup.sources import checkouts
from evalkit.suite import load_suite


def linked(source: Path, target: Path, unmatched: tuple[str, ...] = ()) -> None:
    """A copy of a checkout, by links to its files, without those that end in one of the names left out."""
    for path in source.rglob("*"):
        inside = path.relative_to(source)
        if path.is_file() and ".git" not in inside.parts and not str(inside).endswith(unmatched or ("\0",)):
            (target / inside).parent.mkdir(parents=True, exist_ok=True)
            (target / inside).symlink_to(path)


def box(low: tuple[float, float, float], high: tuple[float, float, float]) -> bytes:
    """A box as a GLB file: what a stage that is not here is stood in for by."""
    corners = np.array([[(low, high)[i >> axis & 1][axis] for axis in range(3)] for i in range(8)], np.float32)
    faces = np.array([[0, 2, 3, 1], [4, 5, 7, 6], [0, 1, 5, 4], [2, 6, 7, 3], [0, 4, 6, 2], [1, 3, 7, 5]], np.uint16)
    points = corners[faces.ravel()]  # corners of their own for every face, so that it has a flat shade
    normals = np.repeat([np.cross(c[1] - c[0], c[2] - c[0]) for c in corners[faces]], 4, axis=0).astype(np.float32)
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    triangles = (np.arange(6)[:, None] * 4 + np.array([0, 1, 2, 0, 2, 3])).astype(np.uint16)
    parts = [points.tobytes(), normals.tobytes(), triangles.tobytes()]
    starts = np.cumsum([0, *map(len, parts)])[:3].tolist()
    vector = {"componentType": 5126, "count": 24, "type": "VEC3"}
    content = {
        "asset": {"version": "2.0"},
        "scene": 0,
        "scenes": [{"nodes": [0]}],
        "nodes": [{"mesh": 0}],
        "meshes": [{"primitives": [{"attributes": {"POSITION": 0, "NORMAL": 1}, "indices": 2, "material": 0}]}],
        "materials": [{"pbrMetallicRoughness": {"baseColorFactor": [0.5, 0.4, 0.3, 1]}}],
        "buffers": [{"byteLength": sum(map(len, parts))}],
        "bufferViews": [
            {"buffer": 0, "byteOffset": s, "byteLength": len(p)} for s, p in zip(starts, parts, strict=True)
        ],
        "accessors": [
            {"bufferView": 0, **vector, "min": list(low), "max": list(high)},
            {"bufferView": 1, **vector},
            {"bufferView": 2, "componentType": 5123, "count": 36, "type": "SCALAR"},
        ],
    }
    text = json.dumps(content).encode()
    text += b" " * (-len(text) % 4)
    chunks = struct.pack("<I4s", len(text), b"JSON") + text
    chunks += struct.pack("<I4s", len(b"".join(parts)), b"BIN\0") + b"".join(parts)
    return struct.pack("<4sII", b"glTF", 2, 12 + len(chunks)) + chunks


def stood_in_sources(folder: Path) -> Path:
    """Fill a folder with the checkouts, with a plain table where a copy without WidowX's table lacks it."""
    for name, checkout in checkouts(load_suite("simpler")).items():
        linked(checkout.folder, folder / name)
    table = folder / "ManiSkill2_real2sim" / "data" / "hab2_bench_assets" / "stages" / "bridge_table_1_v1.glb"
    if not table.exists():  # in its own frame y is up, and the robot's table is at (-2.06, 0.87, 2.83)
        table.write_bytes(box((-2.9, 0.0, 2.2), (-1.7, 0.87, 3.4)))
    return folder
