from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any, ClassVar

import pytest
from support.processes import kill_and_resume
from support.requirements import need

from evalkit.analysis.summary import summarize
from evalkit.errors import EnvironmentProblem
from evalkit.locations import package_folder, suite_folders
from evalkit.records.journal import read_journal
from evalkit.records.manifest import read_manifest
from evalkit.runner.progress import Silent
from evalkit.runner.run import RunOptions, play
from evalkit.setup.environment import Environment
from evalkit.suite import load_suite
from evalkit.testing import AdapterConformance, canonical

pytestmark = pytest.mark.sim


@pytest.fixture(autouse=True, scope="module")
def _environment() -> None:
    need("metaworld")


class TestMetaWorld(AdapterConformance):
    suite = "metaworld"
    tasks: ClassVar = [("easy", "door-open-v3"), ("medium", "bin-picking-v3"), ("very_hard", "stick-pull-v3")]
    steps = 60


def played(out: Path, **options: Any) -> list[dict[str, Any]]:
    play(RunOptions("metaworld", out=out, **{"workers": 2, **options}), Silent())
    return canonical(read_journal(out).values())


def in_its_environment(code: str) -> Any:
    """Runs code where metaworld is installed, with the suite's folder as package ``suite``; returns what it prints."""
    folder = suite_folders()["metaworld"]
    prelude = (
        f"import sys, types; p = types.ModuleType('suite'); p.__path__ = [{str(folder)!r}]; sys.modules['suite'] = p"
    )
    python = str(Environment.of(load_suite("metaworld")).python)
    return json.loads(subprocess.check_output([python, "-W", "ignore", "-c", prelude + "\n" + code], text=True))


def test_the_fixed_placements_are_those_of_mt1_for_all_fifty_tasks() -> None:
    code = """
import json, pickle, metaworld
from suite.scenes import fixed_placements
def vectors(tasks): return [pickle.loads(t.data)["rand_vec"].tolist() for t in tasks]
wrong = []
for name, kind in metaworld.ALL_V3_ENVIRONMENTS.items():
    if vectors(fixed_placements(kind(), name, seed=42)) != vectors(metaworld.MT1(name, seed=42).train_tasks):
        wrong.append(name)
print(json.dumps([len(metaworld.ALL_V3_ENVIRONMENTS), wrong]))
"""
    assert in_its_environment(code) == [50, []]


def test_corner2_shows_what_lerobot_shows() -> None:
    """The image equals the package's own, from LeRobot's pose, turned by LeRobot's flip, wherever the arm has gone."""
    suite = load_suite("metaworld").to_message()
    code = f"""
import json, os, sys
os.environ.setdefault("MUJOCO_GL", "egl")
sys.path.append({str(package_folder().parent)!r})
import metaworld, numpy as np
from evalkit.adapter import Setup
from evalkit.episode import Episode
from evalkit.observation import ObservationSpec
from suite.adapter import build
benchmark = metaworld.MT1("drawer-open-v3", seed=42)
theirs = benchmark.train_classes["drawer-open-v3"](render_mode="rgb_array", camera_name="corner2")
theirs.set_task(benchmark.train_tasks[3])
theirs.model.cam_pos[2] = [0.75, 0.075, 0.7]
theirs.reset()
spec = ObservationSpec(cameras=("corner2",))
ours = build(Setup(json.loads({json.dumps(json.dumps(suite))}), spec))
ours.reset(Episode("metaworld", "easy", "drawer-open-v3", 3, 42))
same = []
for step in range(20):
    if step % 5 == 0:
        image = ours.observe(spec).images["corner2"]
        same.append(bool((image == np.flip(theirs.render(), (0, 1))).all() and image.std() > 10))
    theirs.step(np.float32([0.5, 0.3, -0.4, 1]))
    ours.step(np.float32([0.5, 0.3, -0.4, 1]), observe=True)
print(json.dumps(same))
"""
    assert in_its_environment(code) == [True] * 4


def test_instructions_and_groups_cover_the_packages_fifty_tasks() -> None:
    names = in_its_environment("import json, metaworld; print(json.dumps(list(metaworld.ALL_V3_ENVIRONMENTS)))")
    assert sorted(t for split in load_suite("metaworld").splits.values() for t in split.tasks) == sorted(names)


@pytest.mark.parametrize("split", ["hard", "very_hard"])
def test_the_oracle_is_good_the_noisy_one_worse_and_random_hopeless(tmp_path: Path, split: str) -> None:
    rates = {}
    for checkpoint in ("oracle", "oracle-noisy", "random"):
        played(tmp_path / checkpoint, checkpoint=checkpoint, splits=[split], episodes=4)
        rates[checkpoint] = summarize(tmp_path / checkpoint).headline.value or 0.0
    assert rates["oracle"] > 0.85 > rates["oracle-noisy"] > rates["random"] + 0.1


def test_workers_and_order_change_no_outcome(tmp_path: Path) -> None:
    options: dict[str, Any] = {"checkpoint": "oracle-noisy", "splits": ["hard"], "episodes": 2}
    one = played(tmp_path / "1", workers=1, **options)
    assert one == played(tmp_path / "3", workers=3, **options) == played(tmp_path / "s", shuffle=1, **options)


def test_a_killed_run_resumes_to_the_same_journal(tmp_path: Path) -> None:
    whole = played(tmp_path / "whole", checkpoint="oracle-noisy", splits=["hard"], episodes=4)
    arguments = ["metaworld", "--checkpoint", "oracle-noisy", "--split", "hard", "--episodes", "4", "--workers", "2"]
    kill_and_resume(arguments, tmp_path / "killed", len(whole), seed=2)
    assert canonical(read_journal(tmp_path / "killed").values()) == whole


def test_looking_and_filming_change_no_outcome(tmp_path: Path) -> None:
    options: dict[str, Any] = {"tasks": ["reach-v3"], "episodes": 2}
    blind = played(tmp_path / "blind", checkpoint="random:chunk=100", **options)
    seeing = played(tmp_path / "seeing", checkpoint="random:chunk=100,cameras=all", video="all", **options)
    assert blind == seeing and len(list((tmp_path / "seeing").rglob("*.mp4"))) == 2


@pytest.mark.parametrize("backend", ["egl", "osmesa"])
def test_images_come_through_either_gl(tmp_path: Path, backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MUJOCO_GL", backend)
    try:
        played(tmp_path, checkpoint="zero:chunk=500,cameras=all", tasks=["reach-v3"], episodes=1, workers=1)
    except EnvironmentProblem as error:
        assert "MUJOCO_GL=" in str(error)
        pytest.skip(str(error))
    assert read_manifest(tmp_path).fingerprint["gl"]["backend"] == backend
