"""SimplerEnv in its real simulator. Its checkouts are found through EVALKIT_SIMPLER_SOURCE or what was set up."""

from __future__ import annotations

import hashlib
import json
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from support.observations import seen_with_exact_requests
from support.processes import kill_and_resume
from support.requirements import need
from support.simpler_sources import linked, stood_in_sources

from evalkit.adapter import Setup, SimulatorError
from evalkit.analysis.summary import summarize
from evalkit.errors import EnvironmentProblem
from evalkit.locations import package_folder, suite_folders
from evalkit.records.journal import read_journal
from evalkit.records.manifest import read_manifest
from evalkit.runner.progress import Silent
from evalkit.runner.run import RunOptions, play
from evalkit.setup.environment import Environment
from evalkit.setup.sources import checkouts
from evalkit.suite import load_suite
from evalkit.testing import AdapterConformance, canonical
from evalkit.worker.loop import load_adapter_module

UPSTREAM = Path(__file__).parents[1] / "support" / "simpler_upstream.py"
DRAWERS = ("google_vm", "open_drawer"), ("google_vm", "close_drawer")

# of the published grids: SHA-256 over each split's scenes in order, one JSON line each, numbers to six decimals
PUBLISHED = {
    "google_vm": "0bd9ca2e900b2742a9e4dec6b281ef6d5d82c2f216a993325f8b527cd7d029b0",
    "google_va": "1ea651e7ba1cdde364c933039c97026b1ee1c7d0a577bdf5fdcb1feb4def8f3a",
    "widowx": "d9e05ed7400aa4eb7ea3e160268ddeb7e9bb348a9bc1f657d5d74c1de7b0869f",
}


def lines_of(split: str) -> list[str]:
    """A split's scenes, one canonical JSON line each, every repeat included."""
    load_adapter_module(suite_folders()["simpler"])
    from evalkit_suite_simpler.grid import scene_of  # type: ignore[import-not-found]

    suite = load_suite("simpler")
    setup = Setup(suite.to_message())
    lines = []
    for task in suite.splits[split].tasks:
        planned = dict.fromkeys(episode.scene for episode in suite.plan([split], [task]))
        scenes = [scene_of(setup, split, task, index) for index in planned]
        parts = [[s.environment, dict(s.options), dict(s.placement), s.overlay, s.limit] for s in scenes]
        lines += [json.dumps(rounded(part), sort_keys=True) for part in parts] * setup.split(split).get("repeats", 1)
    return lines


def rounded(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: rounded(part) for name, part in value.items()}
    if isinstance(value, list):
        return [rounded(part) for part in value]
    return round(value, 6) + 0.0 if isinstance(value, float) else value


@pytest.mark.parametrize("split", PUBLISHED)
def test_the_grid_is_the_published_one_in_the_published_order(split: str) -> None:
    lines = lines_of(split)
    assert len(lines) == {"google_vm": 864, "google_va": 1992, "widowx": 576}[split]
    assert hashlib.sha256("\n".join(lines).encode()).hexdigest() == PUBLISHED[split]


def test_a_scene_beyond_the_grid_is_refused() -> None:
    load_adapter_module(suite_folders()["simpler"])
    from evalkit_suite_simpler.grid import scene_of, scenes_of

    setup = Setup(load_suite("simpler").to_message())
    assert list(scenes_of(setup, "google_va", "open_drawer"))[77] == scene_of(setup, "google_va", "open_drawer", 77)
    for index in (-1, 189):
        with pytest.raises(SimulatorError, match=f"open_drawer has scenes 0 to 188, not {index}"):
            scene_of(setup, "google_va", "open_drawer", index)


def test_numpy_2_is_refused_with_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    load_adapter_module(suite_folders()["simpler"])
    from evalkit_suite_simpler.upstream import numpy_problem  # type: ignore[import-not-found]

    monkeypatch.setattr(np, "__version__", "1.26.4")
    assert numpy_problem() is None
    monkeypatch.setattr(np, "__version__", "2.1.0")
    assert "evalkit setup simpler installs numpy 1" in numpy_problem()


@pytest.fixture(scope="module")
def simulator() -> None:
    need("simpler")


def played(out: Path, **options: Any) -> list[dict[str, Any]]:
    play(RunOptions("simpler", out=out, **{"workers": 2, "splits": ["google_vm"], **options}), Silent())
    return canonical(read_journal(out).values())


@pytest.mark.sim
@pytest.mark.usefixtures("simulator")
class TestGoogleRobot(AdapterConformance):
    suite = "simpler"
    tasks: ClassVar = list(DRAWERS)
    cameras = ("overhead",)
    steps = 24


def in_its_environment(**question: Any) -> Any:
    """What tests/simpler_upstream.py finds in the suite's environment."""
    suite = load_suite("simpler")
    environment = Environment.of(suite)
    sources = {name: str(checkout.folder) for name, checkout in checkouts(suite).items()}
    whole = {"suite": suite.to_message(), "sources": sources, "scene": 0, **question}
    whole |= {"package": str(package_folder().parent), "folder": str(suite_folders()["simpler"])}
    command = [str(environment.python), "-W", "ignore", str(UPSTREAM), json.dumps(whole)]
    variables = environment.variables(suite, renders=True)
    return json.loads(subprocess.check_output(command, text=True, env=variables).splitlines()[-1])


