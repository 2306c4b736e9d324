"""Result files of vla-eval and lerobot, and the command."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from support import import_logs
from support.commands import invoke, refused
from support.import_logs import episode

from evalkit.analysis.summary import Summary, summarize
from evalkit.errors import RunExists, RunMismatch, UsageError
from evalkit.importers import FORMATS, import_run
from evalkit.importers.result import ImportOptions
from evalkit.records.journal import read_journal
from evalkit.records.manifest import read_manifest
from evalkit.report.tables import notes, title
from evalkit.suite import load_suite

GOAL = list(load_suite("libero").splits["goal"].tasks.items())


def imported(form: str, path: Path, tmp_path: Path, **asked: Any) -> Summary:
    return summarize(import_run(form, path, tmp_path / "run", ImportOptions(**asked)))


def goal(folder: Path, **more: Any) -> Path:
    """A whole LIBERO suite, two episodes a task, the second of each a failure; returns the file."""
    tasks = {instruction: [episode(0, True), episode(1, False)] for _, instruction in GOAL}
    import_logs.vla_eval(folder / "goal_aggregate.json", "LIBEROBenchmark", {"suite": "libero_goal"}, tasks, **more)
    return folder / "goal_aggregate.json"


def test_vla_evals_libero_results_become_a_run_that_says_what_it_lacks(tmp_path: Path) -> None:
    summary = imported("vla-eval", goal(tmp_path), tmp_path)
    assert (summary.headline.value, summary.headline.n) == (0.5, 20)
    manifest = summary.manifest
    assert manifest.checkpoint["id"] == "Pi05Server" and manifest.execution["horizon"] is None
    assert manifest.fingerprint["protocol"] == "unknown: vla-eval 0.8.0's own" and not manifest.pairable
    assert "horizon unknown" in title(summary)
    assert {r.steps for r in read_journal(summary.folder).values()} == {10, 11} and summary.execution_stats[
        "seconds"
    ] == 0.5
    assert any("results of vla-eval 0.8.0; unknown: scenes, protocol" in note for note in notes(summary))
    assert any("not comparable with published figures" in note for note in notes(summary))


def test_a_folder_of_vla_evals_results_is_one_run(tmp_path: Path) -> None:
    goal(tmp_path / "results")
    instructions = load_suite("libero").splits["object"].tasks.values()
    tasks = {instruction: [episode(0, True), episode(1, True)] for instruction in instructions}
    import_logs.vla_eval(tmp_path / "results" / "o.json", "LIBEROBenchmark", {"suite": "libero_object"}, tasks)
    (tmp_path / "results" / "notes.json").write_text("[]")
    summary = imported("vla-eval", tmp_path / "results", tmp_path, checkpoint="pi05")
    assert {r.split: r.value for r in summary.rows if r.split and not r.task} == {"goal": 0.5, "object": 1.0}
    assert summary.manifest.origin and set(summary.manifest.origin.files) == {"goal_aggregate.json", "o.json"}


def test_a_crash_that_vla_eval_counts_as_a_failure_is_an_error(tmp_path: Path) -> None:
    crash = {"episode_id": 1, "metrics": {"success": False}, "failure_reason": "timeout", "failure_detail": "30s"}
    path = goal(tmp_path)
    content = json.loads(path.read_text())
    content["tasks"][0]["episodes"][1] = crash
    path.write_text(json.dumps(content))
    summary = imported("vla-eval", path, tmp_path)
    assert (summary.errors, summary.headline.n) == (1, 19)


def test_vla_evals_chains_and_simpler_tasks(tmp_path: Path) -> None:
    chains = {
        f"seq_{n:04d}": [episode(0, n == 5, metrics={"completed_subtasks": n})] for n in range(6)
    }  # 0 to 5 solved
    import_logs.vla_eval(tmp_path / "c.json", "CALVINBenchmark", {"num_sequences": 6}, chains)
    with pytest.raises(UsageError, match="pass --split abc_d or abcd_d"):
        imported("vla-eval", tmp_path / "c.json", tmp_path)
    assert imported("vla-eval", tmp_path / "c.json", tmp_path, split="abc_d").headline.value == 2.5
    for name, wins in {"widowx_stack_cube": 12, "widowx_carrot_on_plate": 6}.items():
        tasks = {name: [episode(n, n < wins) for n in range(24)]}
        import_logs.vla_eval(tmp_path / "s" / f"{name}.json", "SimplerEnvBenchmark", {"task_name": name}, tasks)
    lacking = r"simpler widowx: 2 of 4 tasks are missing \(put_spoon_on_table_cloth, put_eggplant_in_basket\)"
    with pytest.raises(UsageError, match=lacking):
        imported("vla-eval", tmp_path / "s", tmp_path / "x")
    summary = summarize(import_run("vla-eval", tmp_path / "s", tmp_path / "simpler", ImportOptions(allow_partial=True)))
    assert {r.task: (r.value, r.n_effective) for r in summary.rows if r.task} == {
        "stack_green_cube_on_yellow_cube": (0.5, 24),
        "put_carrot_on_plate": (0.25, 24),
    }
    assert "2 of 4 tasks, 48 episodes where the protocol has 576" in summary.coverage_note


def test_tasks_of_libero_90_that_share_an_instruction_need_their_number(tmp_path: Path) -> None:
    tasks = list(load_suite("libero").splits["90"].tasks.values())
    twice = next(t for t in tasks if tasks.count(t) == 2)
    number = len(tasks) - 1 - tasks[::-1].index(twice)
    some = {"suite": "libero_90"}, {twice: [episode(0, True)]}
    import_logs.vla_eval(tmp_path / "a.json", "LIBEROBenchmark", *some, config={"max_tasks": 1})
    with pytest.raises(UsageError, match="2 tasks have this instruction, and the file has no task_id in 90"):
        imported("vla-eval", tmp_path / "a.json", tmp_path)
    some = {"suite": "libero_90"}, {twice: [episode(0, True, task_id=number)]}
    import_logs.vla_eval(tmp_path / "b.json", "LIBEROBenchmark", *some, config={"max_tasks": 1})
    with pytest.raises(UsageError, match=r"libero 90: 89 of 90 tasks are missing \(.* and 79 more\)"):
        imported("vla-eval", tmp_path / "b.json", tmp_path)
    summary = imported("vla-eval", tmp_path / "b.json", tmp_path, allow_partial=True)
    assert summary.manifest.plan.keys == [("90", list(load_suite("libero").splits["90"].tasks)[number])]


def test_bad_results_of_vla_eval_are_refused_by_name(tmp_path: Path) -> None:
    def attempt(words: str, **asked: Any) -> None:
        with pytest.raises(UsageError) as error:
            imported("vla-eval", tmp_path / "in", tmp_path, **asked)
        assert words in str(error.value) and str(tmp_path / "in") in str(error.value)
        assert not (tmp_path / "run").exists()
        for file in (tmp_path / "in").glob("*.json"):
            file.unlink()

    path = goal(tmp_path / "in")
    whole = path.read_text()
    path.write_text(whole[:-30])
    attempt("goal_aggregate.json: is not JSON")
    goal(tmp_path / "in", config={"episodes_per_task": 3})
    attempt("goal/open_the_middle_drawer_of_the_cabinet: episodes 2 of 3 are missing")
    path.write_text(whole.replace('"success": false', '"success": "no"', 1))
    attempt("tasks.0.episodes.1.metrics.success")
    path.write_text(whole.replace('"success": false', '"success": true', 1))
    attempt("mean_success is 0.5, but its episodes give 1")
    path.write_text(whole.replace('"num_episodes": 2', '"num_episodes": 3', 1))
    attempt("num_episodes is 3, but there are 2")
    path.write_text(whole.replace('"mean_success": 0.5', '"mean_success": NaN', 1))
    attempt("mean_success is nan, but its episodes give 0.5")
    path.write_text(whole)
    (tmp_path / "in" / "other.json").write_text(whole.replace('"steps": 11', '"steps": 12'))
    attempt("episode 1: failure here and failure in")
    path.write_text(whole)
    import_logs.vla_eval(tmp_path / "in" / "z.json", "CALVINBenchmark", {}, {"seq_0000": [episode(0, True)]})
    attempt("is of calvin, others of libero")
    import_logs.vla_eval(tmp_path / "in" / "z.json", "RoboCasaBenchmark", {}, {"t": [episode(0, True)]})
    attempt("config.benchmark: evalkit has a suite for LIBEROBenchmark, CALVINBenchmark")
    variant = {"task_name": "google_robot_pick_coke_can", "env_name": "X-v0"}
    import_logs.vla_eval(tmp_path / "in" / "z.json", "SimplerEnvBenchmark", variant, {"t": [episode(0, True)]})
    attempt("config.params.env_name")
    attempt("contains no result of vla-eval")


def test_lerobots_results_become_a_run_that_says_what_it_lacks(tmp_path: Path) -> None:
    wins = {("libero_goal", n): [True, n % 2 == 0] for n in range(10)}
    import_logs.lerobot(tmp_path / "eval" / "eval_info.json", wins)
    with pytest.raises(UsageError, match="does not name the evaluated policy: name it with"):
        imported("lerobot", tmp_path / "eval", tmp_path)
    summary = imported("lerobot", tmp_path / "eval", tmp_path, checkpoint="smolvla")
    assert (summary.headline.value, summary.headline.n) == (0.75, 20)
    assert summary.manifest.origin and set(summary.manifest.origin.files) == {"eval_info.json"}
    assert not summary.manifest.pairable and summary.execution_stats == {}
    groups = {("easy", 0): [True], ("easy", 1): [False], ("metaworld-assembly-v3", 0): [True]}
    import_logs.lerobot(tmp_path / "m.json", groups)
    with pytest.raises(UsageError, match=r"metaworld easy: 26 of 28 tasks are missing \(.* and 16 more\)"):
        import_run("lerobot", tmp_path / "m.json", tmp_path / "m", ImportOptions("x"))
    asked = ImportOptions("x", allow_partial=True)
    summary = summarize(import_run("lerobot", tmp_path / "m.json", tmp_path / "m", asked))
    assert list(summary.manifest.plan.keys) == [
        ("easy", "button-press-v3"), ("easy", "button-press-topdown-v3"), ("hard", "assembly-v3"),
    ]  # fmt: skip


def test_episodes_beyond_the_scenes_are_repeats_and_count_once(tmp_path: Path) -> None:
    import_logs.lerobot(tmp_path / "eval_info.json", {("libero_goal", 0): [True] * 75 + [False] * 25})
    summary = imported("lerobot", tmp_path / "eval_info.json", tmp_path, checkpoint="x", allow_partial=True)
    assert (summary.rows[0].n, summary.rows[0].n_effective, summary.rows[0].value) == (100, 50, 0.75)
    import_logs.lerobot(tmp_path / "eval_info.json", {("libero_goal", 0): [True] * 60})
    with pytest.raises(UsageError, match="60 episodes are not a multiple of its 50 scenes"):
        import_run("lerobot", tmp_path / "eval_info.json", tmp_path / "other", ImportOptions("x"))


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('"pc_success": 75.0', '"pc_success": 80.0', "per_group.libero_goal: 80 % of 4 there"),
        ('"n_episodes": 4', '"n_episodes": 5', "75 % of 5 there, but 75 % of 4 in per_task"),
        ('"task_id": 1', '"task_id": 10', "libero_goal has tasks 0 to 9, not 10"),
        ('"task_id": 1', '"task_id": 0', "libero_goal 0, episode 1: failure here and success before"),
        ("libero_goal", "aloha", "group 'aloha' is none of libero, metaworld"),
        ('"per_task"', '"tasks"', "per_task: is missing"),
        ('"per_task"', '"per_episode"', "an older lerobot wrote the file"),
        ('"successes"', '"wins"', "per_task.0.metrics.successes: is missing"),
        ('"eval_ep_s": 0.5\n', "", "is not JSON"),
    ],
)
def test_bad_results_of_lerobot_are_refused_by_name(tmp_path: Path, old: str, new: str, words: str) -> None:
    path = tmp_path / "eval_info.json"
    import_logs.lerobot(path, {("libero_goal", 0): [True, True], ("libero_goal", 1): [True, False]})
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(UsageError) as error:
        imported("lerobot", path, tmp_path, checkpoint="x")
    assert words in str(error.value) and str(path) in str(error.value) and not (tmp_path / "run").exists()


@pytest.mark.parametrize("form", [f.name for f in FORMATS])
def test_help_names_every_format(form: str) -> None:
    assert form in invoke("import", "--help").stdout


@pytest.mark.slow
def test_the_command_prints_the_document_of_run_and_other_commands_work_on_it(tmp_path: Path) -> None:
    path, out = goal(tmp_path), tmp_path / "runs" / "goal"
    result = invoke("import", "vla-eval", path, "--out", out, "--checkpoint", "pi05", "--json")
    assert result.exit_code == 0, result.stderr
    document = json.loads(result.stdout)
    assert (document["suite"], document["checkpoint"], document["episodes"]) == ("libero", "pi05", 20)
    assert document["origin"]["format"] == "vla-eval" and document["batch_invariant"] is None
    for form in ("md", "csv", "json", "latex"):
        assert invoke("table", out, "--format", form).exit_code == 0
    assert "imported: results of vla-eval 0.8.0" in invoke("table", out).stdout
    assert str(out) in invoke("list", "runs", "--runs", out.parent, "--json").stdout
    assert "was imported" in refused(invoke("timeline", out))
    assert "holds a run already" in refused(invoke("import", "vla-eval", path, "--out", out))
    again = summarize(out)
    assert [row.to_dict() for row in again.rows] == document["rows"]


def test_the_command_refuses_in_one_line(tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert "did you mean vla-eval" in refused(invoke("import", "vla", tmp_path, "--out", out))
    assert "there is no such file" in refused(invoke("import", "lerobot", tmp_path / "x", "--out", out))
    (tmp_path / "file").write_text("")
    where = tmp_path / "file" / "run"
    assert "cannot be written" in refused(invoke("import", "vla-eval", goal(tmp_path), "--out", where))
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("")
    full = invoke("import", "vla-eval", goal(tmp_path), "--out", tmp_path / "full")
    assert "exists and is not empty" in refused(full)
    assert [p.name for p in (tmp_path / "full").iterdir()] == ["thesis.tex"]


def test_an_imported_run_is_not_resumed(tmp_path: Path) -> None:
    imported("vla-eval", goal(tmp_path), tmp_path)
    with pytest.raises(RunMismatch, match="that run was imported"):
        read_manifest(tmp_path / "run").check_resumes(tmp_path / "run")


@pytest.mark.slow
def test_what_comes_of_two_imports_at_once_is_one_run(tmp_path: Path) -> None:
    path = goal(tmp_path)
    command = [sys.executable, "-m", "evalkit", "import", "vla-eval", str(path), "--out", str(tmp_path / "run")]
    both = [subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    errors = [process.communicate(timeout=120)[1] for process in both]
    assert sorted(process.returncode for process in both) == [0, 2]
    (line,) = "".join(errors).strip().splitlines()
    assert "another evalkit process is at work there" in line or "holds a run already" in line
    assert len(read_journal(tmp_path / "run")) == 20
    with pytest.raises(RunExists):
        import_run("vla-eval", path, tmp_path / "run")
