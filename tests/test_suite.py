from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from evalkit.adapter import Setup
from evalkit.errors import UsageError
from evalkit.locations import suite_folders
from evalkit.suite import load_suite, protocol, suite_digest


def broken(pointmass: str, tmp_path: Path, **changes: object) -> str:
    content = yaml.safe_load((Path(pointmass) / "suite.yaml").read_text())
    content.update(changes)
    (tmp_path / "suite.yaml").write_text(yaml.safe_dump({k: v for k, v in content.items() if v is not None}))
    (tmp_path / "tasks.yaml").write_text((Path(pointmass) / "tasks.yaml").read_text())
    return str(tmp_path)


@pytest.mark.parametrize("name", sorted(suite_folders()))
def test_every_suite_that_ships_is_valid_and_complete(name: str) -> None:
    suite = load_suite(name)
    assert suite.name == name
    assert suite.plan(episodes=1)
    folder = suite_folders()[name]
    assert all((folder / part).is_file() for part in ("adapter.py", "requirements.txt", "README.md"))


@pytest.mark.parametrize("name", sorted(suite_folders()))
def test_every_suite_pins_every_package_to_one_version(name: str) -> None:
    lines = (suite_folders()[name] / "requirements.txt").read_text().splitlines()
    packages = [line for line in lines if line and not line.startswith("#")]
    assert packages and all("==" in line or " @ " in line for line in packages)


def test_metaworld_has_its_fifty_tasks_in_four_splits() -> None:
    suite = load_suite("metaworld")
    assert {name: len(split.tasks) for name, split in suite.splits.items()} == {
        "easy": 28,
        "medium": 11,
        "hard": 6,
        "very_hard": 5,
    }
    assert len(suite.plan()) == 500


def test_the_plan_is_in_the_protocols_order(pointmass: str) -> None:
    suite = load_suite(pointmass)
    plan = suite.plan()
    assert len(plan) == 16 and plan == sorted(plan, key=lambda e: ("near far".index(e.split), plan.index(e)))
    assert [e.id for e in suite.plan(["far"], ["up"], 2)] == ["pointmass/far/up/0/s3/r0", "pointmass/far/up/1/s3/r0"]
    assert suite.plan(tasks=["up"], episodes=1)[0].split == "far"
    assert [e.task for e in suite.plan(["near", "far"], ["1"], 1)] == ["right", "down"]
    assert [e.repeat for e in suite.plan(["far"], ["up"], 1, repeats=3)] == [0, 1, 2]
    assert len(suite.plan(["near", "near"], ["left", "left"], 1)) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((["nearr"],), "unknown split 'nearr': did you mean near"),
        (([], ["lefft"]), "unknown task 'lefft': did you mean left"),
        ((["far"], ["left"]), "unknown task 'left': there are: up, down"),
        (([], ["7"]), "unknown task '7'"),
        (([], [], 21), "1 to 20 scenes"),
        (([], [], 0), "1 to 20 scenes"),
    ],
)
def test_names_that_do_not_exist_are_refused_with_the_nearest(pointmass: str, arguments: tuple, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        load_suite(pointmass).plan(*arguments)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seed": "seven"}, "suite.yaml: seed: "),
        ({"episodes": 99}, "episodes: 99 is more than the 20 scenes"),
        (
            {"action": {"size": 2, "low": -1, "high": 1, "out_of_bounds": "wrap", "description": []}},
            "action.out_of_bounds: ",
        ),
        ({"video": {"camera": "side", "fps": 3}}, "video.camera: unknown camera 'side': there are: above"),
        ({"headline": None}, "headline: is missing"),
        ({"oracle": ["neer"]}, "oracle: unknown split 'neer': did you mean near"),
        ({"splits": 3}, "suite.yaml: splits: must be a mapping"),
        ({"splits": {"near": 3, "far": 3, "cursed": 3}}, "suite.yaml: splits.cursed: must be a mapping"),
        ({"seed": 2**40}, "seed: Input should be less than"),
        ({"name": "../../up"}, "name: String should match"),
        (
            {"action": {"size": 2, "low": 1, "high": -1, "out_of_bounds": "clip", "description": []}},
            "must be below high",
        ),
        (
            {"action": {"size": 2, "low": -1, "high": float("inf"), "out_of_bounds": "clip", "description": []}},
            "finite number",
        ),
        ({"splits": {"near": {"max_steps": 30}}}, "tasks.yaml: unknown split 'far'"),
    ],
)
def test_a_broken_suite_names_the_file_and_the_field(
    pointmass: str, tmp_path: Path, changes: dict, message: str
) -> None:
    with pytest.raises(UsageError, match=message) as error:
        load_suite(broken(pointmass, tmp_path, **changes))
    assert "yaml" in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("text", ["a: [1, 2", "just words", "\t- x", "- 1\n- 2", ""])
def test_broken_yaml_names_the_file(tmp_path: Path, text: str) -> None:
    (tmp_path / "suite.yaml").write_text(text)
    with pytest.raises(UsageError, match=r"suite\.yaml"):
        load_suite(str(tmp_path))


