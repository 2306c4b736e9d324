"""Python code that comes with a checkpoint: the references to it, its identity, and a check of the imported modules.

transformers imports the classes that ``auto_map`` names in a checkpoint's JSON files. A reference can point into a
subfolder, to another directory or to another repository (``org/name--module.Class``). Only modules of the checkpoint's
own folder are admitted here, because nothing else was trusted or is part of the checkpoint's identity.
"""

from __future__ import annotations

import hashlib
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from evalkit.errors import PolicyProblem, UsageError, excerpt
from evalkit.files import read_json

_REFERENCE = re.compile(r"(?:[A-Za-z_][\w-]*/)*[A-Za-z_]\w*\.[A-Za-z_]\w*")
_PACKAGE = "transformers_modules."  # the package that transformers imports remote code into
_ELSEWHERE = "adapter_config.json"  # transformers then loads the base model that it names, with its code


def references(folder: Path) -> list[str]:
    """Return the references of every ``auto_map`` of a folder's JSON files, in subfolders too.

    Raises:
        UsageError: a reference points outside the folder, or a file cannot be read.
    """
    if (folder / _ELSEWHERE).exists():
        raise UsageError(f"{folder / _ELSEWHERE}: its base model would come from elsewhere: merge the adapter into it")
    found: list[str] = []
    for file in sorted(folder.rglob("*.json")):
        try:
            content = read_json(file, strict=False)
        except ValueError as error:
            raise UsageError(f"{file}: cannot be read: {excerpt(error)}") from error
        for reference in _auto_maps(content):
            if not isinstance(reference, str) or not _REFERENCE.fullmatch(reference):
                shown = excerpt(reference, 100)
                raise UsageError(f"{file}: auto_map: {shown!r} must be module.Class, in the checkpoint's own folder")
            module = reference.rpartition(".")[0]
            if not (folder / f"{module}.py").is_file():
                raise UsageError(f"{file}: auto_map: {reference!r}: there is no {module}.py in {folder}")
            found.append(reference)
    return found


def _auto_maps(content: Any) -> Iterator[Any]:
    """Yield the values of every ``auto_map`` in a JSON document; those of a list one by one, without None."""
    pending = [content]
    while pending:
        value = pending.pop()
        if isinstance(value, Mapping):
            pending += [part for key, part in value.items() if key != "auto_map"]
            named = value.get("auto_map") or {}
            for reference in named.values() if isinstance(named, Mapping) else [named]:
                several = reference if isinstance(reference, list) else [reference]
                yield from (one for one in several if one is not None)
        elif isinstance(value, list):
            pending += value


def code_files(folder: Path) -> dict[str, str]:
    """Return every Python file of a folder and its subfolders: relative path → SHA-256 of its content."""
    return {
        file.relative_to(folder).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(folder.rglob("*.py"))
        if file.is_file()
    }


def code_digest(files: Mapping[str, str]) -> str:
    """Return the SHA-256 over the names and contents of :func:`code_files`."""
    return hashlib.sha256("".join(f"{name}\0{files[name]}\n" for name in sorted(files)).encode()).hexdigest()


def check_imported(folder: Path, files: Mapping[str, str], *objects: Any) -> None:
    """Check that the imported code is the code that was hashed.

    transformers copies the files before it imports them, and reuses older copies.

    Args:
        folder: the checkpoint's folder.
        files: :func:`code_files`, taken before the import.
        *objects: the model and the processor, whose modules are checked with their neighbours.

    Raises:
        PolicyProblem: the folder has changed since, or a module came from another file.
    """
    if code_files(folder) != files:
        raise PolicyProblem(f"{folder}: its code changed while it was being loaded")
    for module in _modules_of(objects):
        content = Path(str(module.__file__)).read_bytes()
        if hashlib.sha256(content).hexdigest() not in files.values():
            raise PolicyProblem(f"{module.__file__}: this imported module is no file of {folder}: remove it, try again")


def _modules_of(objects: Iterable[Any]) -> list[ModuleType]:
    """Return the modules with remote code that define the objects' classes, and those that they import in turn."""
    found: dict[str, ModuleType] = {}
    pending = [kind.__module__ for one in objects for kind in type(one).__mro__]
    while pending:
        name = pending.pop()
        module = sys.modules.get(name)
        if module is None or name in found or not name.startswith(_PACKAGE):
            continue
        found[name] = module
        for value in vars(module).values():
            pending.append(value.__name__ if isinstance(value, ModuleType) else str(getattr(value, "__module__", "")))
    return [module for module in found.values() if getattr(module, "__file__", None)]
