"""LIBERO in its real simulator. Assets are found through EVALKIT_LIBERO_ASSETS or what `evalkit setup` recorded."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any, ClassVar

import pytest
import yaml
from support.processes import kill_and_resume
from support.requirements import need
from support.runs import shortened

from evalkit.analysis.summary import summarize
from evalkit.errors import EnvironmentProblem
from evalkit.records.journal import read_journal
from evalkit.records.manifest import read_manifest
from evalkit.runner.progress import Silent
from evalkit.runner.run import RunOptions, play
from evalkit.setup.assets import assets_folder
from evalkit.setup.environment import Environment
from evalkit.suite import Suite, load_suite
from evalkit.testing import AdapterConformance, canonical

pytestmark = pytest.mark.sim


@pytest.fixture(autouse=True, scope="module")
def _environment() -> None:
    need("libero")


def played(out: Path, suite: str | Suite = "libero", **options: Any) -> list[dict[str, Any]]:
    play(RunOptions(suite, out=out, **{"workers": 2, **options}), Silent())
    return canonical(read_journal(out).values())


def hurried(out: Path, **options: Any) -> list[dict[str, Any]]:
    """As ``played``, with episodes of 40 steps."""
    return played(out, suite=shortened("libero", 40), **options)


class TestLibero(AdapterConformance):
    suite = "libero"
    tasks: ClassVar = [
        ("object", "pick_up_the_milk_and_place_it_in_the_basket"),
        ("spatial", "pick_up_the_black_bowl_in_the_top_drawer_of_the_wooden_cabinet_and_place_it_on_the_plate"),
    ]
    steps = 25


def test_tasks_and_instructions_are_the_packages_own() -> None:
    """tasks.yaml against the installed package: names from its task map, instructions by its rule."""
    suite = load_suite("libero")
    code = """
import importlib.util, json, pathlib, re, sys
root = pathlib.Path(next(iter(importlib.util.find_spec("libero").submodule_search_locations))) / "libero"
spec = importlib.util.spec_from_file_location("tasks", root / "benchmark" / "libero_suite_task_map.py")
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
source = (root / "benchmark" / "__init__.py").read_text()
rule = re.search(r"def grab_language_from_filename.*?return [^\\n]*\\n", source, re.S).group(0)
scope = {}
exec(rule, scope)
names = module.libero_task_map
print(json.dumps({k: {t: scope["grab_language_from_filename"](t + ".bddl") for t in names[k]} for k in sys.argv[1:]}))
"""
    upstream = {name: split.upstream for name, split in suite.splits.items()}
    python = str(Environment.of(suite).python)
    theirs = yaml.safe_load(subprocess.check_output([python, "-c", code, *upstream.values()], text=True))
    ours = {upstream[name]: split.tasks for name, split in suite.splits.items()}
    assert ours == theirs and sum(map(len, ours.values())) == 130
    assert all(list(ours[name]) == list(theirs[name]) for name in ours)


@pytest.fixture(scope="module")
def oracle_object(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The oracle on three scenes of two object tasks, by one worker. Shared: change a copy."""
    out = tmp_path_factory.mktemp("oracle") / "run"
    played(out, checkpoint="oracle", splits=["object"], tasks=["0", "4"], episodes=3, workers=1)
    return out


def test_the_oracle_solves_object_tasks(oracle_object: Path) -> None:
    assert summarize(oracle_object).headline.value == 1.0


@pytest.mark.parametrize("split", ["spatial", "object", "goal", "long", "90"])
def test_every_split_runs_with_random(tmp_path: Path, split: str) -> None:
    records = hurried(tmp_path, checkpoint="random", splits=[split], tasks=["1"], episodes=1)
    assert [r["success"] for r in records] == [False] and records[0]["steps"] == 40


def test_workers_order_and_looking_change_no_outcome(tmp_path: Path) -> None:
    options: dict[str, Any] = {"splits": ["object"], "tasks": ["0", "1"], "episodes": 2}
    one = hurried(tmp_path / "1", checkpoint="random", workers=1, **options)
    assert one == hurried(tmp_path / "s", checkpoint="random", shuffle=3, workers=3, **options)
    assert one == hurried(tmp_path / "l", checkpoint="random:cameras=all", **options)


def test_a_killed_run_resumes_to_the_same_journal(oracle_object: Path, tmp_path: Path) -> None:
    whole = canonical(read_journal(oracle_object).values())
    arguments = ["libero", "--checkpoint", "oracle", "--split", "object", "--episodes", "3", "--workers", "2"]
    arguments += ["--task", "0", "--task", "4"]
    kill_and_resume(arguments, tmp_path / "killed", len(whole), seed=4)
    assert canonical(read_journal(tmp_path / "killed").values()) == whole


def test_stand_in_assets_mark_the_run(oracle_object: Path) -> None:
    manifest = read_manifest(oracle_object)
    stand_ins = manifest.fingerprint["assets"]["stand_ins"]
    declared = (assets_folder(load_suite("libero")) or Path()) / "STAND_INS.txt"
    assert len(stand_ins) == (len(declared.read_text().split()) if declared.exists() else 0)
    assert bool(manifest.incomparable) == bool(stand_ins)


def test_a_missing_asset_is_named_before_the_first_episode(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = assets_folder(load_suite("libero"))
    assert whole is not None
    partial = tmp_path / "assets"
    for path in whole.rglob("*"):
        if path.is_file() and "milk" not in path.parts:
            (partial / path.relative_to(whole)).parent.mkdir(parents=True, exist_ok=True)
            (partial / path.relative_to(whole)).symlink_to(path)
    monkeypatch.setenv("EVALKIT_LIBERO_ASSETS", str(partial))
    with pytest.raises(EnvironmentProblem, match=r"milk.xml: missing, needed by object/"):
        played(tmp_path / "run", checkpoint="zero", splits=["object"], episodes=1)
    monkeypatch.setenv("EVALKIT_LIBERO_ASSETS", str(tmp_path / "nowhere"))
    with pytest.raises(EnvironmentProblem, match="does not exist: evalkit setup libero --assets DIR"):
        played(tmp_path / "run", checkpoint="zero", splits=["object"], episodes=1)
    assert not (tmp_path / "run").exists()


def test_no_gl_is_said_before_the_first_episode_and_only_where_images_are_needed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MUJOCO_GL", "glfw")  # which needs a display
    for display in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(display, raising=False)
    options: dict[str, Any] = {"splits": ["object"], "tasks": ["0"], "episodes": 1, "workers": 1}
    assert len(hurried(tmp_path / "blind", checkpoint="zero", **options)) == 1
    with pytest.raises(EnvironmentProblem, match=r"GL does not work .*libosmesa6"):
        hurried(tmp_path / "seeing", checkpoint="zero:cameras=all", **options)
