"""Exit codes: 1 is a gate's verdict, and nothing else ends with it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.commands import invoke, refused
from support.paths import POINTMASS, REPOSITORY

from evalkit.records.journal import read_journal

LONG = "x" * 300  # longer than any file system takes for one name
BASELINE = REPOSITORY / "results" / "baselines" / "metaworld-oracle"


@pytest.mark.parametrize(
    "arguments",
    [
        ["gate", LONG, "--baseline", "b"],
        ["gate", POINTMASS, "--checkpoint", "oracle", "--baseline", LONG],
        ["gate", BASELINE, "--baseline", LONG],
        ["gate", BASELINE, "--baseline", BASELINE, "--junit", LONG],
        ["gate", BASELINE, "--baseline", BASELINE, "--summary", LONG],
        ["compare", LONG, BASELINE],
        ["compare", BASELINE, LONG],
        ["table", LONG],
        ["timeline", LONG],
        ["list", "runs", "--runs", LONG],
        ["baseline", "accept", LONG, "--reason", "x"],
        ["baseline", "accept", BASELINE, "--reason", "x", "--name", LONG],
        ["baseline", "list", "--baselines", LONG],
        ["run", LONG],
        ["run", f"./{LONG}"],
        ["run", POINTMASS, "--checkpoint", LONG],
        ["run", POINTMASS, "--checkpoint", f"./{LONG}"],
        ["run", POINTMASS, "--checkpoint-file", LONG],
        ["run", POINTMASS, "--out", LONG],
        ["run", POINTMASS, "--out", LONG, "--resume"],
        ["sweep", POINTMASS, "--checkpoint", "oracle", "--out", LONG],
        ["doctor", LONG],
        ["import", "lerobot", LONG, "--out", "o"],
    ],
)
def test_a_name_that_no_file_can_have_is_one_line(
    arguments: list[object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = invoke(*arguments)
    lines = [line for line in result.stderr.splitlines() if line.startswith("evalkit: ")]
    assert result.exit_code == 2 and len(lines) == 1, result.stderr
    assert "Traceback" not in result.stderr + result.stdout


def started(code: str, *arguments: object, **options: object) -> subprocess.CompletedProcess[str]:
    """Run Python code in a process of its own, with the arguments of a command."""
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, **options.get("env", {})})  # type: ignore[dict-item]


DEFECT = """
import evalkit.experiments.gate, evalkit.report.gates
def broken(*arguments):
    raise KeyError("kind")
evalkit.experiments.gate.gate_finished_run = broken
from evalkit.cli import main
main()
"""


@pytest.mark.slow
def test_a_defect_is_one_line_with_its_place_and_a_traceback_on_demand(tmp_path: Path) -> None:
    arguments = ["gate", BASELINE, "--baseline", BASELINE, "--json", "--junit", tmp_path / "gate.xml"]
    result = started(DEFECT, *arguments)
    (line,) = result.stderr.strip().splitlines()
    assert result.returncode == 2 and line.startswith("evalkit: internal error: KeyError: 'kind' (gate.py, line ")
    assert line.endswith("; EVALKIT_TRACEBACK=1 shows the traceback")
    assert json.loads(result.stdout) == {"verdict": "ERROR", "reason": "'kind'"}
    assert "ERROR" in (tmp_path / "gate.xml").read_text()
    result = started(DEFECT, *arguments, env={"EVALKIT_TRACEBACK": "1"})
    assert result.returncode == 2 and "Traceback (most recent call last)" in result.stderr


OUTSIDE = """
import sys
import evalkit.cli._common
def broken(*arguments):
    raise {error}
evalkit.cli.gate.__globals__["progress_for"] = broken
from evalkit.cli import main
main()
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("error", "code"),
    [
        ("OSError(36, 'File name too long', 'here')", 2),
        ("BrokenPipeError(32, 'Broken pipe')", 2),
        ("EOFError()", 2),
        ("RecursionError('deep')", 2),
        ("MemoryError()", 2),
        ("KeyboardInterrupt()", 130),
    ],
)
def test_an_error_before_a_command_begins_is_no_verdict(error: str, code: int) -> None:
    result = started(OUTSIDE.format(error=error), "gate", BASELINE, "--baseline", BASELINE)
    assert result.returncode == code, result.stderr
    assert "Traceback" not in result.stderr


