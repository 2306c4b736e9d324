"""The commands as a user types them: exit codes, what goes to which stream, and that nothing ends in a traceback."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support.commands import CommandResult, evalkit, invoke, refused
from support.runs import seal


@pytest.fixture
def finished(oracle_run: Path, tmp_path: Path) -> Path:
    """A copy of a finished run, free to be changed."""
    return Path(shutil.copytree(oracle_run, tmp_path / "run"))


@pytest.mark.slow
def test_help_is_quick_and_teaches() -> None:
    times = []
    for _ in range(3):
        began = time.perf_counter()
        shown = evalkit("--help")
        times.append(time.perf_counter() - began)
    assert all(command in shown.stdout for command in ("list", "setup", "doctor", "run", "table", "First steps"))
    assert min(times) < 2, "a generous bound: the target of 0.4 s is for a quiet machine"
    assert "--resume" in evalkit("run", "--help").stdout and "Examples" in evalkit("run", "--help").stdout


def test_no_heavy_library_is_imported_to_show_help() -> None:
    heavy = "('torch', 'pandas', 'numpy', 'pydantic', 'statsmodels')"
    code = f"import sys, evalkit, evalkit.cli; print([m for m in {heavy} if m in sys.modules])"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"


def test_run_prints_the_table_and_where_the_run_is(finished: Path, pointmass: str) -> None:
    result = invoke("run", pointmass, "--out", finished, "--resume")
    assert result.exit_code == 0
    assert "mean of two" in result.stdout and "95 % interval" in result.stdout and f"run: {finished}" in result.stdout
    assert f"16 episodes, 16 done before, into {finished}" in result.stderr


def test_json_is_one_document_and_nothing_else(pointmass: str, tmp_path: Path) -> None:
    result = invoke("run", pointmass, "--json", "--checkpoint", "random", "--out", tmp_path / "run")
    document = json.loads(result.stdout)
    assert {"run", "suite", "checkpoint", "execution", "headline", "rows", "episodes", "errors"} <= document.keys()
    assert document["suite"] == "pointmass" and document["execution"] == "sync" and document["episodes"] == 16
    assert {"name", "value", "low", "high", "n"} <= document["headline"].keys()
    assert document["rows"][-1]["split"] is None and document["rows"][-1]["task"] is None
    assert "16/16" in result.stderr


def play_own(pointmass: str, folder: Path, methods: str) -> CommandResult:
    """Runs a user's own policy, which is Zero but for ``methods``, to a JSON document."""
    (folder / "own.py").write_text(
        f"import os\nfrom evalkit.policies.scripted import ScriptedParameters, Zero\nclass Own(Zero):\n{methods}"
    )
    (folder / "own.yaml").write_text("checkpoints: {own: {summary: s, policy: 'own:Own'}}")
    named = ["--checkpoint-file", str(folder / "own.yaml"), "--checkpoint", "own", "--episodes", "1", "--workers", "1"]
    out = ["--out", str(folder / "run"), "--json"]
    return evalkit("run", pointmass, *named, *out, env={"PYTHONPATH": str(folder)})


@pytest.mark.slow
def test_json_stays_pure_whatever_a_policy_prints(pointmass: str, tmp_path: Path) -> None:
    result = play_own(
        pointmass,
        tmp_path,
        "    def __init__(self, suite, parameters: ScriptedParameters):\n        print('LOUD')\n"
        "        super().__init__(suite, parameters)\n"
        "    def act(self, requests):\n        os.system('echo LOUD')\n        return super().act(requests)\n",
    )
    assert json.loads(result.stdout)["checkpoint"] == "own" and result.stderr.count("LOUD") > 1


@pytest.mark.slow
def test_json_hides_no_error(pointmass: str, tmp_path: Path) -> None:
    result = play_own(
        pointmass,
        tmp_path,
        "    def __init__(self, suite, parameters: ScriptedParameters):\n        super().__init__(suite, parameters)\n"
        "    def close(self):\n        raise OSError('no space left')\n",
    )
    assert result.exit_code == 2 and result.stdout == "" and "evalkit: no space left" in result.stderr