@pytest.mark.sim
@pytest.mark.usefixtures("simulator")
@pytest.mark.parametrize(
    ("task", "scene", "steps"), [("open_drawer", 13, 16), ("close_drawer", 40, 16), ("put_in_drawer", 30, 104)]
)
def test_states_images_and_proprioception_are_upstreams_bit_for_bit(task: str, scene: int, steps: int) -> None:
    """Against upstream's own loop, which renders every step; put_in_drawer until its instruction has changed."""
    every = 4 if steps < 100 else 26
    question = {"split": "google_vm", "task": task, "scene": scene, "steps": steps, "every": every}
    here, there = in_its_environment(what="compare", camera="overhead", **question)
    assert len(here) == len(there) == steps + 1 and here[::every] == there[::every]
    assert [line[:3] for line in here] == [line[:3] for line in there]
    assert len({line[0] for line in here}) > steps // 2, "nothing moves"
    if task == "put_in_drawer":
        told = [line[2] for line in here]
        assert (told[0], told[-1]) == ("open top drawer", "place apple into top drawer")


@pytest.mark.sim
@pytest.mark.usefixtures("simulator")
def test_the_hand_goes_where_actions_say() -> None:
    found = in_its_environment(what="move", camera="overhead", split="google_vm", task="open_drawer")
    check_motion(found["moved"])
    opened, closed, again = found["fingers"]
    assert opened > 0.95 and closed < 0.3 and again > 0.8  # +1 closes


def check_motion(moved: list[list[float]]) -> None:
    """Six steps of 2 cm or 0.05 rad: well along the axis asked for, and little off it."""
    for axis, (along, astray) in enumerate(moved):
        assert along > (0.03 if axis < 3 else 0.07), (axis, along, astray)
        assert astray < 0.35 * along, (axis, along, astray)


@pytest.mark.sim
@pytest.mark.usefixtures("simulator")
def test_a_noisy_oracle_is_worse_and_random_hopeless(tmp_path: Path) -> None:
    """The oracle itself: see test_workers_order_and_looking_change_no_outcome."""
    for checkpoint in ("oracle-noisy:chunk=1", "random"):
        played(tmp_path / checkpoint[:6], checkpoint=checkpoint, tasks=["open_drawer"], episodes=1)
        assert summarize(tmp_path / checkpoint[:6]).headline.value == 0.0


@pytest.mark.sim
@pytest.mark.usefixtures("simulator")
def test_workers_order_and_looking_change_no_outcome(tmp_path: Path) -> None:
    options: dict[str, Any] = {"tasks": ["open_drawer", "close_drawer"], "episodes": 2}
    one = played(tmp_path / "1", checkpoint="oracle", workers=1, **options)
    assert one == played(tmp_path / "s", checkpoint="oracle", workers=2, shuffle=3, **options)
    assert one == played(tmp_path / "l", checkpoint="oracle:cameras=overhead", workers=2, **options)
    assert len({record["digest"] for record in one}) == 4 and all(record["success"] for record in one)


@pytest.mark.sim
@pytest.mark.usefixtures("simulator")
def test_a_killed_run_resumes_to_the_same_journal(tmp_path: Path) -> None:
    options: dict[str, Any] = {"checkpoint": "oracle", "tasks": ["close_drawer"], "episodes": 6}
    whole = played(tmp_path / "whole", **options)
    arguments = ["simpler", "--checkpoint", "oracle", "--split", "google_vm", "--task", "close_drawer"]
    kill_and_resume([*arguments, "--episodes", "6", "--workers", "1"], tmp_path / "killed", len(whole), seed=1)
    assert canonical(read_journal(tmp_path / "killed").values()) == whole


@pytest.mark.sim
@pytest.mark.usefixtures("simulator")
def test_google_robot_requests_from_the_real_simulator_equal_an_independent_computation(tmp_path: Path) -> None:
    where = {"suite": "simpler", "splits": ["google_vm"], "tasks": ["close_drawer"], "out": tmp_path}
    seen = seen_with_exact_requests("google_robot", "fractal_delta", reach=0.1, chunk=23, **where)
    assert len(seen) == 5 and all(observation.images["overhead"].std() > 10 for observation in seen)


@pytest.mark.sim
@pytest.mark.usefixtures("simulator")
def test_a_checkpoint_of_the_released_shape_runs_and_what_differs_is_on_record(tiny: Path, tmp_path: Path) -> None:
    checkpoint = f"{tiny}:robot_type=fractal_delta"
    (record,) = played(tmp_path, checkpoint=checkpoint, tasks=["open_drawer"], episodes=1, workers=1)
    assert record["inferences"] == 29 and record["steps"] == 113
    manifest = read_manifest(tmp_path)
    if "llvmpipe" in manifest.fingerprint["gl"]["vulkan"]:
        assert manifest.fingerprint["gl"]["shader"] == "ibl"
        assert any("lavapipe" in reason for reason in manifest.incomparable)
        assert any("shader ibl instead of rt" in reason for reason in manifest.incomparable)