IMPORT = """
import sys
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == "typer":
            raise {error}
sys.meta_path.insert(0, Finder())
from evalkit.__main__ import main
main()
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        ("KeyboardInterrupt()", 130, "evalkit: interrupted"),
        ("ImportError('no module')", 2, "evalkit: cannot start: ImportError: no module; EVALKIT_TRACEBACK=1"),
        ("OSError(5, 'Input/output error')", 2, "evalkit: cannot start: OSError: "),
    ],
)
def test_an_error_during_the_imports_is_no_verdict(error: str, code: int, message: str) -> None:
    result = started(IMPORT.format(error=error), "gate", BASELINE, "--baseline", BASELINE)
    (line,) = result.stderr.strip().splitlines()
    assert result.returncode == code and line.startswith(message)


@pytest.mark.slow
def test_a_closed_pipe_is_no_verdict() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    for command in (["gate", "--help"], ["gate", BASELINE, "--baseline", BASELINE]):
        process = subprocess.run(
            [sys.executable, "-m", "evalkit", *map(str, command)], stdout=writing, stderr=subprocess.PIPE, text=True
        )
        assert process.returncode not in (0, 1) and "Traceback" not in process.stderr, process.stderr
    os.close(writing)


@pytest.mark.slow
@pytest.mark.parametrize("closed", [">&-", "<&- >&- 2>&-"])
def test_closed_streams_change_no_verdict_and_no_file(closed: str, tmp_path: Path) -> None:
    command = f"{sys.executable} -m evalkit"
    gate = f"{command} gate {BASELINE} --baseline {BASELINE} {closed}"
    assert subprocess.run(["bash", "-c", gate], capture_output=True).returncode == 0
    run = f"{command} run {POINTMASS} --episodes 1 --workers 1 --out {tmp_path / 'run'} {closed}"
    assert subprocess.run(["bash", "-c", run], capture_output=True).returncode == 0
    assert len(read_journal(tmp_path / "run")) == 4


@pytest.mark.slow
def test_json_without_standard_output_is_refused() -> None:
    command = f"{sys.executable} -m evalkit list --json >&-"
    result = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert result.returncode == 2 and result.stderr == "evalkit: --json: standard output is closed\n"


@pytest.mark.slow
def test_a_regression_is_still_one(tmp_path: Path, oracle_run: Path) -> None:
    invoke("run", POINTMASS, "--checkpoint", "zero", "--workers", "1", "--out", tmp_path / "run")
    command = [sys.executable, "-m", "evalkit", "gate", str(tmp_path / "run"), "--baseline", str(oracle_run)]
    assert subprocess.run([*command, "--margin", "0.5", "--alpha", "0.1"], capture_output=True).returncode == 1
    assert "Traceback" not in refused(invoke("gate", tmp_path / "run", "--baseline", tmp_path / "nothing"))


HOMELESS = """
import os, pwd
os.environ.pop("HOME", None), os.environ.pop("XDG_CACHE_HOME", None), os.environ.pop("EVALKIT_HOME", None)
def unknown(uid):
    raise KeyError(f"getpwuid(): uid not found: {uid}")
pwd.getpwuid = unknown
from evalkit.__main__ import main
main()
"""
WHAT_TO_SET = "this user has no home folder: set EVALKIT_HOME to a folder for environments and caches"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["list"], 0, ""),
        (["table", BASELINE], 0, ""),
        (["run", POINTMASS, "--episodes", "1", "--workers", "1", "--out", "run"], 0, ""),
        (["doctor"], 0, WHAT_TO_SET),
        (["doctor", "metaworld"], 2, WHAT_TO_SET),
        (["run", "metaworld"], 2, f"evalkit: {WHAT_TO_SET}"),
        (["setup", "metaworld"], 2, f"evalkit: {WHAT_TO_SET}"),
        (["setup", "libero", "--assets", "~/assets"], 2, "evalkit: ~/assets: there is no such home folder"),
        (["run", "~/suite"], 2, "evalkit: ~/suite: there is no such home folder; write the whole path"),
    ],
)
def test_a_user_without_a_home_is_told_what_to_set(
    arguments: list[object], code: int, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = started(HOMELESS, *arguments)
    assert result.returncode == code and "internal error" not in result.stderr, result.stderr
    assert message in " ".join((result.stdout + result.stderr).split())
    assert "Traceback" not in result.stderr
    if code and arguments[0] != "doctor":
        assert len(result.stderr.strip().splitlines()) == 1