def test_table_formats_agree(finished: Path) -> None:
    rows = json.loads(invoke("table", finished, "--format", "json").stdout)["rows"]
    assert list(rows[0]) == ["suite", "split", "task", "metric", "value", "low", "high", "n", "n_effective", "errors"]
    assert [(r["split"], r["task"]) for r in rows][-3:] == [("near", None), ("far", None), (None, None)]
    csv = invoke("table", finished, "--format", "csv").stdout.splitlines()
    markdown = invoke("table", finished, "--format", "md").stdout
    latex = invoke("table", finished, "--format", "latex").stdout
    plain = invoke("table", finished).stdout
    assert len(csv) == len(rows) + 1
    for text in (markdown, latex, plain):
        assert "mean of two" in text and "100.0" in text
    assert markdown.count("\n| ") == len(rows) + 1 - 1 + 1 and r"\begin{tabular}" in latex


def test_table_takes_several_runs(finished: Path, pointmass: str, tmp_path: Path) -> None:
    invoke("run", pointmass, "--checkpoint", "zero", "--workers", "1", "--out", tmp_path / "zero")
    shown = invoke("table", finished, tmp_path / "zero").stdout
    assert "Point mass · oracle" in shown and "Point mass · zero" in shown


def test_list_shows_suites_checkpoints_and_runs(finished: Path) -> None:
    content = json.loads(invoke("list", "--json", "--runs", finished.parent).stdout)
    assert {"metaworld", "libero"} <= {row["suite"] for row in content["suites"]}
    assert {"oracle", "oracle-noisy", "random", "zero"} <= {row["checkpoint"] for row in content["checkpoints"]}
    assert [row["episodes"] for row in content["runs"]] == [16]
    shown = invoke("list", "--runs", finished.parent)
    assert shown.exit_code == 0 and "metaworld" in shown.stdout and "oracle-noisy" in shown.stdout


@pytest.mark.slow
def test_setup_and_doctor_on_a_suite_without_requirements(pointmass: str) -> None:
    assert "ready already" in invoke("setup", pointmass).stderr
    healthy = invoke("doctor", pointmass)
    assert healthy.exit_code == 0 and "simulator" in healthy.stdout and "numpy" in healthy.stdout
    broken = invoke("doctor", pointmass, env={"POINTMASS_MISSING": "bolt.obj"})
    assert broken.exit_code == 2 and "bolt.obj is missing" in broken.stdout


