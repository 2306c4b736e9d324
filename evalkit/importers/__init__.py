"""Others' results as runs of evalkit's: a module per format, and one that writes the run.

An imported run has a manifest that says where it comes from and what it lacks (:class:`evalkit.records.manifest.Origin`), and a
journal like any other, so that every command works on it. What the files do not say is left unknown.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from evalkit.errors import UsageError, unknown
from evalkit.importers.result import Imported, ImportOptions, write


@dataclass(frozen=True)
class Format:
    """A format that can be imported.

    Attributes:
        name: as ``evalkit import`` takes it.
        module: the module with its ``read(path, asked)``, which returns an :class:`~evalkit.importers.result.Imported`.
        summary: what PATH must be, for people.
    """

    name: str
    module: str
    summary: str


FORMATS: Final = (
    Format(
        "xiaomi-logs", "evalkit.importers.xiaomi", "a folder of logs that Xiaomi-Robotics-0's evaluation scripts wrote"
    ),
    Format(
        "vla-eval",
        "evalkit.importers.vla_eval",
        "a result file of vla-eval, or the folder with those of one evaluation",
    ),
    Format("lerobot", "evalkit.importers.lerobot", "the eval_info.json of a lerobot-eval, or its folder"),
)


def import_run(form: str, path: Path, out: Path, asked: ImportOptions | None = None) -> Path:
    """Makes a run in ``out`` of what lies at ``path``; returns ``out``.

    Everything is read and checked before anything is written.

    Raises:
        UsageError: the format does not exist, or what lies there is damaged, contradicts itself or is not whole.
        RunExists: ``out`` holds a run, or another process is at work there.
    """
    found = next((f for f in FORMATS if f.name == form), None)
    if found is None:
        raise unknown("format", form, [f.name for f in FORMATS])
    if not path.exists():
        raise UsageError(f"{path}: there is no such file or folder")
    imported: Imported = importlib.import_module(found.module).read(path, asked or ImportOptions())
    write(imported, out)
    return out
