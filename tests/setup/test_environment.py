"""Building a suite's environment, for real, from the package registry."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from importlib.metadata import EntryPoint, version
from pathlib import Path
from typing import IO

import pytest
from support.processes import gone

from evalkit.errors import EnvironmentProblem, UsageError
from evalkit.locations import suite_folders
from evalkit.setup.assets import assets_folder, set_assets
from evalkit.setup.environment import Environment
from evalkit.suite import load_suite

WORKER = "".join(f"{package}=={version(package)}\n" for package in ("numpy", "msgpack"))


@pytest.fixture
def small(pointmass: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The point mass as a suite with requirements of its own, in a folder of its own."""
    folder = tmp_path / "small"
    folder.mkdir()
    for path in Path(pointmass).glob("*.*"):
        (folder / path.name).write_text(path.read_text())
    (folder / "requirements.txt").write_text(f"six==1.17.0\n{WORKER}")
    monkeypatch.setenv("EVALKIT_HOME", str(tmp_path / "home"))
    return folder


@pytest.mark.sim
def test_an_environment_is_built_once_and_holds_the_closure_and_nothing_else(small: Path) -> None:
    environment = Environment.of(load_suite(str(small)))
    with pytest.raises(EnvironmentProblem, match=r"run `evalkit setup .*small`"):
        environment.require()
    said: list[str] = []
    assert environment.build(said.append) and environment.ready and said
    assert not environment.build(said.append)
    listed = subprocess.check_output([environment.python, "-m", "pip", "list", "--format=freeze"], text=True)
    assert {line.split("==")[0] for line in listed.split()} <= {"six", "numpy", "msgpack", "pip", "setuptools"}


@pytest.mark.sim
def test_a_build_that_was_cut_off_is_begun_again(small: Path) -> None:
    environment = Environment.of(load_suite(str(small)))
    assert environment.folder is not None
    (environment.folder / "bin").mkdir(parents=True)
    (environment.folder / "bin" / "python").write_text("half a file")
    assert not environment.ready
    assert environment.build(lambda text: None) and environment.ready


@pytest.mark.sim
def test_a_package_that_does_not_exist_is_named(small: Path) -> None:
    (small / "requirements.txt").write_text(f"six==99.99\n{WORKER}")
    environment = Environment.of(load_suite(str(small)))
    with pytest.raises(EnvironmentProblem, match=r"No matching distribution found for six==99\.99"):
        environment.build(lambda text: None)
    assert not environment.ready


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("six==1.17.0\n", r"requirements.txt: lacks numpy and msgpack, .*: add numpy==\d\S*, msgpack==\d"),
        (
            "# numpy==2.2.6\nMsgpack==1.1.1\n",
            r"requirements.txt: lacks numpy, which evalkit's worker imports: add numpy==\d",
        ),
        ("numpy==2.2.6\nmsgpack-numpy==0.4.8\n", r"requirements.txt: lacks msgpack, which"),
    ],
)
def test_requirements_without_the_workers_packages_are_refused_before_building(
    small: Path, text: str, message: str
) -> None:
    (small / "requirements.txt").write_text(text)
    environment = Environment.of(load_suite(str(small)))
    assert environment.folder is not None
    with pytest.raises(EnvironmentProblem, match=message):
        environment.build(lambda text: None)
    assert not environment.folder.parent.exists()


def test_a_suite_without_requirements_runs_in_evalkits_own_environment(small: Path) -> None:
    (small / "requirements.txt").unlink()
    environment = Environment.of(load_suite(str(small)))
    assert environment.ready and environment.python == Path(sys.executable)


def test_changed_requirements_are_another_environment(small: Path) -> None:
    before = Environment.of(load_suite(str(small)))
    (small / "requirements.txt").write_text("six==1.16.0\n")
    assert Environment.of(load_suite(str(small))).folder != before.folder


