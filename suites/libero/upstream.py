"""The hf-libero package: its import without side effects, and its files.

By itself, its import prompts on standard input, writes into the home folder and forces EGL, and its reader of initial
states imports torch and unpickles any object. None of that happens here.
"""

from __future__ import annotations

import atexit
import codecs
import importlib.util
import io
import os
import pickle
import shutil
import sys
import tempfile
import types
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from evalkit.adapter import SimulatorError


def package_folder() -> Path:
    """Return the folder of hf-libero's code, task files and initial states. Imports nothing of it."""
    spec = importlib.util.find_spec("libero")
    if spec is None or not spec.submodule_search_locations:
        raise SimulatorError("hf-libero is not installed in this environment: evalkit setup libero")
    return Path(next(iter(spec.submodule_search_locations))) / "libero"


def prepare(assets: str, renders: bool) -> None:
    """Import robosuite and libero in this process, with ``assets`` as libero's asset folder.

    Args:
        assets: the folder of libero's objects and scenes.
        renders: False if no image will be rendered; no GL library is then loaded.
    """
    if not renders:
        os.environ.setdefault("MUJOCO_GL", "disabled")
    if "robosuite" not in sys.modules:
        _set_robosuite_macros()
    if "libero.libero" not in sys.modules:
        _write_libero_config()

    import libero.libero

    libero.libero._assets_path_cache = assets


def task_file(folder: str, task: str) -> Path:
    """Return the BDDL file of a task; ``folder`` is the suite's name upstream, e.g. ``libero_object``."""
    return package_folder() / "bddl_files" / folder / f"{task}.bddl"


def initial_states(folder: str, task: str) -> np.ndarray:
    """Return a task's fixed initial states, (50, N) float64: time, qpos and qvel of each scene."""
    path = package_folder() / "init_files" / folder / f"{task}.pruned_init"
    try:
        with zipfile.ZipFile(path) as archive:
            (name,) = (entry for entry in archive.namelist() if entry.endswith("data.pkl"))
            states = _ArrayUnpickler(io.BytesIO(archive.read(name))).load()
    except (OSError, ValueError, zipfile.BadZipFile, pickle.UnpicklingError) as error:
        raise SimulatorError(f"{folder}/{task}: cannot read the initial states in {path}: {error}") from error
    return np.asarray(states, dtype=np.float64)


class _ArrayUnpickler(pickle.Unpickler):
    """An unpickler of numpy arrays that refuses everything else."""

    def find_class(self, module: str, name: str) -> Any:
        reconstruct = np.empty(0).__reduce__()[0]  # this function's module differs between numpy's versions
        admitted = {"_reconstruct": reconstruct, "ndarray": np.ndarray, "dtype": np.dtype, "encode": codecs.encode}
        if module.split(".")[0] not in ("numpy", "_codecs") or name not in admitted:
            raise pickle.UnpicklingError(f"{module}.{name} does not belong in a file of arrays")
        return admitted[name]


def _set_robosuite_macros() -> None:
    """Load robosuite's settings before robosuite, whose import reads them.

    By default that import replaces MUJOCO_GL by EGL and writes a log in /tmp.
    """
    package = importlib.util.find_spec("robosuite")
    if package is None or package.origin is None:
        raise SimulatorError("robosuite is not installed in this environment: evalkit setup libero")
    spec = importlib.util.spec_from_file_location("robosuite.macros", Path(package.origin).with_name("macros.py"))
    assert spec is not None and spec.loader is not None
    macros = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(macros)
    macros.__dict__.update(MUJOCO_GPU_RENDERING=False, FILE_LOGGING_LEVEL=None)
    sys.modules[macros.__name__] = macros
    private = "robosuite.macros_private"  # without it, robosuite prints a warning
    sys.modules.setdefault(private, types.ModuleType(private))


def _write_libero_config() -> None:
    """Write the settings file that libero would prompt for, in a folder that is removed when the process ends."""
    folder = tempfile.mkdtemp(prefix="evalkit-libero-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    package = package_folder()
    places = {"benchmark_root": "", "bddl_files": "bddl_files", "init_states": "init_files", "datasets": "../datasets"}
    lines = [f"{key}: {package / place}\n" for key, place in places.items()]
    Path(folder, "config.yaml").write_text("".join(lines), encoding="utf-8")
    os.environ["LIBERO_CONFIG_PATH"] = folder