def test_doctor_says_what_is_not_built(tmp_path: Path) -> None:
    result = invoke("doctor", "metaworld", env={"EVALKIT_HOME": str(tmp_path)})
    assert result.exit_code == 2 and "run `evalkit setup metaworld`" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["run", "metawrld"], "unknown suite 'metawrld': did you mean metaworld?"),
        (["run", "SUITE", "--split", "nearr"], "unknown split 'nearr': did you mean near or far?"),
        (["run", "SUITE", "--task", "uup"], "unknown task 'uup': did you mean up?"),
        (["run", "SUITE", "--checkpoint", "oracel"], "unknown checkpoint 'oracel': did you mean oracle"),
        (["run", "SUITE", "--checkpoint", "oracle:noise=-1"], "noise: Input should be greater than or equal to 0"),
        (["run", "SUITE", "--episodes", "0"], "--episodes 0: pointmass has 1 to 20 scenes a task"),
        (["run", "SUITE", "--horizon", "0"], "--horizon 0"),
        (["run", "SUITE", "--delay", "2"], "the simulator waits for the policy: remove --delay"),
        (["run", "SUITE", "--resume"], "--resume needs --out DIR"),
        (["run", "SUITE", "--resume", "--out", "nowhere"], "holds no run"),
        (["run", "SUITE", "--out", "/proc/nowhere"], "--out /proc/nowhere: cannot be written"),
        (["run", "metaworld", "--out", "run"], "run `evalkit setup metaworld`"),
        (["setup", "SUITE", "--assets", "."], "pointmass carries its own assets"),
        (["setup", "libero", "--assets", "nowhere"], "no such folder"),
        (["setup", "metaworld", "--source", "."], "takes no checkout"),
        (["setup", "libro"], "did you mean libero?"),
        (["doctor", "nothing"], "unknown suite 'nothing'"),
        (["run", "SUITE", "--checkpoint", "oracle:chunk=["], "'[' is not a value for chunk"),
        (["run", "SUITE", "--checkpoint", ""], "unknown checkpoint ''"),
        (["run", "SUITE", "--checkpoint", "oracle:noise=.inf"], "noise: Input should be a finite number"),
        (["run", "SUITE", "--out", "x" * 300], "File name too long"),
        (["setup", "libero", "--assets", ""], "--assets: name the folder"),
        (["table", "y" * 300], "File name too long"),
        (["table", "nowhere"], "not a run (there is no manifest.json)"),
        (
            ["run", "SUITE", "--checkpoint", "oracle:chunk=99999999999"],
            "chunk: Input should be less than or equal",
        ),
        (["run", "SUITE", "--checkpoint", "oracle:chunk=" + "9" * 5000], "is not a value for chunk"),
        (["run", "SUITE", "--checkpoint", "oracle:cameras=&a [*a]"], "'&a [*a]' is not a value for cameras"),
        (["run", "SUITE", "--repeats", "99999999999"], "at most 2000000: lower --episodes or --repeats"),
        (["run", "SUITE", "--task", "9" * 5000], "unknown task '999"),
        (["run", "SUITE", "--execution", "hold", "--delay", "9" * 400 + "ms"], "ms is more than an hour"),
        (
            ["run", "SUITE", "--execution", "hold", "--delay", "trace:/dev/zero"],
            "/dev/zero: cannot be read: is a device",
        ),
        (["run", "SUITE", "--checkpoint-file", "/dev/zero"], "/dev/zero: cannot be read: is a device, not a file"),
        (["import", "lerobot", "/dev/zero", "--out", "o"], "/dev/zero: cannot be read: is a device, not a file"),
        (["run", "SUITE", "--jsn"], "No such option: --jsn (Possible options: --json); see `evalkit run --help`"),
        (["run", "SUITE", "--horizon"], "Option '--horizon' requires an argument; see `evalkit"),
        (["run"], "Missing argument 'SUITE'; see `evalkit run --help`"),
        (["rum"], "No such command 'rum'. Did you mean 'run'?; see `evalkit --help`"),
    ],
)
def test_bad_input_gets_one_clear_line(
    pointmass: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], expected: str
) -> None:
    monkeypatch.chdir(tmp_path)
    typed = [pointmass if a == "SUITE" else a for a in arguments]
    assert expected in refused(invoke(*typed, env={"EVALKIT_HOME": str(tmp_path / "home")}))


def test_a_refusal_is_the_exit_code_of_the_process() -> None:
    assert "did you mean metaworld?" in refused(evalkit("run", "metawrld"))


