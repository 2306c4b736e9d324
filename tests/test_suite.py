from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from evalkit.errors import UsageError
from evalkit.locations import suite_folders
from evalkit.suite import load_suite, suite_digest


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
        ({"colour": {"a": 1}, "episodes": 99}, "episodes: 99 is more than the 20 scenes"),
        (
            {"action": {"size": 2, "low": -1, "high": 1, "out_of_bounds": "wrap", "description": []}},
            "action.out_of_bounds: ",
        ),
        ({"video": {"camera": "side", "fps": 3}}, "no camera 'side'"),
        ({"headline": None}, "headline: is missing"),
        ({"oracle": ["middle"]}, "no split 'middle'"),
        ({"splits": 3}, "split 'near' is not in suite.yaml"),
        ({"seed": 2**70}, "seed: Input should be less than"),
        ({"name": "../../up"}, "name: String should match"),
        (
            {"action": {"size": 2, "low": 1, "high": -1, "out_of_bounds": "clip", "description": []}},
            "must be below high",
        ),
        (
            {"action": {"size": 2, "low": -1, "high": float("inf"), "out_of_bounds": "clip", "description": []}},
            "finite number",
        ),
        ({"splits": {"near": {"max_steps": 30}}}, "split 'far' is not in suite.yaml"),
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