def spelled(pointmass: str, tmp_path: Path, old: str, new: str) -> str:
    """The point mass with one piece of suite.yaml written otherwise."""
    text = (Path(pointmass) / "suite.yaml").read_text()
    assert old in text
    (tmp_path / "suite.yaml").write_text(text.replace(old, new, 1))
    (tmp_path / "tasks.yaml").write_text((Path(pointmass) / "tasks.yaml").read_text())
    return str(tmp_path)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "far: {max_steps: 60}",
            "far: {max_steps: 60, repeat: 3}",
            "splits.far.repeat: unknown key; did you mean 'repeats'? The adapter's own settings go under 'adapter'.",
        ),
        (
            "size: 2, description",
            "sice: 2, description",
            "state.position.sice: unknown key; did you mean 'size'? (and 1 more)",
        ),
        ("hold_last: [1]", "hold_lst: [1]", "action.hold_lst: unknown key; did you mean 'hold_last'?"),
        (
            "headline: {name",
            "headlines: {name",
            "headlines: unknown key; did you mean 'headline'? The adapter's own settings go under 'adapter'. (and 1 "
            "more)",
        ),
        (
            "video: {camera: above",
            "video: {lens: above",
            "video.lens: unknown key; known here: camera, fps (and 1 more)",
        ),
        (
            "versions: [numpy]",
            "versions: [numpy], colour: 1",
            "environment.colour: unknown key; known here: versions, python, gl",
        ),
    ],
)
def test_an_unknown_key_is_refused_with_the_nearest_of_its_section(
    pointmass: str, tmp_path: Path, old: str, new: str, message: str
) -> None:
    with pytest.raises(UsageError) as error:
        load_suite(spelled(pointmass, tmp_path, old, new))
    assert str(error.value) == f"{tmp_path / 'suite.yaml'}: {message}"


def test_an_adapters_own_keys_live_under_one_key(pointmass: str, tmp_path: Path) -> None:
    own = "far: {max_steps: 60, adapter: {friction: 0.5}}"
    suite = load_suite(spelled(pointmass, tmp_path, "far: {max_steps: 60}", own))
    setup = Setup(suite.to_message())
    assert setup.split_settings("far") == {"friction": 0.5} and setup.split_settings("near") == {}
    assert setup.settings == {} and load_suite("libero").adapter["waiting_steps"] == 10


def test_tasks_stand_in_one_file_and_a_fault_names_that_file(pointmass: str, tmp_path: Path) -> None:
    both = spelled(pointmass, tmp_path, "far: {max_steps: 60}", "far: {max_steps: 60, tasks: {up: go up}}")
    with pytest.raises(UsageError, match=r"tasks\.yaml: far: suite\.yaml also has tasks of this split"):
        load_suite(both)
    text = (tmp_path / "tasks.yaml").read_text()
    (tmp_path / "tasks.yaml").write_text(text.replace("neer:", "near:").replace("near:", "neer:"))
    with pytest.raises(UsageError, match=r"tasks\.yaml: unknown split 'neer': did you mean near\?"):
        load_suite(both)
    (tmp_path / "tasks.yaml").write_text("near: [left, right]\n")
    with pytest.raises(UsageError, match=r"tasks\.yaml: near: must be a mapping of names to values"):
        load_suite(both)


def changed(value: Any, path: tuple[str, ...]) -> Any:
    """Plain data with another value at ``path``."""
    return {**value, path[0]: changed(value[path[0]], path[1:])} if path else [value]


@pytest.mark.parametrize(
    "path",
    [
        ("seed",),
        ("control_hz",),
        ("chain",),
        ("action", "low"),
        ("action", "out_of_bounds"),
        ("state", "position", "size"),
        ("cameras", "above", "width"),
        ("splits", "near", "max_steps"),
        ("splits", "near", "tasks", "left"),
        ("splits", "near", "adapter"),
        ("environment", "versions"),
        ("adapter",),
    ],
)
def test_every_rule_is_part_of_the_protocol(pointmass: str, path: tuple[str, ...]) -> None:
    suite = load_suite(pointmass).to_message()
    assert protocol(changed(suite, path)) != protocol(suite)


@pytest.mark.parametrize(
    "path",
    [
        *[("title",), ("summary",), ("source",), ("default",), ("headline",), ("video",), ("oracle",), ("episodes",)],
        *[("scenes",), ("sources",), ("action", "description"), ("cameras", "above", "description")],
    ],
)
def test_names_descriptions_and_defaults_are_no_part_of_the_protocol(pointmass: str, path: tuple[str, ...]) -> None:
    suite = load_suite(pointmass).to_message()
    assert protocol(changed(suite, path)) == protocol(suite)


def test_a_description_in_the_adapters_section_is_no_part_of_the_protocol(pointmass: str) -> None:
    suite = load_suite(pointmass).to_message()
    assert protocol({**suite, "adapter": {"a": {"description": "x", "b": 1}}})["adapter"] == {"a": {"b": 1}}


def test_a_folder_without_a_separator_is_recognised(
    pointmass: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(pointmass, tmp_path / "my-suite")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        UsageError, match=r"unknown suite 'my-suite': there is a folder my-suite here: write \./my-suite"
    ):
        load_suite("my-suite")
    assert load_suite("./my-suite").name == "pointmass"


def test_an_unknown_suite_is_refused_with_the_nearest() -> None:
    with pytest.raises(UsageError, match="did you mean metaworld"):
        load_suite("meta-world")
    with pytest.raises(UsageError, match=r"no suite\.yaml there"):
        load_suite("/no/such/folder")


def test_the_digest_changes_with_protocol_and_code(pointmass: str, tmp_path: Path) -> None:
    folder = Path(broken(pointmass, tmp_path))
    before = suite_digest(folder)
    (folder / "adapter.py").write_text("# other code\n")
    assert suite_digest(folder) != before
