"""The logs of Xiaomi-Robotics-0's scripts: the released ones (EVALKIT_PUBLISHED_LOGS), and small ones like them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support import import_logs
from support.commands import invoke, refused

from evalkit.analysis.rows import Row
from evalkit.analysis.summary import Summary, summarize
from evalkit.errors import UsageError
from evalkit.importers import import_run
from evalkit.importers.result import ImportOptions
from evalkit.importers.xiaomi import read
from evalkit.records.journal import read_journal
from evalkit.records.manifest import Plan, read_manifest
from evalkit.report.tables import notes, number
from evalkit.suite import load_suite

# published in percent, and as lengths: arXiv:2602.12684; by task, the summaries beside the logs
LIBERO = {"spatial": "98.8", "object": "100.0", "goal": "98.8", "long": "97.2", None: "98.7"}
CALVIN = {
    "calvin_abc": ("abc_d", ["100.0", "98.3", "96.0", "92.6", "88.1"], "4.75"),
    "calvin_abcd": ("abcd_d", ["99.7", "98.0", "96.7", "94.2", "91.8"], "4.80"),
}
GOOGLE = {
    "google_vm": {"pick_coke_can": "98.7", "move_near": "88.8", "put_in_drawer": "75.0", None: "85.5"},
    "google_va": {"pick_coke_can": "88.2", "move_near": "76.8", "put_in_drawer": "66.7", None: "74.7"},
}
DRAWERS = {"google_vm": (("71.3", "88.0"), "79.6"), "google_va": (("57.7", "76.7"), "67.2")}
WIDOWX = {
    "put_spoon_on_table_cloth": "95.8",
    "put_carrot_on_plate": "62.5",
    "stack_green_cube_on_yellow_cube": "75.0",
    "put_eggplant_in_basket": "83.3",
    None: "79.2",
}


def imported(path: Path, tmp_path: Path, **asked: object) -> Summary:
    return summarize(import_run("xiaomi-logs", path, tmp_path / "run", ImportOptions(**asked)))  # type: ignore[arg-type]


def row(summary: Summary, split: str | None, task: str | None, metric: str = "success rate") -> Row:
    (found,) = [r for r in summary.rows if (r.split, r.task) == (split, task) and (r.metric == metric or not split)]
    assert found.low is not None and found.value is not None and found.high is not None
    assert found.low <= found.value <= found.high and found.low < found.high
    return found


def test_the_released_libero_logs_give_the_published_figures(published_logs: Path, tmp_path: Path) -> None:
    summary = imported(published_logs / "libero", tmp_path)
    assert {split: number(row(summary, split, None)) for split in LIBERO} == LIBERO
    assert (summary.headline.n, summary.headline.n_effective, summary.errors) == (2000, 2000, 0) and summary.complete
    suite = load_suite("libero")
    for split in ("spatial", "object", "goal", "long"):
        folder = published_logs / "libero" / str(suite.splits[split].upstream)  # type: ignore[attr-defined]
        entries = json.loads((folder / "merged_results.json").read_text())["individual_results"]
        published = {int(entry["task_id"]): float(entry["success_rate"]) for entry in entries}
        assert len(published) == 10
        for index, task in enumerate(suite.splits[split].tasks):
            cell = row(summary, split, task)
            assert (cell.value, cell.n) == (pytest.approx(published[index], abs=1e-12), 50)
    assert summary.manifest.checkpoint["id"] == "xiaomi-robotics-0-libero" and not summary.manifest.pairable


@pytest.mark.parametrize("folder", CALVIN)
def test_the_released_calvin_logs_give_the_published_figures(published_logs: Path, tmp_path: Path, folder: str) -> None:
    split, rates, length = CALVIN[folder]
    summary = imported(published_logs / "calvin" / folder, tmp_path)
    assert [number(row(summary, split, None, f"{k} in a row")) for k in range(1, 6)] == rates
    assert number(row(summary, split, None, "average length")) == number(summary.headline) == length
    assert (summary.headline.n, summary.headline.n_effective) == (1000, 1000) and summary.complete
    assert summary.manifest.checkpoint["id"] == f"xiaomi-robotics-0-calvin-{split.replace('_', '-')}"
    assert not [r for r in summary.rows if r.task], "which sub-task failed is unknown, so there is no cell for it"


def test_the_released_google_robot_logs_give_the_published_figures(published_logs: Path, tmp_path: Path) -> None:
    summary = imported(published_logs / "simpler" / "fractal", tmp_path)
    for split, cells in GOOGLE.items():
        assert {task: number(row(summary, split, task)) for task in cells} == cells
        drawers = [row(summary, split, task) for task in ("open_drawer", "close_drawer")]
        each, mean = DRAWERS[split]
        assert tuple(number(r) for r in drawers) == each
        assert f"{100 * sum(r.value or 0 for r in drawers) / 2:.1f}" == mean
        assert all(r.n_effective == r.n for r in drawers)
    assert summary.manifest.checkpoint["id"] == "xiaomi-robotics-0-google-robot" and summary.manifest.pairable


def test_the_released_widowx_logs_give_the_published_figures_from_24_scenes_a_task(
    published_logs: Path, tmp_path: Path
) -> None:
    summary = imported(published_logs / "simpler" / "bridge", tmp_path)
    cells = {task: row(summary, "widowx", task) for task in WIDOWX}
    assert {task: number(cell) for task, cell in cells.items()} == WIDOWX
    assert {(cell.n, cell.n_effective) for task, cell in cells.items() if task} == {(144, 24)}
    assert cells[None].n_effective == 96 and summary.complete
    outcomes: dict[tuple[str, int], set[bool | None]] = {}
    for episode, record in read_journal(summary.folder).items():
        outcomes.setdefault((episode.task, episode.scene), set()).add(record.success)
    assert len(outcomes) == 96 and all(len(verdicts) == 1 for verdicts in outcomes.values())  # no repeat differs


def test_the_whole_released_tree_lists_what_to_point_at(published_logs: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"logs of 5 runs: point at one of .*/calvin_abc, "):
        imported(published_logs, tmp_path)


# Small logs of the same shape.


def test_a_manifest_says_where_a_run_comes_from_and_what_it_lacks(tmp_path: Path) -> None:
    logs = import_logs.libero(tmp_path / "logs", {0: [True, False, True], 4: [True] * 3})
    summary = imported(tmp_path / "logs", tmp_path, allow_partial=True)
    manifest = read_manifest(tmp_path / "run")
    origin = manifest.origin
    assert origin is not None and origin.format == "xiaomi-logs"
    names = {"libero_object/0_eval.log", "libero_object/4_eval.log", "libero_object/merged_results.json"}
    assert set(origin.files) == names and all(len(digest) == 64 for digest in origin.files.values())
    assert "scenes" in origin.missing_fields and manifest.fingerprint["versions"] is None
    assert manifest.execution["name"] == "sync" and manifest.execution["horizon"] == 10
    (about, whole) = notes(summary)[:2]
    assert "Xiaomi-Robotics-0" in about and "simulator versions" in about and "digests" in about
    assert whole == "covers only part of the protocol: 2 of 40 tasks, 100 episodes where the protocol has 2000"
    assert "94 of 100 planned episodes are missing: the imported files do not have them" in notes(summary)
    assert "inferences" not in summary.execution_stats and "seconds" not in summary.execution_stats
    assert all(r.steps is r.inferences is r.digest is None for r in read_journal(tmp_path / "run").values())
    again = summarize(import_run("xiaomi-logs", logs, tmp_path / "again", ImportOptions("mine", allow_partial=True)))
    assert again.manifest.checkpoint["id"] == "mine" and [r.value for r in again.rows] == [
        r.value for r in summary.rows
    ]


def test_a_trial_that_raised_is_an_error_and_not_a_failure(tmp_path: Path) -> None:
    folder = import_logs.libero(tmp_path / "logs", {0: [True, True, True]})
    log = folder / "0_eval.log"
    text = log.read_text().replace("Task 0 Success Rate: 100.00%", "Task 0 Success Rate: 75.00%")
    log.write_text(text.replace("INFO:root:Task 0", "ERROR:root:Error in trial 1: EOFError()\nINFO:root:Task 0"))
    results = folder / "merged_results.json"
    results.write_text(results.read_text().replace("1.0", "0.75"))
    summary = imported(folder, tmp_path, allow_partial=True)
    assert (summary.headline.value, summary.headline.n, summary.errors) == (1.0, 3, 1)


def test_one_log_may_hold_all_tasks_of_a_suite(tmp_path: Path) -> None:
    folder = import_logs.libero(tmp_path / "logs", {0: [True, False]})
    more = (
        "INFO:root:Task_id 1: Episode 3: Failure | Current Success Rate: 33.33% (1/3)\n"
        "INFO:root:Task_id 1: Episode 4: Success | Current Success Rate: 50.00% (2/4)\n"
        "INFO:root:Task 1 Success Rate: 50.00%\n"
    )
    (folder / "merged_results.json").unlink()
    with (folder / "0_eval.log").open("a") as log:
        log.write(more)
    assert [len(task.outcomes) for task in read(folder, ImportOptions(allow_partial=True)).tasks] == [2, 2]


def test_calvins_chains_count_without_the_names_of_their_sub_tasks(tmp_path: Path) -> None:
    folder = import_logs.calvin(tmp_path / "logs", [[5, 0, 3], [5, 5, 4]])
    with pytest.raises(UsageError, match="pass --split abc_d or abcd_d"):
        imported(folder, tmp_path)
    summary = imported(folder, tmp_path, split="abc_d")
    assert summary.headline.value == pytest.approx(22 / 6) and summary.manifest.plan.size == 6
    assert [row(summary, "abc_d", None, f"{k} in a row").value for k in (1, 4, 5)] == [5 / 6, 4 / 6, 3 / 6]
    assert [len(r.subtasks) for r in read_journal(summary.folder).values()] == [5, 5, 1, 5, 4, 5]


@pytest.mark.slow
def test_every_entry_of_a_list_is_the_scene_that_evalkits_plan_has_there(tmp_path: Path) -> None:
    for dataset, splits in {"fractal": ["google_vm", "google_va"], "bridge": ["widowx"]}.items():
        folder = import_logs.simpler(tmp_path / dataset, dataset, lambda index: index % 3 == 0)
        summary = summarize(import_run("xiaomi-logs", folder, tmp_path / f"{dataset}-run"))
        episodes = load_suite("simpler").plan(splits)
        assert set(read_journal(summary.folder)) == set(episodes) and summary.manifest.plan == Plan.of(episodes)
    bridge = {(e.task, e.scene, e.repeat): r.success for e, r in read_journal(tmp_path / "bridge-run").items()}
    assert bridge["put_carrot_on_plate", 5, 0] is (29 % 3 == 0)  # the second task's sixth entry
    assert bridge["stack_green_cube_on_yellow_cube", 1, 2] is (145 % 3 == 0)
    assert bridge["put_eggplant_in_basket", 3, 1] is ((432 + 27) % 3 == 0)


def whole_logs(folder: Path) -> dict[str, Path]:
    return {
        "libero": import_logs.whole_libero(folder / "libero"),
        "calvin_abc": import_logs.calvin(folder / "calvin_abc", [[5, 0, 3], [5, 5, 4]]),
        "bridge": import_logs.simpler(folder / "bridge", "bridge", lambda index: index % 5 > 1),
    }


def outcomes(path: Path, allow_partial: bool) -> dict[tuple[str, int, int], object]:
    found = read(path, ImportOptions(allow_partial=allow_partial, split="abc_d", checkpoint="c"))
    return {(task.task, *place): outcome for task in found.tasks for place, outcome in task.outcomes.items()}


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return whole_logs(tmp_path_factory.mktemp("logs"))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["libero", "calvin_abc", "bridge"])
@given(chance=st.data())
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_log_cut_anywhere_is_refused_or_says_what_the_whole_says(
    kept: dict[str, Path], tmp_path: Path, kind: str, chance: st.DataObject
) -> None:
    """With --allow-partial, a truncated log or one with a lost line gives the same outcomes, less the missing ones."""
    everything = outcomes(kept[kind], allow_partial=False)
    damaged = tmp_path / "damaged"
    shutil.rmtree(damaged, ignore_errors=True)
    shutil.copytree(kept[kind], damaged)
    log = chance.draw(st.sampled_from(sorted(damaged.glob("*.log"))))
    content = log.read_bytes()
    if chance.draw(st.booleans()):
        log.write_bytes(content[: chance.draw(st.integers(0, len(content) - 1))])
    else:
        lines = content.splitlines(keepends=True)
        del lines[chance.draw(st.integers(0, len(lines) - 1))]
        log.write_bytes(b"".join(lines))
    for allow_partial in (False, True):
        try:
            found = outcomes(damaged, allow_partial)
        except UsageError as error:
            assert str(damaged) in str(error) and "\n" not in str(error)
            continue
        assert found == everything or allow_partial
        assert found.items() <= everything.items()


def edit(name: str, old: str, new: str, count: int = 1) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        text = (folder / name).read_text()
        assert old in text
        (folder / name).write_text(text.replace(old, new, count))

    return change


def repeated(name: str, line: str, instead: str) -> Callable[[Path], None]:
    """Append the line to its log again, changed."""

    def change(folder: Path) -> None:
        found = next(x for x in (folder / name).read_text().splitlines() if line in x)
        with (folder / name).open("a") as log:
            log.write(found.replace(line, instead) + "\n")

    return change


def truncated(name: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[: 2 * len(content) // 3])

    return change


def dropped_row(folder: Path) -> None:
    lines = (folder / "all_results.csv").read_text().splitlines(keepends=True)
    (folder / "all_results.csv").write_text("".join(line for line in lines if "put_spoon" not in line))


def contradicting_row(folder: Path) -> None:
    lines = (folder / "all_results.csv").read_text().splitlines(keepends=True)
    row = next(line for line in lines if "put_spoon" in line)
    first = row.replace(row.split(",")[3], "1", 1)
    (folder / "all_results.csv").write_text("".join([lines[0], first, *lines[1:]]))


def removed(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def rates(first: float) -> Callable[[Path], None]:
    """State another success rate of the first task, and the mean that follows."""

    def change(folder: Path) -> None:
        content = json.loads((folder / "merged_results.json").read_text())
        content["individual_results"][0]["success_rate"] = first
        content["summary"]["overall_success_rate"] = (first + 9) / 10
        (folder / "merged_results.json").write_text(json.dumps(content))

    return change


def shortened(tasks: Iterable[int], episodes: int) -> Callable[[Path], None]:
    """Lose the last episodes of tasks that solved every one: the running counts and the rates still fit."""

    def change(folder: Path) -> None:
        for task in tasks:
            if task:
                import_logs.libero(folder.parent / "short", {task: [True] * episodes})
                shutil.copy(folder.parent / "short" / "libero_object" / f"{task}_eval.log", folder)
        if 0 in tasks:
            first = ([True, False, True, True] * 13)[:episodes]
            import_logs.libero(folder.parent / "short", {0: first})
            shutil.copy(folder.parent / "short" / "libero_object" / "0_eval.log", folder)
            rates(sum(first) / episodes)(folder)

    return change


BAD = {
    "libero: changed outcome": ("libero", edit("0_eval.log", "2: Failure", "2: Success"), "counts (1/2)"),
    "libero: changed rate": ("libero", edit("0_eval.log", "Rate: 74.00%\n", "Rate: 80.00%\n"), "80.00 %"),
    "libero: duplicates disagree": ("libero", repeated("0_eval.log", "2: Failure", "2: Success"), "episode 2: success"),
    "libero: summary": (
        "libero",
        edit("merged_results.json", "0.74", "0.5"),
        "but individual_results give 0.95 over 10",
    ),
    "libero: other rates": ("libero", rates(0.5), "task_id 0: success_rate is 0.5 there and 0.74"),
    "libero: no rate": ("libero", rates(float("nan")), "task_id 0: nan and nan"),
    "libero: entry lost": ("libero", edit("merged_results.json", '"total_tasks": 10', '"total_tasks": 11'), "over 11"),
    "libero: last lines of all": ("libero", shortened(range(10), 40), "episodes 41-50 are missing"),
    "libero: last lines of one": ("libero", shortened([3], 40), "task 3: episodes 41-50 are missing"),
    "libero: instruction": ("libero", edit("merged_results.json", "alphabet", "letter"), "in another order"),
    "libero: damaged summary": ("libero", edit("merged_results.json", "{", "", 99), "merged_results.json: is damaged"),
    "libero: no log": ("libero", removed("1_eval.log"), "task 1: has no log"),
    "libero: another suite": ("libero", edit("0_eval.log", "libero_object", "libero_goal"), "another suite's"),
    "libero: unknown suite": ("libero", edit("0_eval.log", "libero_object", "libero_x"), "'libero_x' is none of"),
    "calvin: changed outcome": ("calvin_abc", edit("rank_0_eval.log", "success=0", "success=1"), "running figures"),
    "calvin: duplicates": ("calvin_abc", repeated("rank_1_eval.log", "success=4", "success=5"), "4 solved in a row"),
    "calvin: too long": ("calvin_abc", edit("rank_0_eval.log", "success=5", "success=6"), "a chain has 5"),
    "calvin: no log": ("calvin_abc", removed("rank_1_eval.log"), "rank 1 has no log"),
    "calvin: another rank": ("calvin_abc", edit("rank_1_eval.log", "Rank 1 fin", "Rank 0 fin"), "a line of rank 0"),
    "calvin: other world": ("calvin_abc", edit("rank_1_eval.log", "size=2", "size=4"), "world_size is 4"),
    "calvin: summary": ("calvin_abc", edit("results.json", '"total": 25', '"total": 24'), "task_info.total: 24"),
    "calvin: no number": (
        "calvin_abc",
        edit("results.json", '"total": 25', '"total": NaN'),
        "results.json: is damaged",
    ),
    "calvin: no mean": (
        "calvin_abc",
        edit("results.json", '"1": 0.8333333333333334', '"1": NaN'),
        "chain_sr.1: nan there",
    ),
    "calvin: cut summary": ("calvin_abc", truncated("results.json"), "results.json: is damaged"),
    "calvin: no summary": ("calvin_abc", edit("results.json", "avg_seq_len", "mean"), "results.json: is damaged"),
    "simpler: task": (
        "bridge",
        edit("0_eval.log", "put_carrot_on_plate - 24", "put_spoon - 24"),
        "entry 24 of 576: is",
    ),
    "simpler: duplicates": (
        "bridge",
        repeated("1_eval.log", " 3/576, success: True", " 3/576, success: False"),
        "entry 3",
    ),
    "simpler: summary": (
        "bridge",
        edit("1_eval.log", "success: True", "success: False"),
        "all_results.csv: bridge/stack",
    ),
    "simpler: row lost": ("bridge", dropped_row, "put_spoon_on_table_cloth: nothing there and 86 of 144"),
    "simpler: row twice": ("bridge", contradicting_row, "all_results.csv: bridge/put_spoon_on_table_cloth: two rows"),
    "simpler: cut summary": ("bridge", truncated("all_results.csv"), "all_results.csv: "),
    "simpler: no log": ("bridge", removed("0_eval.log"), "entries 0, 2, 4, 6 and 284 more ranges of 576 are missing"),
    "simpler: another list": ("bridge", edit("0_eval.log", "/576", "/577", 999), "577: the list has 576"),
    "simpler: another worker": ("bridge", edit("0_eval.log", "Worker ID: 0", "Worker ID: 1"), "does not play it"),
    "simpler: unknown list": ("bridge", edit("0_eval.log", "dataset: bridge", "dataset: bridges"), "of bridge among"),
    "not a log": (
        "bridge",
        edit("0_eval.log", "Running dataset", "nothing"),
        "is not a log of libero, calvin, simpler",
    ),
}


def test_a_suite_that_lacks_a_log_is_refused_by_the_names_of_its_tasks(tmp_path: Path) -> None:
    folder = import_logs.whole_libero(tmp_path / "logs")
    (folder / "merged_results.json").unlink()
    (folder / "0_eval.log").unlink()
    (folder / "4_eval.log").unlink()
    names = list(load_suite("libero").splits["object"].tasks)
    line = refused(invoke("import", "xiaomi-logs", tmp_path / "logs", "--out", tmp_path / "run"))
    assert f"libero object: 2 of 10 tasks are missing ({names[0]}, {names[4]})" in line and "--allow-partial" in line
    assert not (tmp_path / "run").exists()
    partial = imported(folder, tmp_path, allow_partial=True)
    assert (partial.headline.value, partial.headline.n) == (1.0, 400) and "8 of 40 tasks" in partial.coverage_note


@pytest.mark.parametrize("summary", ["summary kept", "summary removed"])
@pytest.mark.parametrize("task", [0, 6])
def test_a_released_log_that_is_missing_is_refused(
    published_logs: Path, tmp_path: Path, summary: str, task: int
) -> None:
    shutil.copytree(published_logs / "libero", tmp_path / "libero")
    (tmp_path / "libero" / "libero_goal" / f"{task}_eval.log").unlink()
    if summary == "summary removed":
        (tmp_path / "libero" / "libero_goal" / "merged_results.json").unlink()
    with pytest.raises(UsageError, match=r"has no log|libero goal: 1 of 10 tasks are missing"):
        imported(tmp_path / "libero", tmp_path)


@pytest.mark.parametrize("name", BAD)
def test_bad_logs_are_refused_by_name_and_nothing_is_written(kept: dict[str, Path], tmp_path: Path, name: str) -> None:
    kind, change, words = BAD[name]
    shutil.copytree(kept[kind], tmp_path / kind)
    change(tmp_path / kind)
    with pytest.raises(UsageError) as error:
        imported(tmp_path / kind, tmp_path)
    assert words in str(error.value) and str(tmp_path / kind) in str(error.value)
    assert not (tmp_path / "run").exists()


def test_the_same_log_twice_counts_once(kept: dict[str, Path], tmp_path: Path) -> None:
    shutil.copytree(kept["libero"], tmp_path / "libero_object")
    shutil.copy(tmp_path / "libero_object" / "0_eval.log", tmp_path / "libero_object" / "0_eval_copy.log")
    assert outcomes(tmp_path / "libero_object", False) == outcomes(kept["libero"], False)


@pytest.mark.parametrize("others", ["calvin_abc", "bridge"])
def test_mixed_suites_are_refused(kept: dict[str, Path], tmp_path: Path, others: str) -> None:
    shutil.copytree(kept["libero"], tmp_path / "logs")
    for log in kept[others].glob("*.log"):
        shutil.copy(log, tmp_path / "logs" / f"x_{log.name}")
    with pytest.raises(UsageError, match="among those of libero: keep each suite's in a folder of its own"):
        read(tmp_path / "logs", ImportOptions())
    with pytest.raises(UsageError, match="logs of 3 runs: point at one of"):
        read(kept["bridge"].parent, ImportOptions())


def test_what_is_no_folder_of_logs_is_refused(kept: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match=r"empty: contains no \*\.log"):
        read(tmp_path / "empty", ImportOptions())
    with pytest.raises(UsageError, match="must be the folder"):
        read(kept["bridge"] / "0_eval.log", ImportOptions())
