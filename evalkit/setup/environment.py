"""A suite's own Python environment: built from its pinned packages, found again, and given to worker processes."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from evalkit import descendants
from evalkit.errors import EnvironmentProblem, excerpt
from evalkit.locations import home_folder, package_folder
from evalkit.suite import Suite

_READY = "evalkit-ready.json"
_IMPORTED = ("numpy", "msgpack")  # by evalkit's side of the worker


@dataclass(frozen=True)
class Environment:
    """The Python environment of a suite's workers.

    Attributes:
        suite: the suite's name.
        source: the suite's folder (``suite.yaml``, ``adapter.py``, ``requirements.txt``).
        folder: the virtual environment, or None for a suite without requirements, which runs in evalkit's own.
        reference: the name or folder by which the user referred to the suite.
        other_python: the Python version to build with, e.g. ``"3.11"``, or None for evalkit's own.
    """

    suite: str
    source: Path
    folder: Path | None
    reference: str
    other_python: str | None = None

    @classmethod
    def of(cls, suite: Suite) -> Environment:
        """Return the environment of a suite that :func:`evalkit.suite.load_suite` read."""
        source, name = suite.folder, suite.reference
        if not (source / "requirements.txt").is_file():
            return cls(suite.name, source, None, name)
        running = f"{sys.version_info.major}.{sys.version_info.minor}"
        fitting = suite.environment.python or [running]
        version = running if running in fitting else max(fitting, key=lambda v: int(v.split(".")[1]))
        closure = hashlib.sha256((source / "requirements.txt").read_bytes()).hexdigest()[:12]
        folder = home_folder() / "envs" / f"{suite.name}-py{version}-{closure}"
        return cls(suite.name, source, folder, name, None if version == running else version)

    @property
    def python(self) -> Path:
        """The interpreter."""
        return self.folder / "bin" / "python" if self.folder else Path(sys.executable)

    @property
    def ready(self) -> bool:
        """True if it was built to the end."""
        return self.folder is None or ((self.folder / _READY).is_file() and self.python.exists())

    def worker_command(self, argument: str) -> list[str]:
        """Return the command that starts a worker (``argument``: its socket) or a conformance trial (``"trial"``)."""
        return [str(self.python), "-I", str(package_folder() / "worker" / "_bootstrap.py"), argument]

    def require(self) -> None:
        """Raise EnvironmentProblem that says how to build it, unless it is ready."""
        if not self.ready:
            raise EnvironmentProblem(
                f"the environment of {self.suite} is not built: run `evalkit setup {self.reference}`"
            )

    def build(self, say: Callable[[str], None]) -> bool:
        """Build it if it is not ready, and report each step to ``say``. Returns True if anything was built.

        An interrupted build is discarded and started again. Of two concurrent builds, one waits for the other, and for
        the installer that a killed one left behind.

        Raises:
            EnvironmentProblem: ``requirements.txt`` lacks a package that the worker imports, there is no Python to
                build with, or pip failed; the message then has pip's last line and the path of the whole log.
        """
        if self.folder is None or self.ready:
            return False
        _check_requirements(self.source / "requirements.txt")
        try:
            self.folder.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise EnvironmentProblem(f"{self.folder.parent} cannot be created ({error}); set EVALKIT_HOME") from error
        with _locked(self._beside(".lock")) as lock:
            if self.ready:
                return False
            interpreter = self._interpreter()
            shutil.rmtree(self.folder, ignore_errors=True)
            say(f"creating {self.folder}")
            command = [interpreter, "-m", "venv", "--symlinks", str(self.folder)]
            result = descendants.run(
                command, _neutral(), capture_output=True, text=True, stdin=subprocess.DEVNULL, pass_fds=[lock]
            )
            if result.returncode:
                why = (result.stderr or result.stdout).strip().splitlines() or [f"venv ended with {result.returncode}"]
                raise EnvironmentProblem(f"{self.folder}: a virtual environment cannot be created: {excerpt(why[-1])}")
            say(f"installing the pinned packages of {self.suite} (and no others)")
            self._install(self.source / "requirements.txt", lock)
            ready = {"suite": self.suite, "python": interpreter}
            (self.folder / _READY).write_text(json.dumps(ready) + "\n")
        return True

    def _interpreter(self) -> str:
        """Return the Python to build with: evalkit's own, or one on PATH that reports the right version."""
        if self.other_python is None:
            return sys.executable
        for name in (f"python{self.other_python}", "python3", "python"):
            found = shutil.which(name)
            if found is None:
                continue
            question = [found, "-c", "import sys; print('%d.%d' % sys.version_info[:2])"]
            answer = subprocess.run(question, capture_output=True, text=True, stdin=subprocess.DEVNULL, env=_neutral())
            if answer.stdout.strip() == self.other_python:
                return found
        raise EnvironmentProblem(
            f"the simulator of {self.suite} needs Python {self.other_python} (this is {platform.python_version()}), "
            f"and there is no python{self.other_python} on PATH: install it, and run `evalkit setup {self.reference}` "
            "again"
        )

    def _install(self, requirements: Path, lock: int) -> None:
        """Install the packages. The installer holds the lock too, so that no other build starts while it runs."""
        assert self.folder is not None
        log = self._beside(".log")
        command = [str(self.python), "-I", "-m", "pip", "install", "--no-deps", "--no-input", "-r", str(requirements)]
        elsewhere = (
            "PIP_TARGET",
            "PIP_PREFIX",
            "PIP_ROOT",
            "PIP_USER",
        )  # would install the packages into another folder
        variables = {k: v for k, v in _neutral().items() if k not in elsewhere}
        with log.open("wb") as output:
            result = descendants.run(
                command,
                variables,
                stdout=output,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                pass_fds=[lock],
            )
        if result.returncode:
            errors = [line for line in log.read_text(errors="replace").splitlines() if line.startswith("ERROR")]
            why = errors[-1] if errors else f"pip ended with {result.returncode}"
            raise EnvironmentProblem(f"{self.suite}: {excerpt(why)} (whole log: {log})")

    def _beside(self, suffix: str) -> Path:
        assert self.folder is not None
        return self.folder.parent / f"{self.folder.name}{suffix}"

    def variables(self, suite: Suite, renders: bool) -> dict[str, str]:
        """Return the environment variables of a worker: the caller's, one thread, and the GL backend.

        A worker that renders uses ``$MUJOCO_GL``, by default EGL on Linux. Other workers need no GL library at all.
        """
        variables = _neutral()
        threads = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")
        variables |= dict.fromkeys(threads, "1")
        if suite.environment.gl == "mujoco":
            default = "egl" if sys.platform == "linux" else "glfw"
            variables["MUJOCO_GL"] = os.environ.get("MUJOCO_GL", default) if renders else "disabled"
        return variables


def _check_requirements(path: Path) -> None:
    """Raise EnvironmentProblem if the packages that a worker imports for evalkit are not in the file."""
    text = path.read_text(encoding="utf-8")
    named = {name.lower() for name in re.findall(r"^[ \t]*([A-Za-z0-9][A-Za-z0-9._-]*)", text, re.MULTILINE)}
    lacking = [package for package in _IMPORTED if package not in named]
    if lacking:
        lines = ", ".join(f"{package}=={version(package)}" for package in lacking)
        raise EnvironmentProblem(f"{path}: lacks {' and '.join(lacking)}, which evalkit's worker imports: add {lines}")


def _neutral() -> dict[str, str]:
    """Return the caller's environment variables without those that affect another Python."""
    return {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "VIRTUAL_ENV"))}


@contextmanager
def _locked(path: Path) -> Iterator[int]:
    """Hold a lock file, whose descriptor it yields. The lock ends when the last process that holds it does."""
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield lock.fileno()