def test_a_broken_checkpoints_file_names_the_field(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from evalkit.errors import UsageError
    from evalkit.policies.checkpoint import load_checkpoints

    (tmp_path / "checkpoints.yaml").write_text("checkpoints: {oracle: {summary: x, polcy: y}}\n")
    monkeypatch.setattr("evalkit.policies.checkpoint.data_folder", lambda: tmp_path)
    with pytest.raises(
        UsageError, match=r"checkpoints\.yaml: checkpoints\.oracle\.polcy: unknown key; did you mean 'policy'"
    ):
        load_checkpoints()


def test_a_damaged_journal_is_named_and_not_touched(finished: Path) -> None:
    journal = finished / "journal.jsonl"
    journal.write_bytes(b"garbage\n" + journal.read_bytes())
    before = journal.read_bytes()
    assert "journal.jsonl: line 1 is not an episode record" in refused(invoke("table", finished))
    assert journal.read_bytes() == before


@pytest.mark.parametrize(
    ("file", "old", "new", "expected"),
    [
        ("manifest.json", '"id": "oracle"', '"idd": "oracle"', "checkpoint.id is missing"),
        ("manifest.json", '"horizon": 10', '"horizont": 10', "execution.horizon is missing"),
        ("manifest.json", '"mean_of": "splits"', '"mean_of": "planets"', "mean_of"),
        ("manifest.json", '"format": 1', '"format": 99', "format 99 is not one this evalkit reads"),
        ("journal.jsonl", '"success":true', '"success":"yes"', "line 1 is not an episode record"),
        ("journal.jsonl", '"success":true', '"success":null', "either a verdict or an error"),
        (
            "journal.jsonl",
            '/0/s3/r0","episode":{"suite":"pointmass","split":"near","task":"left","scene":0',
            "",
            "line 1",
        ),
        ("journal.jsonl", "pointmass", "elsewhere", "an episode that the manifest does not plan"),
    ],
)
def test_damaged_files_are_named(finished: Path, file: str, old: str, new: str, expected: str) -> None:
    text = (finished / file).read_text()
    assert old in text
    (finished / file).write_text(text.replace(old, new))
    assert expected in refused(invoke("table", finished))
    listed = invoke("list", "runs", "--runs", finished.parent)
    assert listed.exit_code == 0 and "run" in listed.stdout


def test_a_table_fits_a_narrow_terminal_with_all_its_numbers(finished: Path, tmp_path: Path) -> None:
    for file in ("manifest.json", "journal.jsonl"):
        text = (finished / file).read_text()
        (finished / file).write_text(text.replace('"left"', f'"{"left_" * 20}"').replace("/left/", f"/{'left_' * 20}/"))
    seal(finished, json.loads((finished / "manifest.json").read_text()))
    for columns in ("80", "60", "0"):
        shown = invoke("table", finished, env={"COLUMNS": columns}).stdout
        assert "100.0" in shown and "51.0–100.0" in shown and "80.6–100.0" in shown


@pytest.mark.slow
def test_a_reader_that_goes_away_does_not_end_a_run(pointmass: str, tmp_path: Path) -> None:
    command = f"{sys.executable} -m evalkit run {pointmass} --out {tmp_path / 'run'} 2>&1 >/dev/null | head -1"
    subprocess.run(["bash", "-c", command], check=True, capture_output=True)
    assert len((tmp_path / "run" / "journal.jsonl").read_text().splitlines()) == 16


@pytest.mark.slow
def test_a_locale_without_our_characters_does_not_end_a_run(pointmass: str, tmp_path: Path) -> None:
    result = evalkit("run", pointmass, "--out", str(tmp_path / "run"), env={"PYTHONIOENCODING": "ascii"})
    assert result.exit_code == 0 and "mean of two" in result.stdout


@pytest.mark.slow
def test_a_full_disk_is_said_in_one_line(pointmass: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (6000, 6000)); import signal"
    code += "; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); from evalkit.cli import main; main()"
    out = tmp_path / "run"
    command = [sys.executable, "-c", code, "run", pointmass, "--out", str(out), "--workers", "1"]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 2 and "Traceback" not in result.stderr
    assert result.stderr.strip().splitlines()[-1].startswith("evalkit: "), result.stderr


@pytest.mark.slow
def test_errors_make_the_exit_code_two_and_the_table_says_so(pointmass: str, tmp_path: Path) -> None:
    result = invoke("run", pointmass, "--checkpoint", "zero", "--task", "raises", "--out", tmp_path / "run")
    assert result.exit_code == 2
    assert "1 episodes ended in errors; they count neither as success nor as failure" in result.stdout
    assert "this scene is cursed" in result.stderr


@pytest.mark.slow
def test_an_interrupted_run_says_how_to_go_on(pointmass: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "evalkit", "run", pointmass, "--out", str(tmp_path / "run")]
    process = subprocess.Popen(
        command,
        env={**os.environ, "POINTMASS_DELAY": "0.1"},
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background jobs ignore it
    )
    while not (tmp_path / "run" / "journal.jsonl").exists():
        time.sleep(0.05)
    process.send_signal(2)
    _, errors = process.communicate(timeout=20)
    assert process.returncode == 130 and "interrupted; continue with --resume --out" in errors
    assert "Traceback" not in errors
    assert invoke("run", pointmass, "--resume", "--out", tmp_path / "run").exit_code == 0
