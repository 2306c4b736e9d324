"""A suite's own Python environment: built from its pinned closure, found again, and handed to worker processes."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
import venv
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from evalkit.errors import EnvironmentProblem, UsageError
from evalkit.resources import home_folder, suite_folder
from evalkit.suite import Suite

_READY = "evalkit-ready.json"


@dataclass(frozen=True)
class Environment:
    """Where a suite's workers run.

    Attributes:
        suite: the suite's name.
        source: the suite's folder (``suite.yaml``, ``adapter.py``, ``requirements.txt``).
        folder: the virtual environment, or None where the suite has no requirements and runs in evalkit's own.
        asked: what the suite was called on the command line: its name or its folder.
    """

    suite: str
    source: Path
    folder: Path | None
    asked: str

    @classmethod
    def of(cls, suite: Suite, name: str) -> Environment:
        """The environment of a suite that was named (or given as a folder) on the command line."""
        source = suite_folder(name)
        if not (source / "requirements.txt").is_file():
            return cls(suite.name, source, None, name)
        version = f"{sys.version_info.major}.{sys.version_info.minor}"
        closure = hashlib.sha256((source / "requirements.txt").read_bytes()).hexdigest()[:12]
        return cls(suite.name, source, home_folder() / "envs" / f"{suite.name}-py{version}-{closure}", name)

    @property
    def python(self) -> Path:
        """The interpreter."""
        return self.folder / "bin" / "python" if self.folder else Path(sys.executable)

    @property
    def ready(self) -> bool:
        """Whether it was built to the end."""
        return self.folder is None or ((self.folder / _READY).is_file() and self.python.exists())

    def require(self) -> None:
        """Raises EnvironmentProblem that says how to build it, unless it is ready."""
        if not self.ready:
            raise EnvironmentProblem(f"the environment of {self.suite} is not built: run `evalkit setup {self.asked}`")

    def build(self, say: Callable[[str], None]) -> bool:
        """Builds it if it is not ready; says what it does. Returns whether anything was built.

        A build that was cut off is thrown away and begun again; two builds at once wait for each other.

        Raises:
            EnvironmentProblem: pip failed; the message has its last line and where the whole log is.
        """
        if self.folder is None or self.ready:
            return False
        try:
            self.folder.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise EnvironmentProblem(f"{self.folder.parent} cannot be made ({error}); set EVALKIT_HOME") from error
        with _locked(self._beside(".lock")):
            if self.ready:
                return False
            shutil.rmtree(self.folder, ignore_errors=True)
            say(f"creating {self.folder}")
            try:
                venv.create(self.folder, with_pip=True, symlinks=True)
            except (OSError, subprocess.CalledProcessError) as error:
                raise EnvironmentProblem(f"{self.folder}: a virtual environment cannot be made: {error}") from error
            say(f"installing the pinned closure of {self.suite} (nothing beyond it)")
            self._install(self.source / "requirements.txt")
            ready = {"suite": self.suite, "python": platform.python_version()}
            (self.folder / _READY).write_text(json.dumps(ready) + "\n")
        return True

    def _install(self, requirements: Path) -> None:
        assert self.folder is not None
        log = self._beside(".log")
        command = [str(self.python), "-I", "-m", "pip", "install", "--no-deps", "--no-input", "-r", str(requirements)]
        elsewhere = ("PIP_TARGET", "PIP_PREFIX", "PIP_ROOT", "PIP_USER")  # would put the packages somewhere else
        variables = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON") and k not in elsewhere}
        with log.open("wb") as output:
            result = subprocess.run(
                command, stdout=output, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, env=variables
            )
        if result.returncode:
            errors = [line for line in log.read_text(errors="replace").splitlines() if line.startswith("ERROR")]
            why = errors[-1] if errors else f"pip ended with {result.returncode}"
            raise EnvironmentProblem(f"{self.suite}: {why} (whole log: {log})")

    def _beside(self, suffix: str) -> Path:
        assert self.folder is not None
        return self.folder.parent / f"{self.folder.name}{suffix}"

    def variables(self, suite: Suite, renders: bool) -> dict[str, str]:
        """The environment variables a worker starts with: the caller's, one thread, and the GL backend.

        A worker that renders uses ``$MUJOCO_GL``, else EGL on Linux; one that does not needs no GL library at all.
        """
        variables = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "VIRTUAL_ENV"))}
        threads = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")
        variables |= dict.fromkeys(threads, "1")
        if suite.environment.gl == "mujoco":
            default = "egl" if sys.platform == "linux" else "glfw"
            variables["MUJOCO_GL"] = os.environ.get("MUJOCO_GL", default) if renders else "disabled"
        return variables


def assets_folder(suite: Suite) -> Path | None:
    """Where the suite's assets are: its environment variable, else what ``evalkit setup`` recorded, else None."""
    if suite.assets is None:
        return None
    chosen = os.environ.get(suite.assets.variable)
    if chosen:
        return Path(chosen).expanduser().absolute()
    record = _record(suite)
    try:
        return Path(json.loads(record.read_text())["assets"]) if record.is_file() else None
    except (ValueError, KeyError, TypeError) as error:
        raise EnvironmentProblem(f"{record}: damaged; run `evalkit setup {suite.name} --assets DIR` again") from error


def set_assets(suite: Suite, folder: Path) -> None:
    """Records where the suite's assets are. Raises UsageError where the suite takes none or the folder is none."""
    if suite.assets is None:
        raise UsageError(f"--assets: {suite.name} carries its own assets")
    if folder == Path():
        raise UsageError("--assets: name the folder that holds them (got nothing, or the current folder)")
    folder = folder.expanduser().absolute()
    if not folder.is_dir():
        raise UsageError(f"--assets {folder}: no such folder")
    record = _record(suite)
    record.parent.mkdir(parents=True, exist_ok=True)
    record.write_text(json.dumps({"assets": str(folder)}) + "\n")


def download_assets(suite: Suite, say: Callable[[str], None]) -> Path:
    """Fetches the suite's assets from the Hugging Face hub. Raises EnvironmentProblem where that fails."""
    assert suite.assets is not None
    target = home_folder() / "assets" / suite.name
    say(f"downloading assets from huggingface.co/{suite.assets.hub} to {target}")
    try:
        from huggingface_hub import snapshot_download

        snapshot_download(suite.assets.hub, repo_type="dataset", local_dir=target)
    except Exception as error:  # the hub raises many kinds, from several libraries
        raise EnvironmentProblem(
            f"{suite.name}: its assets could not be downloaded ({type(error).__name__}); give a local copy with "
            f"`evalkit setup {suite.name} --assets DIR` or {suite.assets.variable}"
        ) from error
    return target / suite.assets.folder


def _record(suite: Suite) -> Path:
    return home_folder() / "suites" / f"{suite.name}.json"


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