@pytest.mark.sim
@pytest.mark.usefixtures("simulator")
def test_what_a_robot_or_the_oracle_lacks_is_said_before_the_first_episode(tmp_path: Path) -> None:
    with pytest.raises(EnvironmentProblem, match=r"has the camera overhead alone, .* uses third_view"):
        played(tmp_path, checkpoint="zero:cameras=third_view", tasks=["open_drawer"], episodes=1)
    with pytest.raises(EnvironmentProblem, match="knows open_drawer and close_drawer alone"):
        played(tmp_path, checkpoint="oracle", tasks=["put_in_drawer"], episodes=1)
    assert not (tmp_path / "journal.jsonl").exists()


@pytest.mark.sim
@pytest.mark.usefixtures("simulator")
def test_no_vulkan_is_said_with_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VK_ICD_FILENAMES", str(tmp_path / "none.json"))
    monkeypatch.setenv("VK_DRIVER_FILES", str(tmp_path / "none.json"))
    with pytest.raises(EnvironmentProblem, match=r"Vulkan has no driver here: install .*NVIDIA.*mesa-vulkan-drivers"):
        played(tmp_path / "run", checkpoint="zero", tasks=["open_drawer"], episodes=1)


@pytest.mark.sim
@pytest.mark.usefixtures("simulator")
def test_a_missing_mesh_texture_or_photograph_is_named_before_the_first_episode(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = checkouts(load_suite("simpler"))
    absent = ("baked_apple_v2/textured.glb", "open_drawer_b0.png", "3obj/link_wrist.3obj.obj")
    linked(found["ManiSkill2_real2sim"].folder, tmp_path / "ManiSkill2_real2sim", absent)
    linked(found["SimplerEnv"].folder, tmp_path / "SimplerEnv")
    monkeypatch.setenv("EVALKIT_SIMPLER_SOURCE", str(tmp_path))
    with pytest.raises(EnvironmentProblem) as problem:
        played(tmp_path / "run", checkpoint="zero", tasks=["put_in_drawer"], episodes=1)
    assert "google_vm/put_in_drawer cannot be played" in str(problem.value)
    for name in ("data/real_inpainting/open_drawer_b0.png", "baked_apple_v2/textured.obj", "3obj/link_wrist.3obj.obj"):
        assert name in str(problem.value)


@pytest.fixture(scope="module")
def stood_in(simulator: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """See support.simpler_sources."""
    return stood_in_sources(tmp_path_factory.mktemp("sources"))


@pytest.mark.sim
class TestWidowX(AdapterConformance):
    suite = "simpler"
    tasks: ClassVar = [("widowx", "put_carrot_on_plate"), ("widowx", "stack_green_cube_on_yellow_cube")]
    cameras = ("third_view",)
    steps = 24

    @pytest.fixture(autouse=True)
    def _sources(self, stood_in: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("EVALKIT_SIMPLER_SOURCE", str(stood_in))


@pytest.mark.sim
def test_widowx_is_upstreams_bit_for_bit_and_goes_where_actions_say(
    stood_in: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EVALKIT_SIMPLER_SOURCE", str(stood_in))
    question = {"camera": "third_view", "split": "widowx", "task": "put_carrot_on_plate"}
    here, there = in_its_environment(what="compare", scene=5, steps=16, every=4, **question)
    assert [line[:3] for line in here] == [line[:3] for line in there] and here[::4] == there[::4]
    found = in_its_environment(what="move", **question)
    check_motion(found["moved"])
    opened, still, closed = found["fingers"]
    assert opened > 0.95 and still > 0.95 and closed < 0.1  # +1 opens


@pytest.mark.sim
def test_the_first_episode_in_a_fresh_checkout_is_like_the_second(
    stood_in: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What SAPIEN keeps beside a stage it has loaded collides differently from what it loads first."""
    linked(stood_in, tmp_path, (".nonconvex.stl",))
    monkeypatch.setenv("EVALKIT_SIMPLER_SOURCE", str(tmp_path))
    trial = TestWidowX()
    first = trial._play([(TestWidowX.tasks[0], 1, 7)])
    TestWidowX._played.clear()  # so that the second is played too
    second = trial._play([(TestWidowX.tasks[0], 1, 7)])
    assert first == second and list(tmp_path.rglob("bridge_table_1_v1.glb.nonconvex.stl"))


@pytest.mark.sim
def test_repeats_of_widowx_that_cannot_differ_count_once(
    stood_in: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EVALKIT_SIMPLER_SOURCE", str(stood_in))
    options: dict[str, Any] = {"splits": ["widowx"], "tasks": ["put_spoon_on_table_cloth"], "episodes": 1}
    records = played(tmp_path, checkpoint="zero", **options)
    assert len(records) == 6 and len({record["digest"] for record in records}) == 1
    headline = summarize(tmp_path).headline
    assert (headline.n, headline.n_effective) == (6, 1)
