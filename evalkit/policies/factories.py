"""Factories of policies: imported by ``module:name``, also from beside a checkpoint file, and their parameters."""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import inspect
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_type_hints

from pydantic import BaseModel

from evalkit.errors import PolicyProblem
from evalkit.suite import Suite


def load_factory(policy: str, folder: Path | None) -> Any:
    """Return the factory ``module:name``.

    Args:
        policy: the module's dotted name and the factory's name in it.
        folder: the folder of the checkpoint file that names the policy, or None. A module in it comes before any other
            module of that name, and so do the modules that it imports from there, by name while it is being imported
            or relatively at any time. ``sys.path`` and ``sys.modules`` keep no trace of those names.

    Raises:
        ImportError, AttributeError: the module or the factory does not exist. The module may raise any other error.
    """
    module, _, name = policy.partition(":")
    if folder is not None and module.partition(".")[0] in _modules_in(folder):
        return getattr(_import_beside(folder.resolve(), module), name)
    return getattr(importlib.import_module(module), name)


def parameters_of(factory: Any, policy: str) -> type[BaseModel]:
    """Return the pydantic model that a factory takes as its second parameter.

    Raises PolicyProblem that says what to write if the factory, named ``policy``, does not annotate that parameter.
    """
    target = factory.__init__ if inspect.isclass(factory) else factory
    try:
        hints = get_type_hints(target)
    except (NameError, TypeError) as error:
        raise PolicyProblem(f"{policy}: the annotations of its parameters cannot be read ({error})") from error
    hints.pop("return", None)
    models = [k for k in hints.values() if inspect.isclass(k) and issubclass(k, BaseModel) and not issubclass(k, Suite)]
    if not models:
        head = "def __init__(self, " if inspect.isclass(factory) else f"def {getattr(factory, '__name__', 'build')}("
        raise PolicyProblem(
            f"{policy} must annotate its second parameter with a pydantic model, from which evalkit reads the "
            f"checkpoint's parameters: write {head}suite: Suite, parameters: Parameters), with "
            "class Parameters(evalkit.documents.Section)"
        )
    return models[0]


def _modules_in(folder: Path) -> set[str]:
    """Return the names of the modules and packages in a folder, evalkit itself excepted."""
    modules, packages = folder.glob("*.py"), folder.glob("*/*.py")
    return {*(path.stem for path in modules), *(path.parent.name for path in packages)} - {"evalkit"}


def _import_beside(folder: Path, module: str) -> types.ModuleType:
    """Import a module of ``folder`` as part of a package made for that folder, where no other can have its name."""
    package = f"evalkit_policies_{hashlib.sha256(str(folder).encode()).hexdigest()[:12]}"
    if package not in sys.modules:
        sys.modules[package] = types.ModuleType(package)
        sys.modules[package].__path__ = [str(folder)]
    if f"{package}.{module}" in sys.modules:
        return sys.modules[f"{package}.{module}"]
    with _import_path(folder):
        return importlib.import_module(f"{package}.{module}")


@contextlib.contextmanager
def _import_path(folder: Path) -> Iterator[None]:
    """Put ``folder`` first on the import path; afterwards, path and modules by the names in it are as before."""
    path, before = list(sys.path), _loaded(folder)
    for name in before:
        del sys.modules[name]
    sys.path.insert(0, str(folder))
    importlib.invalidate_caches()
    try:
        yield
    finally:
        sys.path[:] = path
        for name in _loaded(folder):
            del sys.modules[name]
        sys.modules.update(before)


def _loaded(folder: Path) -> dict[str, types.ModuleType]:
    """Return the loaded modules with a name in ``folder``, the standard library's excepted."""
    local = _modules_in(folder) - sys.stdlib_module_names
    return {name: module for name, module in list(sys.modules.items()) if name.partition(".")[0] in local}