def test_a_closure_for_other_pythons_is_built_with_one_of_those(small: Path) -> None:
    running = f"{sys.version_info.major}.{sys.version_info.minor}"

    def asking_for(*pythons: str) -> Environment:
        text = (small / "suite.yaml").read_text().splitlines()
        asked = [f"environment: {{versions: [numpy], python: {json.dumps(pythons)}}}"]
        (small / "suite.yaml").write_text("\n".join([x for x in text if not x.startswith("environment")] + asked))
        return Environment.of(load_suite(str(small)))

    assert asking_for("3.4", running).other_python is None
    assert asking_for("3.3", "3.4").other_python == "3.4"
    with pytest.raises(EnvironmentProblem, match=r"needs Python 3\.4 .*no python3\.4 on PATH: install it"):
        asking_for("3.3", "3.4").build(lambda text: None)


def test_a_worker_that_does_not_render_gets_no_gl(monkeypatch: pytest.MonkeyPatch) -> None:
    suite = load_suite("metaworld")
    environment = Environment.of(suite)
    monkeypatch.setenv("MUJOCO_GL", "osmesa")
    monkeypatch.setenv("PYTHONPATH", "/somewhere")
    assert environment.variables(suite, renders=False)["MUJOCO_GL"] == "disabled"
    assert environment.variables(suite, renders=True)["MUJOCO_GL"] == "osmesa"
    assert "PYTHONPATH" not in environment.variables(suite, renders=True)


def test_assets_are_found_through_the_variable_then_what_setup_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pointmass: str
) -> None:
    suite = load_suite("libero")
    monkeypatch.setenv("EVALKIT_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("EVALKIT_LIBERO_ASSETS", raising=False)
    assert assets_folder(suite) is None
    set_assets(suite, tmp_path)
    assert assets_folder(suite) == tmp_path
    monkeypatch.setenv("EVALKIT_LIBERO_ASSETS", "/elsewhere")
    assert assets_folder(suite) == Path("/elsewhere")
    with pytest.raises(UsageError, match="no such folder"):
        set_assets(suite, tmp_path / "none")


def test_an_installed_package_can_offer_a_suite(
    pointmass: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "their_package" / "their_suite"
    package.mkdir(parents=True)
    (tmp_path / "their_package" / "__init__.py").write_text("")
    for path in Path(pointmass).glob("*.*"):
        (package / path.name).write_text(path.read_text())
    monkeypatch.syspath_prepend(str(tmp_path))
    offered = EntryPoint("theirs", "their_package.their_suite", "evalkit.suites")
    monkeypatch.setattr("evalkit.locations.entry_points", lambda group: [offered])
    assert suite_folders()["theirs"] == package
    assert load_suite("theirs").title == "Point mass"


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="marked processes are found through /proc")
@pytest.mark.parametrize("watched", [True, False], ids=["watched", "the watcher killed too"])
def test_a_killed_setup_leaves_no_installer_that_writes_into_the_next_build(
    small: Path, tmp_path: Path, watched: bool
) -> None:
    """The setup installs a package whose build never ends."""
    endless = tmp_path / "endless"
    endless.mkdir()
    (endless / "pyproject.toml").write_text(
        '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
    )
    (endless / "backend.py").write_text(
        f"import os, time\nopen({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid()))\ntime.sleep(600)\n"
    )
    (small / "requirements.txt").write_text(f"{WORKER}endless @ file://{endless}\n")
    command = [sys.executable, "-m", "evalkit", "setup", str(small)]
    first = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    environment = Environment.of(load_suite(str(small)))
    assert environment.folder is not None
    try:
        while not (tmp_path / "pid").exists():
            assert first.poll() is None
            time.sleep(0.05)
        installer = int((tmp_path / "pid").read_text())
        watcher = next(child for child in children(first.pid) if b"_watcher" in command_of(child))
        if not watched:
            os.kill(watcher, signal.SIGKILL)
        first.kill()
        first.wait()
        if watched:
            assert gone([installer])
        lock = environment.folder.with_name(f"{environment.folder.name}.lock").open()
        locked = not free(lock)
        assert locked == (not watched), "the lock is held exactly as long as an installer runs"
    finally:
        subprocess.run(["pkill", "-KILL", "-f", str(tmp_path)], check=False)


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def command_of(pid: int) -> bytes:
    return Path(f"/proc/{pid}/cmdline").read_bytes()


def free(lock: IO[str]) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
