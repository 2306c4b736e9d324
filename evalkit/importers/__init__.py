"""Results of other harnesses as runs: a module per format, and one that writes the run.

An imported run has a manifest with its source and its unknown fields (:class:`evalkit.records.manifest.Origin`), and an
ordinary journal, so that every command works on it. Facts that the files do not state stay unknown.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from evalkit.errors import UsageError, unknown
from evalkit.importers.result import ImportedRun, ImportOptions, check_tasks, write


@dataclass(frozen=True)
class Format:
    """A format that can be imported.

    Attributes:
        name: the name for ``evalkit import``.
        module: the module with ``read(path, options)``, which returns an
            :class:`~evalkit.importers.result.ImportedRun`.
        summary: the expected content of PATH, for people.
    """

    name: str
    module: str
    summary: str


FORMATS: Final = (
    Format("xiaomi-logs", "evalkit.importers.xiaomi", "a folder of logs of Xiaomi-Robotics-0's evaluation scripts"),
    Format(
        "vla-eval",
        "evalkit.importers.vla_eval",
        "a result file of vla-eval, or the folder with those of one evaluation",
    ),
    Format("lerobot", "evalkit.importers.lerobot", "the eval_info.json of a lerobot-eval, or its folder"),
)


def import_run(form: str, path: Path, out: Path, options: ImportOptions | None = None) -> Path:
    """Import the results at ``path`` as a run in ``out``; return ``out``.

    Everything is read and checked before anything is written.

    Raises:
        UsageError: the format does not exist, or the files are damaged, contradictory or incomplete.
        RunExists: ``out`` holds a run, or another process is at work there.
    """
    found = next((f for f in FORMATS if f.name == form), None)
    if found is None:
        raise unknown("format", form, [f.name for f in FORMATS])
    if not path.exists():
        raise UsageError(f"{path}: there is no such file or folder")
    options = options or ImportOptions()
    imported: ImportedRun = importlib.import_module(found.module).read(path, options)
    check_tasks(imported, path, options)
    write(imported, out)
    return out
